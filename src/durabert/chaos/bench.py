"""What a scenario works with: an engine, workers that can be killed, faults inside their processes, a run."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Final, TypeAlias

from durabert.client import Client, ExperimentView, RunView
from durabert.connection import TaskQueues
from durabert.errors import EngineUnavailable
from durabert.faults import VARIABLE
from durabert.specs import CheckpointPolicy, DataSpec, ExperimentSpec, FineTuneConfig
from durabert.store.location import STORE_VARIABLE

POLL: Final = 0.05
LIMIT: Final = 180.0
"""Seconds that anything may take; the longest wait is the heartbeat time-out of 30 s."""
CHECKPOINT_STEPS: Final = 5
NUM_ROWS: Final = 160

Show: TypeAlias = Callable[[ExperimentView], None]


@dataclass
class Plan:
    """Faults inside training processes, and the proof that they struck."""

    directory: Path
    faults: list[dict[str, Any]] = field(default_factory=list)

    def add(self, at: str, do: str, *, nth: int = 1, times: int = 1, when: object | None = None) -> Path:
        """Plan a fault and return the file that appears when it strikes.

        Args:
            at: place in the code, see ``durabert.faults``.
            do: what happens there.
            nth: from which time on that a process is at the place.
            times: how often, over all processes.
            when: detail, such as a step, without which it does not happen; none: any.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        mark = self.directory / f"fault-{len(self.faults)}"
        fault = {"at": at, "do": do, "nth": nth, "times": times, "mark": str(mark)}
        self.faults.append(fault if when is None else {**fault, "when": str(when)})
        return Path(f"{mark}.0")

    def environment(self) -> dict[str, str]:
        """Return what a worker must have in its environment for the faults to strike in its processes."""
        return {VARIABLE: json.dumps(self.faults)} if self.faults else {}

    def steps(self) -> list[int]:
        """Return the steps that were done when each fault struck, in order, where it struck in a step."""
        marks = [Path(f"{fault['mark']}.0") for fault in self.faults]
        there = sorted((mark for mark in marks if mark.exists()), key=lambda mark: mark.stat().st_mtime_ns)
        return [int(text) for mark in there if (text := mark.read_text())]

    def num_struck(self) -> int:
        """Return how many of the faults have struck."""
        return sum(Path(f"{fault['mark']}.0").exists() for fault in self.faults)


class Bench:
    """One engine and the workers of all scenarios, below one directory.

    Args:
        client: of an engine without a worker of its own.
        root: directory for homes, logs and the store.
        config: the training.
    """

    def __init__(self, client: Client, root: Path, config: FineTuneConfig) -> None:
        self.client = client
        self.root = root
        self.store = root / "store"
        self.home = root / "home"
        self._config = config
        self._workers: list[subprocess.Popen[bytes]] = []
        self._data = _write_reviews(root / "reviews.csv")

    @classmethod
    @asynccontextmanager
    async def open(cls, root: Path, config: FineTuneConfig) -> AsyncIterator[Bench]:
        """Start an engine; at the end it is gone, and every worker."""
        async with Client.connect(home=root / "engine", worker=False) as client:
            bench = cls(client, root, config)
            try:
                yield bench
            finally:
                bench.stop_workers()

    def plan(self, name: str) -> Plan:
        """Return an empty plan of faults for a scenario."""
        return Plan(self.root / "faults" / name)

    async def start(self, run: str) -> None:
        """Start the training under a name, on a task queue of its own."""
        spec = ExperimentSpec(
            name=run,
            data=DataSpec(source=str(self._data)),
            runs=(self._config,),
            checkpoints=CheckpointPolicy(every_steps=CHECKPOINT_STEPS),
        )
        queues = TaskQueues(train=run, inference=run)
        await Client(self.client.temporal, queues=queues, engine=self.client.engine).start(spec)

    def start_worker(
        self, run: str, plan: Plan | None = None, *, home: Path | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker for the queue of a run, with faults in its processes."""
        assert self.client.engine is not None
        environment = {
            **os.environ,
            "TEMPORAL_ADDRESS": self.client.engine.info.address,
            "DURABERT_HOME": str(home or self.home),
            STORE_VARIABLE: str(self.store),
            **(plan.environment() if plan else {}),
        }
        command = [sys.executable, "-P", "-m", "durabert", "worker", "--train-queue", run]
        with (self.root / "workers.log").open("ab") as log:
            worker = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._workers.append(worker)
        return worker

    def stop_workers(self) -> None:
        """End every worker that lives, by its id."""
        for worker in self._workers:
            if worker.poll() is None:
                worker.kill()
                worker.wait()
        self._workers.clear()

    async def watch(self, run: str, show: Show) -> RunView:
        """Show what is so of a run, again and again, until it has ended; return the last of it."""
        view = None
        async for view in self.client.watch(run):
            show(view)
        assert view is not None
        return view.runs[0]

    async def attempt(self, run: str, number: int) -> float:
        """Wait until a run makes steps in an attempt, or has ended; return the seconds that it took."""

        async def there() -> bool:
            view = await self.client.run_status(run)
            progress = view.progress
            steps = progress is not None and progress.phase == "training" and progress.step > 0
            return view.ended or (view.attempts >= number and steps)

        return await until(there, f"{run} trains in attempt {number}")


async def until(condition: Callable[[], Awaitable[object]], what: str) -> float:
    """Wait for a condition and return the seconds that it took.

    Raises:
        EngineUnavailable: it did not become true in time.
    """
    began = time.monotonic()
    while not await condition():
        if time.monotonic() - began > LIMIT:
            raise EngineUnavailable(f"chaos: {what}: not within {LIMIT:g} s")
        await asyncio.sleep(POLL)
    return time.monotonic() - began


async def struck(mark: Path) -> None:
    """Wait until a fault has struck."""

    async def there() -> bool:
        return mark.exists()

    await until(there, f"the fault {mark.name} strikes")


def _write_reviews(file: Path) -> Path:
    text = (files("durabert.demo") / "reviews" / "train.csv").read_text(encoding="utf-8")
    header, *rows = list(csv.reader(io.StringIO(text)))
    chosen = random.Random(0).sample(rows, NUM_ROWS)  # noqa: S311 - no secret
    with file.open("w", encoding="utf-8", newline="") as target:
        csv.writer(target).writerows([header, *chosen])
    return file
