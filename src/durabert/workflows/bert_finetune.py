"""The baseline pattern: one experiment, a list of configurations, then inference. No snapshots, no resume."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.contract import FINE_TUNE_BERT, FINE_TUNING_WORKFLOW, INFERENCE_WORKFLOW, RUN_BERT_INFERENCE
    from durabert.specs import (
        ErrorInfo,
        ExperimentResult,
        ExperimentSpec,
        FineTuneConfig,
        FineTuneRequest,
        InferenceRequest,
        InferenceResult,
        RunOutcome,
    )
    from durabert.workflows.policies import call
    from durabert.workflows.visibility import publish_outcomes, run_table


@workflow.defn(name=FINE_TUNING_WORKFLOW)
class BertFineTuningWorkflow:
    """Train every configuration of an experiment; one that fails does not lose the others' results."""

    @workflow.init
    def __init__(self, spec: ExperimentSpec) -> None:
        self._runs: dict[str, asyncio.Task[RunOutcome]] = {}
        self._turn = asyncio.Semaphore(1) if spec.in_order else None

    @workflow.run
    async def run(self, spec: ExperimentSpec) -> ExperimentResult:
        """Return the outcome of every run.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        for run, config in zip(spec.run_names(), spec.runs, strict=True):
            request = FineTuneRequest(experiment=spec.name, run=run, data=spec.data, config=config)
            self._runs[run] = asyncio.create_task(self._train(request))
        self._show()
        try:
            outcomes = await asyncio.gather(*self._runs.values())
        except asyncio.CancelledError:
            # gather() lets it through when every run has ended.
            publish_outcomes([task.result() for task in self._runs.values()])
            raise
        publish_outcomes(outcomes)
        result = ExperimentResult(name=spec.name, outcomes=outcomes)
        if all(outcome.status == "failed" for outcome in outcomes):
            raise _experiment_failed(result)
        return result

    @workflow.update
    async def cancel_run(self, run: str) -> RunOutcome:
        """Cancel one run and return how it ended, once its process is gone."""
        self._runs[run].cancel()
        return await self._runs[run]

    @cancel_run.validator
    def _can_cancel(self, run: str) -> None:
        if run not in self._runs:
            raise ApplicationError(f"this experiment has no run {run!r}", type="RunNotFound")
        if self._runs[run].done():
            raise ApplicationError(f"run {run!r} has already ended", type="RunNotUsable")

    async def _train(self, request: FineTuneRequest) -> RunOutcome:
        try:
            async with AsyncExitStack() as stack:
                if self._turn:
                    await stack.enter_async_context(self._turn)
                outcome = await self._attempt(request)
        except asyncio.CancelledError:
            outcome = RunOutcome(run=request.run, status="cancelled")
        self._show(outcome)
        return outcome

    async def _attempt(self, request: FineTuneRequest) -> RunOutcome:
        try:
            result = await call(
                FINE_TUNE_BERT, request, activity_id=request.run, summary=describe_config(request.config)
            )
        except ActivityError as error:
            if is_cancelled_exception(error) or _cancel_requested():
                return RunOutcome(run=request.run, status="cancelled")
            return RunOutcome(run=request.run, status="failed", error=_error_info(error))
        return RunOutcome(run=request.run, status="completed", result=result)

    def _show(self, just_ended: RunOutcome | None = None) -> None:
        ended = [task.result() for task in self._runs.values() if task.done()]
        workflow.set_current_details(
            run_table(list(self._runs), [*ended, *([just_ended] if just_ended else [])])
        )


@workflow.defn(name=INFERENCE_WORKFLOW)
class BertInferenceWorkflow:
    """Predict with the model of a finished run."""

    @workflow.run
    async def run(self, request: InferenceRequest) -> InferenceResult:
        """Return the predictions, or where they were written."""
        what = f"{len(request.texts)} texts" if request.input is None else request.input.path
        try:
            return await call(
                RUN_BERT_INFERENCE,
                request,
                activity_id=request.run,
                summary=f"predict {what} with {request.run}",
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            info = _error_info(error)
            raise ApplicationError(info.message, type=info.type, non_retryable=True) from error


def describe_config(config: FineTuneConfig) -> str:
    """Say in a few words what a configuration is."""
    return (
        f"{config.model}, {config.epochs} epochs, batch {config.batch_size}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}"
    )


def _cancel_requested() -> bool:
    # A worker that dies after the request ends its activity with a time-out instead of a cancellation.
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _error_info(error: ActivityError) -> ErrorInfo:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return ErrorInfo(type=cause.type or "UnexpectedError", message=cause.message)
    return ErrorInfo(type=type(cause).__name__, message=str(cause or error))


def _experiment_failed(result: ExperimentResult) -> ApplicationError:
    errors = [outcome.error for outcome in result.outcomes if outcome.error]
    different = {error.message for error in errors}
    rest = f" (and {len(different) - 1} other errors)" if len(different) > 1 else ""
    return ApplicationError(errors[0].message + rest, result, type=errors[0].type, non_retryable=True)
