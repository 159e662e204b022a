"""What activities have told of their runs; bounded, however long and often a run is tried."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from durabert.errors import UnexpectedError, WorkerLost
    from durabert.specs import AttemptReport, ExperimentProgress, RunProgress, RunReport

MAX_ATTEMPTS = 50
"""Attempts of a run that are remembered, the newest."""


class Reports:
    """The last report of each run, and what each attempt ended with."""

    def __init__(self, runs: list[str]) -> None:
        self._runs = {run: RunProgress(run=run) for run in runs}

    def take(self, report: RunReport) -> None:
        """Take one more report in; that of an unknown run is passed over."""
        known = self._runs.get(report.run)
        if known is None:
            return
        if known.attempts and report.attempt < known.attempts[-1].number:
            # It was taken for dead and has woken: of the run it knows nothing new.
            update: dict[str, object] = {"attempts": _with_end(known.attempts, report)}
        else:
            update = {
                "step": report.step or known.step,
                "steps": report.steps or known.steps,
                "epoch": report.epoch or known.epoch,
                "loss": known.loss if report.loss is None else report.loss,
                "checkpoint_step": report.checkpoint_step or known.checkpoint_step,
                "attempts": _with_newest(known.attempts, report),
            }
        self._runs[report.run] = known.model_copy(update=update)

    def progress(self) -> ExperimentProgress:
        """Return what is known of every run."""
        return ExperimentProgress(runs=list(self._runs.values()))


def _with_newest(known: list[AttemptReport], report: RunReport) -> list[AttemptReport]:
    attempt = AttemptReport(
        number=report.attempt,
        worker=report.worker,
        resumed_from=report.resumed_from,
        ended=_end(report),
        message=report.message,
    )
    # Whoever is followed by another one without a last word was lost with its worker.
    earlier = [
        one if one.ended else one.model_copy(update={"ended": WorkerLost.__name__})
        for one in known
        if one.number != report.attempt
    ]
    return [*earlier, attempt][-MAX_ATTEMPTS:]


def _with_end(known: list[AttemptReport], report: RunReport) -> list[AttemptReport]:
    end = _end(report)
    if end is None:
        return known
    told = {"ended": end, "message": report.message}
    return [one.model_copy(update=told) if one.number == report.attempt else one for one in known]


def _end(report: RunReport) -> str | None:
    if report.kind != "ended":
        return None
    return report.error or UnexpectedError.__name__
