"""The faults of ``durabert chaos``, one function each: it breaks something and lets the run go on."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from durabert.chaos.bench import Bench, Plan, Show, struck
from durabert.client import RunView
from durabert.errors import SpecInvalid
from durabert.specs import FineTuneResult
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import open_store

STEP: Final = 12
"""At which most faults strike: not one with a checkpoint."""
LAST_STEP: Final = 36
"""The training has no fewer steps."""
COMMIT_PLACES: Final = (
    "checkpoint.file",
    "checkpoint.file written",
    "checkpoint.commit",
    "journal.append",
    "journal.appended",
    "checkpoint.committed",
    "checkpoint.delete",
    "result.file",
    "result.commit",
    "result.committed",
)
"""Where a process can die while it commits."""


@dataclass(frozen=True)
class Row:
    """What came of one scenario."""

    scenario: str
    fault: str
    struck: int
    """Faults that hit."""
    status: str
    """How the run ended."""
    attempts: int
    steps_lost: int | None
    """Made more than once, over all attempts; none where that is not told."""
    recovered_seconds: float | None
    """From the last fault to steps made again; none where no attempt ended."""
    digest: Literal["equal", "different", "not claimed"]
    """Of weights, optimizer and metrics, against the undisturbed run."""

    @property
    def passed(self) -> bool:
        """Whether the run ended well, the fault had hit, and the bits are those that are promised."""
        return self.status == "completed" and self.digest != "different" and self.struck > 0


@dataclass(frozen=True)
class Told:
    """What a scenario knows of itself."""

    struck: int
    recovered_seconds: float | None = None
    exact: bool = True
    """Whether the digests are promised to be equal."""


Act = Callable[[Bench, str, Plan], Awaitable[Told]]


@dataclass(frozen=True)
class Scenario:
    """A fault."""

    name: str
    fault: str
    act: Act
    slow: bool = False
    """Waits for a heartbeat time-out."""


async def _trainer_killed(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "kill", nth=STEP)
    bench.start_worker(run, plan)
    await struck(mark)
    return Told(plan.num_struck(), await bench.attempt(run, 2))


def _killed_often(kills: int) -> Act:
    async def act(bench: Bench, run: str, plan: Plan) -> Told:
        rng = random.Random(kills)  # noqa: S311 - no secret
        # By step and not by steps made in a process: attempts that never reach a checkpoint wait ever longer.
        steps = sorted(rng.sample(range(2, LAST_STEP), kills))
        marks = [plan.add("step.backward", "kill", when=step) for step in steps]
        bench.start_worker(run, plan)
        await asyncio.gather(*(struck(mark) for mark in marks))
        return Told(plan.num_struck(), await bench.attempt(run, kills + 1))

    return act


async def _killed_while_committing(bench: Bench, run: str, plan: Plan) -> Told:
    for nth, place in enumerate(COMMIT_PLACES):
        first = place.startswith("result") or place == "checkpoint.delete"
        plan.add(place, "kill", nth=1 if first else 1 + nth % 3)
    bench.start_worker(run, plan)
    await bench.attempt(run, 1)
    return Told(plan.num_struck())


async def _worker_killed(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "hold", nth=STEP)
    worker = bench.start_worker(run, plan)
    await struck(mark)
    worker.kill()
    bench.start_worker(run)
    return Told(plan.num_struck(), await bench.attempt(run, 2))


async def _home_lost(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "hold", nth=STEP)
    lost = bench.root / "lost home"
    worker = bench.start_worker(run, plan, home=lost)
    await struck(mark)
    worker.kill()
    worker.wait()
    shutil.rmtree(lost)
    bench.start_worker(run, home=bench.root / "another home")
    return Told(plan.num_struck(), await bench.attempt(run, 2))


def _told_to_stop(place: str, nth: int) -> Act:
    async def act(bench: Bench, run: str, plan: Plan) -> Told:
        mark = plan.add(place, "hold", nth=nth)
        worker = bench.start_worker(run, plan)
        await struck(mark)
        worker.terminate()
        await asyncio.to_thread(worker.wait)
        began = time.monotonic()
        bench.start_worker(run)
        await bench.attempt(run, 2)
        return Told(plan.num_struck(), time.monotonic() - began)

    return act


async def _frozen(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "stop", nth=STEP)
    worker = bench.start_worker(run, plan)
    await struck(mark)
    view = await bench.client.run_status(run)
    worker.send_signal(signal.SIGSTOP)
    bench.start_worker(run)
    seconds = await bench.attempt(run, 2)
    worker.send_signal(signal.SIGCONT)
    if view.progress is not None and view.progress.process_id is not None:
        os.kill(view.progress.process_id, signal.SIGCONT)
    return Told(plan.num_struck(), seconds)


async def _engine_killed(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "kill", nth=STEP)
    engine = bench.client.engine
    assert engine is not None
    bench.start_worker(run, plan)
    os.kill(engine.info.server_pid, signal.SIGKILL)
    await struck(mark)
    return Told(plan.num_struck(), await bench.attempt(run, 2))


def _damaged(how: str, *, newest: int = 1) -> Act:
    async def act(bench: Bench, run: str, plan: Plan) -> Told:
        mark = plan.add("step.backward", "hold", nth=STEP + 6)
        worker = bench.start_worker(run, plan)
        await struck(mark)
        worker.terminate()
        await asyncio.to_thread(worker.wait)
        checkpoints = RunCheckpoints(open_store(str(bench.store), home=bench.home), run)
        for checkpoint in checkpoints.kept(checkpoints.journal.read())[-newest:]:
            [ref, *_] = [ref for ref in checkpoint.files if ref.name.endswith(".safetensors")]
            file = bench.store / "runs" / run / "files" / ref.sha256
            data = file.read_bytes()
            file.write_bytes(
                {"emptied": b"", "truncated": data[:-1]}.get(how, bytes([data[0] ^ 1]) + data[1:])
            )
        began = time.monotonic()
        bench.start_worker(run)
        await bench.attempt(run, 2)
        return Told(newest, time.monotonic() - began)

    return act


async def _disk_full(bench: Bench, run: str, plan: Plan) -> Told:
    for nth in range(4, 40, 9):
        plan.add("store.write", "enospc", nth=nth)
    bench.start_worker(run, plan)
    await bench.attempt(run, 1)
    await bench.client.wait(run)
    return Told(plan.num_struck())


async def _out_of_memory(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.backward", "oom", nth=STEP)
    bench.start_worker(run, plan)
    await struck(mark)
    return Told(plan.num_struck(), exact=False)


async def _flicker(bench: Bench, run: str, plan: Plan) -> Told:
    mark = plan.add("step.nan", "nan", nth=STEP)
    bench.start_worker(run, plan)
    await struck(mark)
    return Told(plan.num_struck(), await bench.attempt(run, 2))


SCENARIOS: Final[tuple[Scenario, ...]] = (
    Scenario("trainer-killed", "SIGKILL of the training process", _trainer_killed),
    Scenario("killed-often", "20 SIGKILLs of the training process at random steps", _killed_often(20)),
    Scenario("commit-killed", "SIGKILL at each step of a commit", _killed_while_committing),
    Scenario("worker-killed", "SIGKILL of the worker, another one up", _worker_killed, slow=True),
    Scenario("home-lost", "worker and home directory lost, store elsewhere", _home_lost, slow=True),
    Scenario("worker-frozen", "worker frozen past its heartbeat, then awake", _frozen, slow=True),
    Scenario("engine-killed", "SIGKILL of the server, then of the training process", _engine_killed),
    Scenario("stop-start-up", "SIGTERM of the worker in start-up", _told_to_stop("phase.loading model", 1)),
    Scenario("stop-training", "SIGTERM of the worker in training", _told_to_stop("step.backward", STEP)),
    Scenario("stop-validating", "SIGTERM of the worker in validation", _told_to_stop("phase.validating", 1)),
    Scenario("stop-saving", "SIGTERM of the worker in saving", _told_to_stop("phase.saving", 1)),
    Scenario("file-truncated", "newest checkpoint truncated", _damaged("truncated")),
    Scenario("file-emptied", "newest checkpoint emptied", _damaged("emptied")),
    Scenario("bit-flipped", "one bit of the newest checkpoint flipped", _damaged("flipped")),
    Scenario("two-damaged", "newest two checkpoints damaged", _damaged("flipped", newest=2)),
    Scenario("disk-full", "a full disk at some of the writes", _disk_full),
    Scenario("out-of-memory", "out of memory in one step", _out_of_memory),
    Scenario("nan-once", "a loss that is no number, once", _flicker),
)
SHORT: Final = (
    "trainer-killed",
    "commit-killed",
    "stop-training",
    "bit-flipped",
    "disk-full",
    "out-of-memory",
)


def chosen(names: Sequence[str], *, short: bool) -> list[Scenario]:
    """Return the scenarios of some names, or a few, or all.

    Raises:
        SpecInvalid: there is no scenario of that name.
    """
    known = {scenario.name: scenario for scenario in SCENARIOS}
    for name in names:
        if name not in known:
            raise SpecInvalid(f"there is no scenario {name!r}; there are {', '.join(known)}")
    wanted = names or (SHORT if short else list(known))
    return [known[name] for name in wanted]


async def undisturbed(bench: Bench, show: Show) -> FineTuneResult:
    """Train without a fault; return the result that all others are held against."""
    calm = Scenario("undisturbed", "none", _calm)
    _, run = await _trained(bench, calm, bench.plan(calm.name), show)
    assert run.result is not None, "the undisturbed run failed"
    return run.result


async def disturbed(bench: Bench, scenario: Scenario, reference: FineTuneResult, show: Show) -> Row:
    """Train under a scenario; return what came of it, held against an undisturbed result."""
    plan = bench.plan(scenario.name)
    told, run = await _trained(bench, scenario, plan, show)
    if plan.faults:
        told = replace(told, struck=plan.num_struck())
    return Row(
        scenario=scenario.name,
        fault=scenario.fault,
        struck=told.struck,
        status=run.status,
        attempts=run.attempts,
        steps_lost=None if run.result is None else _steps_lost(plan.steps(), run.result),
        recovered_seconds=told.recovered_seconds,
        digest=_compared(run.result, reference) if told.exact else "not claimed",
    )


async def _calm(bench: Bench, run: str, _plan: Plan) -> Told:
    bench.start_worker(run)
    return Told(0)


async def _trained(bench: Bench, scenario: Scenario, plan: Plan, show: Show) -> tuple[Told, RunView]:
    await bench.start(scenario.name)
    acting, watching = scenario.act(bench, scenario.name, plan), bench.watch(scenario.name, show)
    told, run = await asyncio.gather(acting, watching)
    bench.stop_workers()
    return told, run


def _steps_lost(steps: Sequence[int], result: FineTuneResult) -> int | None:
    """Return how many steps were done when an attempt was struck, and not there for the one after it."""
    later = result.attempt_log[1:]
    if not steps or len(steps) != len(later):
        return None
    # A step in which the process was told to stop is still brought to its end.
    return sum(max(0, step - (one.resumed_from or 0)) for step, one in zip(steps, later, strict=True))


def _compared(result: FineTuneResult | None, reference: FineTuneResult) -> Literal["equal", "different"]:
    if result is None:
        return "different"
    same = (
        result.model_sha256 == reference.model_sha256
        and result.state_sha256 == reference.state_sha256
        and result.metrics == reference.metrics
        and result.history == reference.history
    )
    return "equal" if same else "different"
