"""A new worker, cancel, a killed trainer, a killed worker: how long until what was promised is so."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from tests.real import WorkerProcess, alive, training

from benchmarks.figures import summary
from durabert.activities.heartbeats import BRISK_BEATS, BRISK_SECONDS
from durabert.client import Client
from durabert.connection import TaskQueues, connect, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig

if TYPE_CHECKING:
    from collections.abc import Callable

REPEATS = 5
DATA = DataSpec(source=str(files("durabert.demo") / "reviews"))
CONFIG = FineTuneConfig(epochs=100)
CALM = BRISK_BEATS * BRISK_SECONDS
"""Seconds after which a run sends few heartbeats."""


def measure() -> dict[str, object]:
    """Seconds, with minilm, heartbeat time-out 30 s."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        engine = Engine.attach(root / "engine", worker=False, search_attributes=SEARCH_ATTRIBUTES)
        workers: list[WorkerProcess] = []
        try:
            temporal = await connect(plain_profile(engine.info.address))
            client = Client(temporal, queues=TaskQueues())
            start = lambda: workers.append(WorkerProcess(engine.info.address, root / "home", root / "log"))  # noqa: E731
            begun = [await _start_worker(client, f"begun-{n}", start, workers) for n in range(REPEATS)]
            start()
            cancelled = [await _cancel(client, f"cancel-{n}") for n in range(REPEATS)]
            later = [await _cancel(client, f"later-{n}", after=CALM) for n in range(REPEATS)]
            killed = [await _kill_trainer(client, f"trainer-{n}") for n in range(REPEATS)]
            start()
            lost = await _kill_worker(client, "worker", workers)
        finally:
            for worker in workers:
                worker.stop()
            engine.close()
    return {
        "worker_started_training_seconds": summary(begun),
        "cancel_confirmed_and_process_gone_seconds": summary([sample[0] for sample in cancelled]),
        "later_cancel_confirmed_and_process_gone_seconds": summary([sample[0] for sample in later]),
        "step_seconds": summary([sample[1] for sample in cancelled]),
        "trainer_killed_training_again_seconds": summary(killed),
        "worker_killed_training_again_seconds": round(lost, 2),
    }


async def _begin(client: Client, name: str) -> int:
    await client.start(ExperimentSpec(name=name, data=DATA, runs=(CONFIG,)))
    view = await training(client, name)
    assert view.progress is not None
    assert view.progress.process_id is not None
    return view.progress.process_id


async def _start_worker(
    client: Client, name: str, start: Callable[[], None], workers: list[WorkerProcess]
) -> float:
    """Return the seconds from the start of a worker, for which a run waits, until the run makes steps."""
    await client.start(ExperimentSpec(name=name, data=DATA, runs=(CONFIG,)))
    began = time.perf_counter()
    start()
    await training(client, name)
    seconds = time.perf_counter() - began
    await client.cancel(name)
    workers.pop().stop()
    return seconds


async def _cancel(client: Client, name: str, *, after: float = 0.0) -> tuple[float, float]:
    pid = await _begin(client, name)
    await asyncio.sleep(after)
    rate = (await client.run_status(name)).progress.examples_per_second
    began = time.perf_counter()
    await client.cancel(name)
    seconds = time.perf_counter() - began
    assert not alive(pid)
    return seconds, CONFIG.batch_size / rate


async def _kill_trainer(client: Client, name: str) -> float:
    pid = await _begin(client, name)
    os.kill(pid, signal.SIGKILL)
    began = time.perf_counter()
    await training(client, name, attempt=2)
    seconds = time.perf_counter() - began
    await client.cancel(name)
    return seconds


async def _kill_worker(client: Client, name: str, workers: list[WorkerProcess]) -> float:
    await _begin(client, name)
    owner = (await client.run_status(name)).worker or ""
    victim = next(worker for worker in workers if owner.startswith(f"{worker.pid}@"))
    os.kill(victim.pid, signal.SIGKILL)
    began = time.perf_counter()
    await training(client, name, attempt=2, seconds=90)
    seconds = time.perf_counter() - began
    await client.cancel(name)
    return seconds
