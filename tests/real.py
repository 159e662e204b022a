"""Real engines, workers and runs for tests, and how to wait for them without sleeping blindly."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from durabert.client import Client, RunView
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig
from tests.shell import DURABERT

LONG = {"epochs": 1000, "batch_size": 4, "max_length": 32, "device": "cpu"}
"""A training that does not end by itself within a test."""

SHORT = {"epochs": 2, "batch_size": 16, "max_length": 32, "learning_rate": 5e-3, "device": "cpu"}


def spec_for(name: str, data: Path, model: Path, **config) -> ExperimentSpec:
    return ExperimentSpec(
        name=name, data=DataSpec(source=str(data)), runs=(FineTuneConfig(model=str(model), **config),)
    )


async def until(condition: Callable[[], Awaitable[object]], *, seconds: float, what: str) -> float:
    """Wait until the condition is true, at most so long; return the seconds that it took."""
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > seconds:
            raise TimeoutError(f"{what}: not within {seconds} s")
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def training(client: Client, run: str, *, attempt: int = 1, seconds: float = 60) -> RunView:
    """Wait until a run makes steps in the given attempt, or a later one, and return what is then so."""
    view: RunView | None = None

    async def makes_steps() -> bool:
        nonlocal view
        view = await client.run_status(run)
        assert not view.ended, view
        progress = view.progress
        return (
            view.attempts >= attempt
            and progress is not None
            and progress.phase == "training"
            and progress.step > 0
        )

    await until(makes_steps, seconds=seconds, what=f"{run} trains in attempt {attempt}")
    assert view is not None
    return view


def alive(pid: int) -> bool:
    """Whether a process is there and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


class WorkerProcess:
    """A worker of its own, as ``durabert worker`` starts it."""

    def __init__(
        self, address: str, home: Path, log: Path, *options: str, environment: dict[str, str] | None = None
    ) -> None:
        environment = {
            **os.environ, "TEMPORAL_ADDRESS": address, "DURABERT_HOME": str(home), **(environment or {}),
        }  # fmt: skip
        self._log = log.open("ab")
        self.process = subprocess.Popen(
            [DURABERT, "worker", *options],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    async def until_it_works(self) -> None:
        """Wait until it takes what its task queues have."""

        async def says_so() -> bool:
            return b"Task queues" in Path(self._log.name).read_bytes()

        await until(says_so, seconds=60, what=f"worker {self.pid} works")

    def stop(self) -> int:
        """End it by its id, gently if it can be, and return its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._log.close()
        return code
