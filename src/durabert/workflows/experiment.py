"""What the patterns have in common: the runs of an experiment, one task each, and how each ended."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from durabert.contract import FINE_TUNE_BERT, STARTED_BY_MEMO
    from durabert.specs import (
        ErrorInfo,
        ExperimentResult,
        ExperimentSpec,
        FineTuneConfig,
        FineTuneRequest,
        RunOutcome,
    )
    from durabert.workflows.failures import error_info
    from durabert.workflows.policies import call, cancel_requested
    from durabert.workflows.visibility import publish_outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence


class ExperimentRuns:
    """The runs of one experiment; one that fails does not lose the others' results."""

    def __init__(self, spec: ExperimentSpec) -> None:
        self._name = spec.name
        self._names = spec.run_names()
        self._runs: dict[str, asyncio.Task[RunOutcome]] = {}
        self._unwanted: set[str] = set()
        at_once = 1 if spec.in_order else spec.max_concurrent
        self._turn = asyncio.Semaphore(at_once) if at_once else None

    async def train_all(self, requests: Sequence[FineTuneRequest]) -> ExperimentResult:
        """Train every run and return how each ended.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        for request in requests:
            self._runs[request.run] = asyncio.create_task(self._train(request))
        self.show()
        try:
            outcomes = await asyncio.gather(*self._runs.values())
        except asyncio.CancelledError:
            # gather() lets it through when every run has ended.
            publish_outcomes([task.result() for task in self._runs.values()])
            raise
        return concluded(self._name, outcomes)

    @workflow.update
    async def cancel_run(self, run: str) -> RunOutcome:
        """Cancel one run and return how it ended, once its process is gone."""
        if run not in self._runs:
            # The experiment is still about what all runs need; this one will not begin.
            self._unwanted.add(run)
            self.show()
            return RunOutcome(run=run, status="cancelled")
        self._runs[run].cancel()
        return await self._runs[run]

    @cancel_run.validator
    def _can_cancel(self, run: str) -> None:
        """Refuse to cancel what is not there or has ended."""
        if run not in self._names:
            raise ApplicationError(f"this experiment has no run {run!r}", type="RunNotFound")
        if run in self._unwanted or (run in self._runs and self._runs[run].done()):
            raise ApplicationError(f"run {run!r} has already ended", type="RunNotUsable")

    def show(self, just_ended: RunOutcome | None = None) -> None:
        """Set the current details; ``just_ended`` is of a run whose task has not returned yet."""
        raise NotImplementedError

    def ended(self, just_ended: RunOutcome | None) -> list[RunOutcome]:
        """Return how the runs ended that have."""
        ended = [task.result() for task in self._runs.values() if task.done()]
        # Told also before there is a task that could return it.
        never_begun = [RunOutcome(run=run, status="cancelled") for run in self._unwanted]
        return [*never_begun, *ended, *([just_ended] if just_ended else [])]

    def failed(self, error: ErrorInfo) -> ExperimentResult:
        """End an experiment before any run has begun.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        return concluded(
            self._name,
            [
                RunOutcome(run=run, status="cancelled")
                if run in self._unwanted
                else RunOutcome(run=run, status="failed", error=error)
                for run in self._names
            ],
        )

    async def _train(self, request: FineTuneRequest) -> RunOutcome:
        if request.run in self._unwanted:
            return RunOutcome(run=request.run, status="cancelled")
        try:
            async with AsyncExitStack() as stack:
                if self._turn:
                    await stack.enter_async_context(self._turn)
                outcome = await self.attempt(request)
        except asyncio.CancelledError:
            outcome = RunOutcome(run=request.run, status="cancelled")
        self.show(outcome)
        return outcome

    async def attempt(self, request: FineTuneRequest) -> RunOutcome:
        """Train a run and return how it ended."""
        try:
            result = await call(
                FINE_TUNE_BERT, request, activity_id=request.run, summary=describe_config(request.config)
            )
        except ActivityError as error:
            if is_cancelled_exception(error) or cancel_requested():
                return RunOutcome(run=request.run, status="cancelled")
            return RunOutcome(run=request.run, status="failed", error=error_info(error))
        return RunOutcome(run=request.run, status="completed", result=result)


def concluded(name: str, outcomes: list[RunOutcome]) -> ExperimentResult:
    """Publish how the runs ended and return it.

    Raises:
        ApplicationError: every run failed; its detail is the ``ExperimentResult``.
    """
    publish_outcomes(outcomes)
    result = ExperimentResult(name=name, outcomes=outcomes)
    if all(outcome.status == "failed" for outcome in outcomes):
        raise _experiment_failed(result)
    return result


def started_by() -> str | None:
    """Return who started this workflow, as its client says; None: it does not say so."""
    told: str | None = workflow.memo_value(STARTED_BY_MEMO, None, type_hint=str)
    return told


def describe_config(config: FineTuneConfig) -> str:
    """Say in a few words what a configuration is."""
    return (
        f"{config.model}, {config.epochs} epochs, batch {config.batch_size}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}"
    )


def _experiment_failed(result: ExperimentResult) -> ApplicationError:
    errors = [outcome.error for outcome in result.outcomes if outcome.error]
    different = {error.message for error in errors}
    rest = f" (and {len(different) - 1} other errors)" if len(different) > 1 else ""
    return ApplicationError(errors[0].message + rest, result, type=errors[0].type, non_retryable=True)
