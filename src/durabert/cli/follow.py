"""Live progress of an experiment or a job in a terminal, and the exit code at the end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from durabert.cli.output import say
from durabert.cli.waiting import SHOW_INTERVAL, until_detached, until_interrupted, with_progress
from durabert.contract import HEARTBEAT_SECONDS
from durabert.errors import DurabertError, UserError
from durabert.specs import Wire

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from rich.progress import TaskID

    from durabert.cli.waiting import Presses
    from durabert.client import Client, ExperimentView, RunView
    from durabert.client.running import RunningJob
    from durabert.specs import EvaluationResult, ExportResult, InferenceResult

Result = TypeVar("Result", bound=Wire)

LOST_AFTER_SECONDS: Final = 1.5 * HEARTBEAT_SECONDS
"""A heartbeat older than this is worth telling: the next one should have come."""


async def follow_experiment(client: Client, name: str) -> ExperimentView | None:
    """Show progress until the experiment has ended; None if the user detached or cancelled with Ctrl-C."""

    async def cancel() -> None:
        view = await client.cancel(name)
        say(f"{name!r} is {view.status}; no process of it is left.")

    return await until_detached(client, name, _watch(client, name), cancel=cancel)


async def follow_prediction(prediction: RunningJob[InferenceResult]) -> InferenceResult | None:
    """Show progress until a prediction has ended; Ctrl-C cancels it and gives None."""
    return await _follow_job(prediction, _show_prediction(prediction), what="prediction")


async def follow_export(export: RunningJob[ExportResult]) -> ExportResult | None:
    """Show progress until an export has ended; Ctrl-C cancels it and gives None."""
    return await _follow_job(export, _show_phase(export, "exporting"), what="export")


async def follow_evaluation(evaluation: RunningJob[EvaluationResult]) -> EvaluationResult | None:
    """Show progress until an evaluation has ended; Ctrl-C cancels it and gives None."""
    return await _follow_job(evaluation, _show_phase(evaluation, "evaluating"), what="evaluation")


async def _follow_job(
    job: RunningJob[Result], show: Coroutine[Any, Any, None], *, what: str
) -> Result | None:
    async def cancel(_pressed: Presses) -> None:
        say(f"Cancelling the {what} ...")
        await job.cancel()
        say(f"The {what} is cancelled; nothing was written.")

    return await until_interrupted(with_progress(job.result(), show), cancel)


def exit_code(view: ExperimentView) -> int:
    """Return 0 if every run and evaluation completed, 2 if only the user's mistakes failed, else 1."""
    evaluations = [one for run in view.runs for one in run.evaluations]
    ends = [(one.status, one.error) for one in view.runs]
    ends += [(one.status, one.error) for one in evaluations]
    bad = [error for status, error in ends if status != "completed"]
    if not bad:
        return 0
    errors = [DurabertError.restored(error.type, error.message) for error in bad if error]
    return 2 if len(errors) == len(bad) and all(isinstance(error, UserError) for error in errors) else 1


async def _watch(client: Client, name: str) -> ExperimentView:
    board = _Board(client)
    view = None
    try:
        async for view in client.watch(name):
            board.show(view)
    finally:
        board.close()
    assert view is not None
    return view


async def _show_prediction(prediction: RunningJob[InferenceResult]) -> None:
    columns = (
        TextColumn("predicting"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f} of {task.total:.0f} rows  {task.fields[rate]:.0f} texts/s"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("predicting", total=0, rate=0.0, visible=False)
        while True:
            progress = await prediction.progress()
            if progress is not None and progress.phase == "predicting":
                rate = progress.examples_per_second or 0.0
                bar.update(task, completed=progress.step, total=progress.steps, rate=rate, visible=True)
            await asyncio.sleep(SHOW_INTERVAL.total_seconds())


async def _show_phase(job: RunningJob[Any], what: str) -> None:
    columns = (SpinnerColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)
        while True:
            progress = await job.progress()
            if progress is not None:
                done = f" {progress.step:,} of {progress.steps:,}" if progress.steps else ""
                bar.update(task, description=f"{progress.phase}{done}")
            await asyncio.sleep(SHOW_INTERVAL.total_seconds())


class _Board:
    """One bar a run; where there is no terminal, one line a change."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._console = Console(stderr=True)
        self._live = self._console.is_terminal
        self._alone = False
        self._said: dict[str, str] = {}
        self._warned: set[tuple[str, str]] = set()
        self._tasks: dict[str, TaskID] = {}
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
        )
        if self._live:
            self._progress.start()

    def show(self, view: ExperimentView) -> None:
        self._alone = len(view.runs) == 1
        for run in view.runs:
            self._warn(run)
            if self._live:
                self._draw(run)
            else:
                self._say(run)

    def close(self) -> None:
        if self._live:
            self._progress.stop()

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
        if run.status == "queued" and self._client.engine and (problem := self._client.engine.worker_state()):
            parts.append(problem)
        if run.heartbeat_age_seconds and run.heartbeat_age_seconds > LOST_AFTER_SECONDS:
            parts.append(f"no sign of the worker for {run.heartbeat_age_seconds:.0f} s")
        return "  ".join(parts)


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
