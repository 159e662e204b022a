"""What checkpoints and Temporal cost over the bare loop, in a training of some minutes, pair by pair.

Both sides of a pair are there at once, and in turn the training process of one of them is frozen while the
other works for some seconds: a machine that is faster in one minute than in the next favours neither. What
counts is the time in which a side was not frozen. Checkpoints are asked for by steps, about one in
``CHECKPOINT_SECONDS`` of work, since their usual interval would go by the clock, which does not stop.

Server, worker and host are not frozen while the bare loop works, as they would have much to catch up with, so
they slow that down, too. How much is measured by itself: a process that makes the same steps, while a run is
there whose own training is frozen, and in turn the engine is frozen and not. By so much the bare loop counts
as faster than it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import mmap
import os
import signal
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks import training
from benchmarks.figures import summary
from durabert.bert.batches import BatchOrder
from durabert.bert.data import load_training_data
from durabert.bert.loop import fine_tune
from durabert.client import Client
from durabert.engine.home import Home
from durabert.specs import CheckpointPolicy, DataSpec, ExperimentSpec, FineTuneConfig

PAIRS = 5
SLICE = 10.0
"""Seconds that a side works before it is the other's turn."""
WARM_UP_STEPS = 50
LAST_STEP = struct.Struct("<Qd")
"""Tokens up to there, and when it ended by the clock of all processes."""
DRAG_TURNS, DRAG_SLICE = 60, 2.0
"""Times that the engine is frozen and not, and seconds of each."""
STANDARD_ERROR = 1.2533 * 1.4826
"""Of a median, times the square root of the number, over the median deviation, where errors are normal."""
CHECKPOINT_SECONDS = 60.0
TRAINING_SECONDS = 180.0
DATA = DataSpec(source=str(files("durabert.demo") / "reviews"))
STEPS_OF_AN_EPOCH = 63
ROWS, STEP = 1_000_000, 1_000_000


def measure() -> dict[str, object]:
    """Seconds of a run with checkpoints over those of the bare loop, and of finding step 1,000,000."""
    return {**asyncio.run(_overhead()), "place_of_step_1000000_seconds": _place()}


async def _overhead() -> dict[str, object]:
    bare, durable, standstill = [], [], []
    with tempfile.TemporaryDirectory() as home:
        async with Client.connect(home=Path(home)) as client:
            seconds_of_epoch = await _warm_up(client)
            epochs = round(TRAINING_SECONDS / seconds_of_epoch)
            every = round(STEPS_OF_AN_EPOCH * CHECKPOINT_SECONDS / seconds_of_epoch)
            for number in range(PAIRS):
                durable_side = _Durable(client, Path(home), f"pair-{number}", epochs, every)
                sides = [await _Bare.begin(epochs), durable_side]
                try:
                    # In turn, as the first one has the machine alone when the other has ended.
                    await _alternate(sides if number % 2 else sides[::-1])
                finally:
                    sides[0].end()
                bare.append(sides[0].seconds)
                durable.append(sides[1].seconds)
                standstill.append(sides[1].standstill)
                print(
                    f"pair {number + 1}: {bare[-1]:.2f} s, {durable[-1]:.2f} s", file=sys.stderr, flush=True
                )
            drags = await _drags(client, Path(home))
    # The middle one: a machine that is taken away for a second is half a turn.
    drag = statistics.median(drags)
    deviation = statistics.median(abs(one - drag) for one in drags)
    ratios = [b / (a * (1 - drag)) for a, b in zip(bare, durable, strict=True)]
    return {
        "bare_seconds": summary(bare),
        "durable_seconds": summary(durable),
        "engine_slows_the_bare_loop_by": round(drag, 4),
        "standard_error_of_it": round(STANDARD_ERROR * deviation / len(drags) ** 0.5, 4),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "difference_seconds": summary([b - a for a, b in zip(bare, durable, strict=True)]),
        "standstill_seconds": summary(standstill),
        "epochs": epochs,
        "steps_between_checkpoints": every,
    }


async def _drags(client: Client, home: Path) -> list[float]:
    """Return by which share an engine with a run slows other steps down, turn by turn."""
    run = _Durable(client, home, "drag", epochs=1000, every=100_000)
    with tempfile.TemporaryDirectory() as directory:
        count = Path(directory) / "steps"
        count.write_bytes(bytes(LAST_STEP.size))
        steps = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.durability", "steps", str(count), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert await steps.stdout.readline() == b"ready\n"
            await client.start(run.spec)
            async for view in client.watch("drag"):
                if view.runs[0].progress is not None and view.runs[0].progress.step:
                    break
            frozen = run.processes()
            _signal(frozen, signal.SIGSTOP)
            drags = [await _drag(run.engine(), count, first=number % 2 == 0) for number in range(DRAG_TURNS)]
            _signal(frozen, signal.SIGCONT)
            await client.cancel("drag")
        finally:
            steps.kill()
    return drags


async def _drag(engine: list[int], count: Path, *, first: bool) -> float:
    """Return one minus the tokens a second with a live engine over those with a frozen one."""
    speeds = {}
    for frozen in (first, not first):
        if frozen:
            _signal(engine, signal.SIGSTOP)
        try:
            before, began = LAST_STEP.unpack(count.read_bytes())
            await asyncio.sleep(DRAG_SLICE)
            after, ended = LAST_STEP.unpack(count.read_bytes())
        finally:
            _signal(engine, signal.SIGCONT)
        speeds[frozen] = (after - before) / (ended - began)
    return 1 - speeds[False] / speeds[True]


async def _warm_up(client: Client) -> float:
    config = FineTuneConfig(epochs=3)
    await client.start(ExperimentSpec(name="warm-up", data=DATA, runs=(config,)))
    result = (await client.wait("warm-up")).runs[0].result
    assert result is not None
    assert result.steps == 3 * STEPS_OF_AN_EPOCH
    return result.train_seconds / 3


class _Side:
    """One of a pair: works when it is let, and knows for how long it has."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.running: asyncio.Task[None] | None = None

    def processes(self) -> list[int]:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError

    async def work(self, seconds: float) -> None:
        if self.running is None:
            self.running = asyncio.create_task(self.run())
        _signal(self.processes(), signal.SIGCONT)
        began = time.perf_counter()
        await asyncio.wait([self.running], timeout=seconds)
        self.seconds += time.perf_counter() - began
        if self.has_ended():
            await self.leave()
        else:
            _signal(self.processes(), signal.SIGSTOP)

    async def leave(self) -> None:
        """Be gone when the other one goes on."""

    def has_ended(self) -> bool:
        """Return whether it is through; raises what it failed with."""
        if self.running is None or not self.running.done():
            return False
        self.running.result()
        return True


class _Bare(_Side):
    """The loop in a process of its own, as a run has one; its imports do not count, as a run pays none."""

    @classmethod
    async def begin(cls, epochs: int) -> _Bare:
        side = cls()
        side.process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.durability", str(epochs),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        assert await side.process.stdout.readline() == b"ready\n"
        return side

    def processes(self) -> list[int]:
        return [self.process.pid]

    def end(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.process.returncode is None:
            self.process.kill()

    async def run(self) -> None:
        self.process.stdin.write(b"go\n")
        assert await self.process.stdout.readline() == b"done\n"

    async def leave(self) -> None:
        assert await self.process.wait() == 0


class _Durable(_Side):
    """The same as a run: server, worker, training process, and a client that follows it."""

    def __init__(self, client: Client, home: Path, name: str, epochs: int, every: int) -> None:
        super().__init__()
        self._client = client
        self._home = home
        self.spec = ExperimentSpec(
            name=name,
            data=DATA,
            runs=(FineTuneConfig(epochs=epochs),),
            checkpoints=CheckpointPolicy(every_steps=every),
        )

    def processes(self) -> list[int]:
        # The worker's child forks a process for each run.
        return [run for server in _children(self.engine()[1]) for run in _children(server)]

    def engine(self) -> list[int]:
        """Return the processes of server, worker and host."""
        # Not by the client, which attached before there was a worker.
        info = Home(self._home).read_info()
        assert info is not None
        assert info.worker_pid is not None
        return [info.server_pid, info.worker_pid, info.host_pid]

    async def run(self) -> None:
        await self._client.start(self.spec)
        view = await self._client.wait(self.spec.name)
        result = view.runs[0].result
        assert result is not None, view
        assert result.attempts == 1
        assert result.checkpoint_seconds is not None
        self.standstill = result.checkpoint_seconds


async def _alternate(sides: list[_Side]) -> None:
    while not all(side.has_ended() for side in sides):
        for side in sides:
            if not side.has_ended():
                await side.work(SLICE)


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _count_steps(count: Path) -> None:
    """Make steps until this process is killed, and write down how far the last one is."""
    tokens = 0
    with count.open("r+b") as file, mmap.mmap(file.fileno(), LAST_STEP.size) as memory:
        for number, step in enumerate(training.steps(), start=1):
            tokens += step.num_tokens
            memory[:] = LAST_STEP.pack(tokens, time.perf_counter())
            if number == WARM_UP_STEPS:
                print("ready", flush=True)


def _bare_loop(epochs: int) -> None:
    for library in ("transformers.models.bert.modeling_bert", "datasets", "sklearn.metrics"):
        importlib.import_module(library)
    print("ready", flush=True)
    sys.stdin.readline()
    with tempfile.TemporaryDirectory() as directory:
        data = load_training_data(DATA, seed=FineTuneConfig().seed)
        fine_tune(
            FineTuneConfig(epochs=epochs),
            data,
            output=Path(directory) / "model",
            report=lambda _: None,
            should_stop=lambda: False,
        )
    print("done", flush=True)
    # As a run's process does: all that the interpreter would tidy up takes a second.
    os._exit(0)


def _place() -> float:
    order = BatchOrder(ROWS, 16, 0)
    began = time.perf_counter()
    indices = order.indices(STEP)
    seconds = time.perf_counter() - began
    assert np.unique(indices).size == 16
    return round(seconds, 4)


if __name__ == "__main__":
    if sys.argv[1] == "steps":
        _count_steps(Path(sys.argv[2]))
    else:
        _bare_loop(int(sys.argv[1]))
