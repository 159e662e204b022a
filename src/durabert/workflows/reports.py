"""What activities have told of their runs; bounded, however long and often a run is tried."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from durabert.errors import WorkerLost
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
        self._runs[report.run] = known.model_copy(
            update={
                "step": report.step or known.step,
                "steps": report.steps or known.steps,
                "epoch": report.epoch or known.epoch,
                "loss": known.loss if report.loss is None else report.loss,
                "checkpoint_step": report.checkpoint_step or known.checkpoint_step,
                "attempts": _attempts(known.attempts, report),
            }
        )

    def progress(self) -> ExperimentProgress:
        """Return what is known of every run."""
        return ExperimentProgress(runs=list(self._runs.values()))


def _attempts(known: list[AttemptReport], report: RunReport) -> list[AttemptReport]:
    attempt = AttemptReport(
        number=report.attempt,
        worker=report.worker,
        resumed_from=report.resumed_from,
        ended=report.error,
        message=report.message,
    )
    # Whoever is followed by another one without a last word was lost with its worker.
    earlier = [
        one if one.ended else one.model_copy(update={"ended": WorkerLost.__name__})
        for one in known
        if one.number != report.attempt
    ]
    return [*earlier, attempt][-MAX_ATTEMPTS:]
