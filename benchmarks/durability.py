"""What checkpoints and Temporal cost over the bare loop, in a training of some minutes, pair by pair.

Both sides of a pair are there at once, and in turn the training process of one of them is frozen while the
other works for a quarter of a second: a machine that is faster in one moment than in the next, as a rented
one is in moments of any length, favours neither. The first turn of each is longer: in it a side takes its
memory in one go, as a training does that is alone. What counts is the time in which a side was not frozen.
Checkpoints are asked for by steps, as many as a training of that length makes by itself, since their usual
interval would go by the clock, which does not stop.

Server, worker and host are not frozen while the bare loop works, as they would have much to catch up with, so
they slow that down, too: by the processor time that they take in its turns, times what such a second costs a
training on the same cores. By so much the bare loop counts as faster than it was. Turns are of uneven length,
so that what a server does every few seconds does not fall into those of the same side each time.

What it costs is found from the steps of a process beside a run whose own training is frozen, and whose engine
is asked for heartbeats for two seconds in every four: how much longer the steps are then, over how much more
the engine takes. Time and engine within each step would not tell, as a step that takes longer for any other
reason sees more of the engine, too.

A training whose memory lies in pieces is up to a seventh slower than another one with the same work, a server
takes half as much again of the processor, and the first of several processes gets the pieces that earlier
ones left. So the kernel is asked to join them before the engine begins and before each pair, which takes
root, and a process that makes no more steps keeps those that stay. Runs of one worker are forked from one
process and share where things lie in its memory, so each pair has an engine of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import random
import select
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from temporalio.client import WorkflowHandle

from benchmarks import training
from benchmarks.figures import summary
from durabert.bert.batches import BatchOrder
from durabert.bert.data import load_training_data
from durabert.bert.loop import fine_tune
from durabert.client import Client
from durabert.contract import HEARTBEAT_SIGNAL
from durabert.engine.home import Home
from durabert.specs import CheckpointPolicy, DataSpec, ExperimentSpec, FineTuneConfig
from durabert.supervisor.launcher import with_huge_pages

PAIRS = 12
"""In half of them each side begins first."""
TURN = 0.25
"""Seconds that a side works before it is the other's turn, in the mean; a fourth more or less."""
WARM_UP_STEPS, STEPS = 50, 2000
BUSY_SECONDS = 2.0
"""In which the engine is busy, and as long again it is not, while it is found out what that costs."""
ASKED_PER_SECOND = 5
"""Heartbeats while it is busy; each is asked for by a signal to the workflow."""
OUTLIER = 6 * 1.4826
"""Median deviations from which on a step does not count: the machine was taken away."""
TRAINING_SECONDS = 180.0
COUNTED_EPOCHS = 10
"""By which it is counted how many take so long in the first pair; in the others it is by the pair before."""
CHECKPOINTS = 3
"""Of one that takes so long; the last is that of its end."""
KEEPS = 1000
"""Epochs of a process that is there for its memory, and never makes them."""
MEMORY_SECONDS = 4.0
"""In which a process comes to have the memory that it needs."""
DATA = DataSpec(source=str(files("durabert.demo") / "reviews"))
STEPS_OF_AN_EPOCH = 63
ROWS, STEP = 1_000_000, 1_000_000


def measure() -> dict[str, object]:
    """Seconds of a run with checkpoints over those of the bare loop, and of finding step 1,000,000."""
    return {**asyncio.run(_overhead()), "place_of_step_1000000_seconds": _place()}


async def _overhead() -> dict[str, object]:
    bare, durable, shares, lengths = [], [], [], []
    async with _engine() as (client, _):
        epoch_seconds = await _warm_up(client, epochs=COUNTED_EPOCHS)
    for number in range(PAIRS):
        epochs = round(TRAINING_SECONDS / epoch_seconds)
        # Rounded up, and then none is due at the last step, which the one of the end would wait for.
        every = epochs * STEPS_OF_AN_EPOCH // CHECKPOINTS + 1
        async with _engine() as (client, home):
            await _warm_up(client)
            durable_side = _Durable(client, home, "pair", epochs, every)
            async with _memory_in_order(), _Bare.begun(epochs) as bare_side:
                sides = [bare_side, durable_side]
                with durable_side.thawed_at_the_end():
                    # In turn, as the first one has the machine alone when the other has ended.
                    await _alternate(
                        sides if number % 2 else sides[::-1], durable_side.engine(), random.Random(number)
                    )
        shares.append(bare_side.engine_seconds / bare_side.seconds)
        bare.append(bare_side.seconds)
        durable.append(durable_side.seconds)
        lengths.append(epochs)
        # Those of another hour may take a fifth more or less.
        epoch_seconds = bare_side.seconds / epochs
        print(
            f"pair {number + 1}: {bare[-1]:.2f} s, {durable[-1]:.2f} s, engine {shares[-1]:.4f}",
            file=sys.stderr,
            flush=True,
        )
    async with _engine() as (client, home):
        await _warm_up(client)
        cost, error = await _cost(client, home)
    ratios = [b / (a * (1 - cost * share)) for a, b, share in zip(bare, durable, shares, strict=True)]
    return {
        "bare_seconds": summary(bare),
        "durable_seconds": summary(durable),
        "engine_processor_seconds_per_bare_second": summary(shares),
        "seconds_that_one_of_them_costs": round(cost, 3),
        "standard_error_of_it": round(error, 3),
        "ratio": round(statistics.median(ratios), 4),
        "mean_ratio": round(statistics.mean(ratios), 4),
        "standard_error_of_mean": round(statistics.stdev(ratios) / len(ratios) ** 0.5, 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "difference_seconds": summary([b - a for a, b in zip(bare, durable, strict=True)]),
        "epochs": summary(lengths),
    }


@contextlib.asynccontextmanager
async def _engine() -> AsyncIterator[tuple[Client, Path]]:
    """Yield a client of a new engine, and its home; after it both are gone."""
    with tempfile.TemporaryDirectory() as home, contextlib.ExitStack() as at_the_end:
        async with _memory_in_order(), Client.connect(home=Path(home)) as client:
            assert client.engine is not None
            host = os.pidfd_open(client.engine.info.host_pid)
            at_the_end.callback(os.close, host)
            # It is told by the client's end, and writes in its home until its own.
            at_the_end.callback(select.select, [host], [], [])
            yield client, Path(home)


@contextlib.asynccontextmanager
async def _memory_in_order() -> AsyncIterator[None]:
    """Join the pieces that free memory lies in; a process keeps those that stay so, while this is open."""
    with contextlib.suppress(OSError):
        Path("/proc/sys/vm/compact_memory").write_text("1")
    async with _Bare.begun(KEEPS) as keeper:
        await keeper.work(MEMORY_SECONDS)
        yield


async def _cost(client: Client, home: Path) -> tuple[float, float]:
    """Return what a second that the engine takes of a processor costs a training, and the standard error."""
    run = _Durable(client, home, "cost", epochs=1000, every=100_000)
    await client.start(run.spec)
    async for view in client.watch("cost"):
        if view.runs[0].progress is not None and view.runs[0].progress.step:
            break
    frozen = run.processes()
    _signal(frozen, signal.SIGSTOP)
    turns: list[float] = []
    asking = asyncio.create_task(_ask(client.temporal.get_workflow_handle("cost"), turns))
    try:
        steps = await asyncio.create_subprocess_exec(
            # Who asks takes of the processors as well.
            sys.executable, "-m", "benchmarks.durability", "steps", *map(str, [*run.engine(), os.getpid()]),
            stdout=asyncio.subprocess.PIPE, env=with_huge_pages(os.environ),
        )  # fmt: skip
        printed, _ = await steps.communicate()
        if asking.done():
            # Nothing else would tell that the engine was not busy any more.
            asking.result()
    finally:
        asking.cancel()
        _signal(frozen, signal.SIGCONT)
        await client.cancel("cost")
    assert steps.returncode == 0
    return _explained(np.array(json.loads(printed)), turns)


async def _ask(workflow: WorkflowHandle[Any, Any], turns: list[float]) -> None:
    """Have the engine busy half of the time; ``turns`` gets when that begins and ends (monotonic clock)."""
    while True:
        turns.append(time.monotonic())
        for _ in range(round(BUSY_SECONDS * ASKED_PER_SECOND)):
            await workflow.signal(HEARTBEAT_SIGNAL)
            await asyncio.sleep(1 / ASKED_PER_SECOND)
        turns.append(time.monotonic())
        await asyncio.sleep(BUSY_SECONDS)


def _explained(steps_N4: NDArray[np.float64], turns: list[float]) -> tuple[float, float]:
    """Return what a second of the engine adds to a training, and the standard error.

    The estimate by an instrumental variable, whether the engine was busy in a step:
    https://en.wikipedia.org/wiki/Instrumental_variables_estimation

    Args:
        steps_N4: when each of N steps began, its seconds, its tokens, and seconds of the engine within it.
        turns: when the engine became busy and when it did no longer, in turn.
    """
    begin_N, seconds_N, tokens_N, engine_N = steps_N4.T
    in_turn_N = np.searchsorted(turns, begin_N)
    within_N = in_turn_N == np.searchsorted(turns, begin_N + seconds_N)
    busy_N = in_turn_N % 2
    others = np.stack([np.ones_like(tokens_N), tokens_N, tokens_N**2], axis=1)
    counts = within_N
    while True:
        # What the tokens of a step do not explain, of each.
        seconds, engine, busy = (
            values[counts] - others[counts] @ np.linalg.lstsq(others[counts], values[counts])[0]
            for values in (seconds_N, engine_N, busy_N)
        )
        cost = (busy @ seconds) / (busy @ engine)
        rest = seconds - cost * engine
        near = np.abs(rest) < OUTLIER * np.median(np.abs(rest))
        if near.all():
            break
        counts = counts.copy()
        counts[counts] = near
    variance = (rest**2).sum() / (len(rest) - others.shape[1] - 1)
    return float(cost), float(np.sqrt(variance * (busy @ busy)) / abs(busy @ engine))


def _processor_seconds(pids: list[int]) -> float:
    """Return the processor time that processes have taken, as exactly as the kernel knows it."""
    nanoseconds = 0
    for pid in pids:
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                nanoseconds += int((thread / "schedstat").read_text().split()[0])
    return nanoseconds / 1e9


async def _warm_up(client: Client, *, epochs: int = 3) -> float:
    """Train once, and return the seconds that it took for each epoch, from its begin to its end."""
    config = FineTuneConfig(epochs=epochs)
    await client.start(ExperimentSpec(name="warm-up", data=DATA, runs=(config,)))
    result = (await client.wait("warm-up")).runs[0].result
    assert result is not None
    assert result.steps == epochs * STEPS_OF_AN_EPOCH
    return result.seconds / epochs


class _Side:
    """One of a pair: works when it is let; knows for how long it has, and what the engine took meanwhile."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.engine_seconds = 0.0
        self.running: asyncio.Task[None] | None = None
        self._known: list[int] = []

    def processes(self) -> list[int]:
        raise NotImplementedError

    async def run(self) -> None:
        raise NotImplementedError

    async def work(self, seconds: float) -> None:
        if self.running is None:
            self.running = asyncio.create_task(self.run())
        _signal(self._known, signal.SIGCONT)
        began = time.perf_counter()
        await asyncio.wait([self.running], timeout=seconds)
        if self.has_ended():
            self.seconds += time.perf_counter() - began
            await self.leave()
        else:
            self.seconds += self._freeze() - began

    def _freeze(self) -> float:
        """Let none of its processes work, and return since when (performance counter)."""
        _signal(self._known, signal.SIGSTOP)
        frozen = time.perf_counter()
        # To look for them takes of the processors, so those that were there before do not wait for that.
        found = self.processes()
        if found != self._known:
            self._known = found
            _signal(found, signal.SIGSTOP)
            frozen = time.perf_counter()
        return frozen

    async def leave(self) -> None:
        """Be gone when the other one goes on."""

    def has_ended(self) -> bool:
        """Return whether it is through; raises what it failed with."""
        if self.running is None or not self.running.done():
            return False
        self.running.result()
        return True


class _Bare(_Side):
    """The loop in a process of its own, as a run has one, with huge pages as that has.

    Its imports do not count, as a run pays none.
    """

    @classmethod
    @contextlib.asynccontextmanager
    async def begun(cls, epochs: int) -> AsyncIterator[_Bare]:
        """Yield one that waits for its first turn; no process is left behind, whatever happens."""
        side = cls()
        with tempfile.TemporaryDirectory() as directory:
            side.process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "benchmarks.durability", str(epochs), directory,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                env=with_huge_pages(os.environ),
            )  # fmt: skip
            try:
                assert await side.process.stdout.readline() == b"ready\n"
                yield side
            finally:
                if side.process.returncode is None:
                    side.process.kill()
                if side.running is not None:
                    side.running.cancel()

    def processes(self) -> list[int]:
        return [self.process.pid]

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
        self._fork_server: int | None = None
        self.spec = ExperimentSpec(
            name=name,
            data=DATA,
            runs=(FineTuneConfig(epochs=epochs),),
            checkpoints=CheckpointPolicy(every_steps=every),
        )

    def processes(self) -> list[int]:
        # Not among the many threads of the worker each time.
        if self._fork_server is None:
            [self._fork_server] = _children(self.engine()[1])
        return list(_children(self._fork_server))

    def engine(self) -> list[int]:
        """Return the processes of server, worker and host."""
        # Not by the client, which attached before there was a worker.
        info = Home(self._home).read_info()
        assert info is not None
        assert info.worker_pid is not None
        return [info.server_pid, info.worker_pid, info.host_pid]

    @contextlib.contextmanager
    def thawed_at_the_end(self) -> Iterator[None]:
        """Let what is frozen see that it shall end."""
        try:
            yield
        finally:
            if self._fork_server is not None:
                _signal(list(_children(self._fork_server)), signal.SIGCONT)

    async def run(self) -> None:
        await self._client.start(self.spec)
        view = await self._client.wait(self.spec.name)
        result = view.runs[0].result
        assert result is not None, view
        assert result.attempts == 1
        assert result.checkpoint_seconds is not None


async def _alternate(sides: list[_Side], engine: list[int], lengths: random.Random) -> None:
    while not all(side.has_ended() for side in sides):
        for side in sides:
            if not side.has_ended():
                before = _processor_seconds(engine)
                turn = lengths.uniform(0.75 * TURN, 1.25 * TURN)
                await side.work(turn if side.seconds else MEMORY_SECONDS)
                side.engine_seconds += _processor_seconds(engine) - before


def _children(pid: int) -> Iterator[int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (thread / "children").read_text().split())


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _make_steps(engine: list[int]) -> None:
    """Make steps, and print when each began, its seconds, its tokens, and what the engine took meanwhile."""
    made = training.steps()
    for _ in range(WARM_UP_STEPS):
        next(made)
    told = []
    for _ in range(STEPS):
        before, began = _processor_seconds(engine), time.monotonic()
        step = next(made)
        seconds = time.monotonic() - began
        told.append((began, seconds, step.num_tokens, _processor_seconds(engine) - before))
    print(json.dumps(told))


def _bare_loop(epochs: int, directory: Path) -> None:
    for library in ("transformers.models.bert.modeling_bert", "datasets", "sklearn.metrics"):
        importlib.import_module(library)
    print("ready", flush=True)
    sys.stdin.readline()
    data = load_training_data(DATA, seed=FineTuneConfig().seed)
    fine_tune(
        FineTuneConfig(epochs=epochs),
        data,
        output=directory / "model",
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
        _make_steps([int(pid) for pid in sys.argv[2:]])
    else:
        _bare_loop(int(sys.argv[1]), Path(sys.argv[2]))
