"""A thousand trials, eight at a time, whose training is a stub: durabert, Optuna on SQLite, Ray Tune.

Both choose by TPE; durabert on a server of its own with a worker process, Optuna in eight
threads of one process, which is what its storage is used with on one machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.sweep_score import CONCURRENCY, STUB_SECONDS, TRIALS, score
from durabert.client import Client
from durabert.client.running import ContinuedJob
from durabert.connection import TaskQueues, connect, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from durabert.specs import DataSpec, FineTuneConfig, Parameter, SweepSpec

RAY_PYTHON = "RAY_PYTHON"
"""Variable with an interpreter whose environment has ``ray[tune]`` and Optuna; without it Ray is left out."""


SPACE = {
    "learning_rate": Parameter(log_uniform=(1e-6, 1e-2)),
    "weight_decay": Parameter(uniform=(0.0, 0.3)),
    "batch_size": Parameter(choice=(8, 16, 32)),
}


def measure() -> dict[str, object]:
    """Seconds of all trials, what a trial costs besides its training, and the size of the histories."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        figures: dict[str, object] = {
            "trials": TRIALS,
            "concurrency": CONCURRENCY,
            "stub_seconds": STUB_SECONDS,
            "least_seconds": TRIALS * STUB_SECONDS / CONCURRENCY,
        }
        figures["durabert"] = asyncio.run(_durabert(root))
        figures["optuna_sqlite"] = _optuna(root)
        if RAY_PYTHON in os.environ:
            figures["ray_tune"] = _ray(root)
    return figures


async def _durabert(root: Path) -> dict[str, object]:
    async with served(root) as client:
        began = time.perf_counter()
        sweep = await client.start_sweep(_spec("sweep"))
        result = await sweep.result()
        seconds = time.perf_counter() - began
        assert len(result.trials) == TRIALS, len(result.trials)
        assert result.best is not None
        events = await lengths(client, sweep)
        best = max(result.trials[result.best - 1].values)
    return {
        **_figures(seconds, best),
        "executions": len(events),
        "longest_history": max(events),
        "events_a_trial": round(sum(events) / TRIALS, 1),
    }


@asynccontextmanager
async def served(root: Path) -> AsyncIterator[Client]:
    """Have a server of its own with a worker whose training is a stub."""
    queue = "sweep"
    engine = Engine.attach(root / "home", worker=False, search_attributes=SEARCH_ATTRIBUTES)
    try:
        temporal = await connect(plain_profile(engine.info.address))
        with _worker(engine.info.address, root, queue):
            yield Client(temporal, queues=TaskQueues(train=queue, inference=queue), engine=engine)
    finally:
        engine.close()


def _spec(name: str) -> SweepSpec:
    return SweepSpec(
        name=name,
        data=DataSpec(source="stub.csv"),
        config=FineTuneConfig(epochs=1),
        space=SPACE,
        trials=TRIALS,
        concurrency=CONCURRENCY,
    )


async def lengths(client: Client, sweep: ContinuedJob[Any]) -> list[int]:
    """Return the number of events of every execution of a sweep."""
    events = []
    description = await sweep.handle.describe()
    run_id = description.raw_description.workflow_execution_info.first_run_id
    while run_id:
        history = await client.temporal.get_workflow_handle(sweep.name, run_id=run_id).fetch_history()
        events.append(len(history.events))
        last = history.events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return events


@contextmanager
def _worker(address: str, root: Path, queue: str) -> Iterator[None]:
    command = [sys.executable, "-m", "benchmarks.sweep_stub", address, str(root), queue]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (root / "worker.log").open("ab") as log:
        worker = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        worker.terminate()
        worker.wait(60)


def _optuna(root: Path) -> dict[str, object]:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)

    def objective(trial: optuna.Trial) -> float:
        rate = trial.suggest_float("learning_rate", 1e-6, 1e-2, log=True)
        decay = trial.suggest_float("weight_decay", 0.0, 0.3)
        batch = trial.suggest_categorical("batch_size", (8, 16, 32))
        time.sleep(STUB_SECONDS)
        return score(rate, decay, batch)

    study = optuna.create_study(
        storage=f"sqlite:///{root / 'optuna.db'}",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=42),
    )
    began = time.perf_counter()
    study.optimize(objective, n_trials=TRIALS, n_jobs=CONCURRENCY)
    return _figures(time.perf_counter() - began, study.best_value)


def _ray(root: Path) -> dict[str, object]:
    command = [os.environ[RAY_PYTHON], "-m", "benchmarks.sweep_ray"]
    environment = {**os.environ, "PYTHONPATH": "", "HOME": str(root)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    told = json.loads(done.stdout.splitlines()[-1])
    return _figures(told["seconds"], told["best"])


def _figures(seconds: float, best: float) -> dict[str, object]:
    print(f"{seconds:.1f} s", file=sys.stderr, flush=True)
    besides = (seconds * CONCURRENCY / TRIALS - STUB_SECONDS) * 1000
    return {"seconds": round(seconds, 1), "besides_ms_a_trial": round(besides), "best": round(best, 4)}
