"""A sweep whose processes are killed for real: the trials, promotions and digests of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest
from temporalio.service import RPCError

from durabert.chaos import Plan
from durabert.client import Client
from durabert.client.status import pending_progress
from durabert.client.sweeps import RunningSweep
from durabert.engine.home import EngineInfo, Home
from durabert.specs import CheckpointPolicy, DataSpec, FineTuneConfig, Parameter, SweepResult, SweepSpec
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import open_store
from tests.chaos.training import CONFIG
from tests.real import alive, until
from tests.shell import Shell, write_reviews


def sweep_of(data: Path, model: Path, *, trials: int, epochs: int, min_epochs: int = 1) -> SweepSpec:
    return SweepSpec(
        name="hunted",
        data=DataSpec(source=str(data)),
        config=FineTuneConfig.parse({**CONFIG, "model": str(model), "epochs": epochs}),
        space={
            "learning_rate": Parameter(log_uniform=(1e-5, 1e-2)),
            "batch_size": Parameter(choice=(8, 16)),
        },
        algorithm="tpe",
        stopping="asha",
        min_epochs=min_epochs,
        trials=trials,
        concurrency=2,
        checkpoints=CheckpointPolicy(every_steps=10),
    )


def decided(result: SweepResult) -> list[tuple]:
    return [
        (one.number, one.status, one.params, one.values, one.model_sha256, one.state_sha256)
        for one in result.trials
    ]


def checkpoints_made_twice(home: Path, result: SweepResult) -> int:
    """Return how many checkpoints of one place in a training were committed besides the first."""
    twice = 0
    for trial in result.trials:
        record = RunCheckpoints(open_store(None, home=home), f"hunted.{trial.number}").journal.read()
        states = Counter(entry.body["state_sha256"] for entry in record.of_kind("checkpoint"))
        twice += sum(count - 1 for count in states.values())
    return twice


async def test_a_sweep_whose_processes_are_killed_decides_as_an_undisturbed_one(
    client, start_worker, reviews, tiny, home, tmp_path
):
    spec = sweep_of(reviews, tiny, trials=3, epochs=3)
    faults = Plan(tmp_path / "faults")
    faults.add("phase.training", "kill")
    faults.add("checkpoint.committed", "kill", nth=2)
    faults.add("phase.validating", "kill", nth=1)
    start_worker("--slots", "2", environment=faults.environment())

    result = await (await client.start_sweep(spec)).result()
    struck = faults.num_struck()
    # Every fault strikes once.
    calm = await client.start_sweep(spec.model_copy(update={"name": "calm"}))
    undisturbed = await calm.result()

    assert struck == len(faults.faults), "every kill has hit"
    assert decided(result) == decided(undisturbed)
    assert result.best == undisturbed.best
    assert checkpoints_made_twice(home, result) == 0


VICTIMS = ("trainer", "worker", "client", "server", "trainer", "host", "client", "worker")


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_whatever_is_killed_a_sweep_decides_as_an_undisturbed_one(tmp_path, tiny):
    reviews = write_reviews(tmp_path / "reviews.csv")
    spec = sweep_of(reviews, tiny, trials=12, epochs=180, min_epochs=20)
    space = tmp_path / "space.toml"
    space.write_text(toml_of(spec))
    home = tmp_path / "home"
    shell = Shell(home, tmp_path)
    command = ("sweep", reviews, "--space", space, "--name", spec.name)
    clients = [shell.start(*command)]

    try:
        async with Client.connect(home=home) as client:
            sweep = await _begun(client, spec.name)
            for number, victim in enumerate(VICTIMS):
                trainer, engine = await _training(client, home, sweep, begun=1 + 3 * number // 2)
                assert clients[-1].poll() is None, "it follows the sweep"
                pid = {
                    "trainer": trainer,
                    "worker": engine.worker_pid,
                    "server": engine.server_pid,
                    "host": engine.host_pid,
                    "client": clients[-1].pid,
                }[victim]
                os.kill(pid, signal.SIGKILL)
                if victim == "client":
                    clients.append(shell.start(*command))
            result = await sweep.result()
            told, problems = clients[-1].communicate(timeout=60)
            calm = await client.start_sweep(spec.model_copy(update={"name": "calm"}))
            undisturbed = await calm.result()
    finally:
        for follower in clients:
            follower.kill()
            # Waits for it and closes its pipes.
            with follower:
                pass

    assert [follower.returncode for follower in clients] == [-signal.SIGKILL, -signal.SIGKILL, 0], problems
    assert "hunted is completed: 12 trials" in told
    assert len(undisturbed.trials) == 12
    assert decided(result) == decided(undisturbed)
    assert result.best == undisturbed.best
    assert checkpoints_made_twice(home, result) == 0


def toml_of(spec: SweepSpec) -> str:
    """Write a sweep as a user does."""
    shared = spec.config.model_dump(include=CONFIG.keys() | {"model"}, exclude=spec.space.keys())
    fields = spec.model_dump(include={"algorithm", "stopping", "min_epochs", "trials", "concurrency"})
    space = {name: one.model_dump(mode="json", exclude_defaults=True) for name, one in spec.space.items()}
    tables = {
        "defaults": shared,
        "checkpoints": spec.checkpoints.model_dump(exclude_defaults=True),
        **{f"space.{name}": one for name, one in space.items()},
    }
    lines = _assignments(fields)
    for name, table in tables.items():
        lines += [f"[{name}]", *_assignments(table)]
    return "\n".join(lines)


def _assignments(fields: Mapping[str, object]) -> list[str]:
    return [f"{name} = {json.dumps(value)}" for name, value in fields.items()]


async def _begun(client: Client, name: str) -> RunningSweep:
    found: list[RunningSweep] = []

    async def there() -> bool:
        sweep = await client.sweep(name)
        if sweep is not None:
            found.append(sweep)
        return sweep is not None

    await until(there, seconds=60, what=f"{name} is begun")
    return found[-1]


async def _training(client: Client, home: Path, sweep: RunningSweep, *, begun: int) -> tuple[int, EngineInfo]:
    """Wait until so many trials have begun and one trains; return its process, and those of the engine."""
    found: list[tuple[int, EngineInfo]] = []

    async def trains() -> bool:
        view = await sweep.view()
        assert not view.is_over, "it ended before all were killed"
        engine = Home(home).read_info()
        if (
            len(view.trials) < begun
            or engine is None
            or engine.worker_pid is None
            or not alive(engine.worker_pid)
        ):
            return False
        for trial in view.trials[::-1]:
            if trial.status == "running":
                run = client.temporal.get_workflow_handle(f"{sweep.name}.{trial.number}")
                try:
                    progress = pending_progress(await run.describe())
                except RPCError:
                    # The sweep has decided on it, and the server has not begun it yet, or is being restarted.
                    return False
                if progress is not None and progress.process_id and alive(progress.process_id):
                    found.append((progress.process_id, engine))
                    return True
        return False

    await until(trains, seconds=150, what=f"trial {begun} has begun and one trains")
    return found[-1]
