"""Live progress of an experiment or a job in a terminal, and the exit code at the end."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from durabert.cli.board import Board
from durabert.cli.output import say
from durabert.cli.waiting import SHOW_INTERVAL, until_detached, until_interrupted, with_progress
from durabert.errors import DurabertError, UserError
from durabert.specs import Wire

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from durabert.cli.waiting import Presses
    from durabert.client import Client, ExperimentView
    from durabert.client.running import RunningJob
    from durabert.specs import EvaluationResult, ExportResult, InferenceResult

Result = TypeVar("Result", bound=Wire)


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
    view = None
    with Board(client.engine) as board:
        async for view in client.watch(name):
            board.show(view)
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
