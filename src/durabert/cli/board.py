"""What a terminal shows of an experiment that is followed: a bar or lines for each run, and its warnings."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from durabert.cli.output import say
from durabert.contract import HEARTBEAT_SECONDS

if TYPE_CHECKING:
    from typing import Self

    from rich.progress import TaskID

    from durabert.client import ExperimentView, RunView
    from durabert.engine import Engine

LOST_AFTER_SECONDS: Final = 1.5 * HEARTBEAT_SECONDS
"""A heartbeat older than this is worth telling: the next one should have come."""


class Board:
    """One bar a run; where there is no terminal, one line a change.

    Args:
        engine: whose worker the runs wait for; none: one that is not this program's.
        transient: whether the bars are gone after it; warnings stay.
    """

    def __init__(self, engine: Engine | None, *, transient: bool = False) -> None:
        self._engine = engine
        self._progress = state_bars(transient=transient)
        self._live = self._progress.console.is_terminal
        self._alone = False
        self._said: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._live:
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._progress.stop()

    def show(self, view: ExperimentView) -> None:
        """Draw or say what has changed, and each warning once."""
        self._alone = len(view.runs) == 1
        for run in view.runs:
            self._warn(run)
            if self._live:
                self._draw(run)
            else:
                self._say(run)

    def _draw(self, run: RunView) -> None:
        if run.run not in self._tasks:
            self._tasks[run.run] = self._progress.add_task(run.run, total=None, state="")
        completed, total = _extent(run)
        self._progress.update(self._tasks[run.run], completed=completed, total=total, state=self._state(run))

    def _say(self, run: RunView) -> None:
        progress = run.progress
        where = f"{progress.phase} {progress.epoch}" if progress else ""
        milestone = f"{run.status} {run.pausing} {run.attempts} {where}"
        if self._said.get(run.run) != milestone:
            self._said[run.run] = milestone
            say(f"{run.run}: {self._state(run)}")

    def _warn(self, run: RunView) -> None:
        for warning in run.progress.warnings if run.progress else []:
            if (run.run, warning) not in self._warned:
                self._warned.add((run.run, warning))
                # Above the bars, where there are any.
                self._progress.print(f"{run.run}: {warning}", markup=False, highlight=False, soft_wrap=True)

    def _state(self, run: RunView) -> str:
        if run.ended:
            return _final(run, alone=self._alone)
        parts = [_activity(run)]
        if run.result is None and (run.attempts > 1 or (run.attempts and run.status == "queued")):
            reason = f" after {run.last_error.type}" if run.last_error else ""
            parts.append(f"attempt {run.attempts + (run.status == 'queued')}{reason}")
        if run.status == "queued" and self._engine and (problem := self._engine.worker_state()):
            parts.append(problem)
        if run.heartbeat_age_seconds and run.heartbeat_age_seconds > LOST_AFTER_SECONDS:
            parts.append(f"no sign of the worker for {run.heartbeat_age_seconds:.0f} s")
        return "  ".join(parts)


def state_bars(*, transient: bool) -> Progress:
    """Return bars on stderr, each between its description and the field ``state`` of its task."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}", markup=False),
        console=Console(stderr=True),
        transient=transient,
    )


def _extent(run: RunView) -> tuple[float, float | None]:
    if run.status == "completed":
        return 1, 1
    if run.progress is None or not run.progress.steps:
        return 0, None if run.status == "running" else 1
    return run.progress.step, run.progress.steps


def _final(run: RunView, *, alone: bool) -> str:
    # The error of the only run is told at the end, which is now.
    if run.result:
        return f"completed  {run.result.metric} {run.result.metrics[run.result.metric]:.4f}"
    return f"{run.status}  {run.error.message}" if run.error and not alone else run.status


def _activity(run: RunView) -> str:
    progress = run.progress
    if run.status == "paused":
        return f"paused; durabert resume {run.run} lets it go on"
    if run.status == "queued":
        return "waiting for a worker"
    if progress is None:
        return "starting"
    if progress.phase not in {"training", "validating"}:
        return f"{progress.phase}, pausing" if run.pausing else progress.phase
    parts = ["pausing"] if run.pausing else []
    parts += [f"epoch {progress.epoch}/{progress.epochs}", f"step {progress.step}/{progress.steps}"]
    if progress.phase == "validating":
        parts.append("validating")
    if progress.loss is not None:
        parts.append(f"loss {progress.loss:.3f}")
    if progress.examples_per_second is not None:
        parts.append(f"{progress.examples_per_second:.0f} ex/s")
    if progress.eta_seconds is not None:
        parts.append(f"ETA {timedelta(seconds=round(progress.eta_seconds))}")
    return "  ".join(parts)
