"""A trial of a sweep: choose its configuration, and train it to a rung."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.contract import FINE_TUNE_BERT, REPORT_SIGNAL, SUGGEST_TRIAL, TRIAL_WORKFLOW
    from durabert.specs import (
        ErrorInfo,
        ExperimentProgress,
        FineTuneConfig,
        FineTuneRequest,
        RunReport,
        TrialRecord,
        TrialRequest,
    )
    from durabert.specs.base import RUN_SEPARATOR
    from durabert.workflows.experiment import describe_config
    from durabert.workflows.failures import error_info
    from durabert.workflows.policies import call, cancel_requested, require_not_cancelled
    from durabert.workflows.reports import Reports
    from durabert.workflows.visibility import progress_table

if TYPE_CHECKING:
    from durabert.specs import FineTuneResult
    from durabert.specs.search import Params


@workflow.defn(name=TRIAL_WORKFLOW)
class BertTrialWorkflow:
    """Train one trial of a sweep to a rung; if it is promoted later, it goes on in another execution."""

    @workflow.init
    def __init__(self, request: TrialRequest) -> None:
        self._request = request
        self._run = f"{request.sweep}{RUN_SEPARATOR}{request.number}"
        self._reports = Reports([self._run])

    @workflow.run
    async def run(self, request: TrialRequest) -> TrialRecord:
        """Return what the trial has come to; one that failed for good is a result, too."""
        params: Params = request.params or {}
        try:
            if request.params is None:
                params = await self._suggestion()
            require_not_cancelled()
            config = request.chosen(params)
            if isinstance(config, ErrorInfo):
                return self._failed(params, config)
            return self._record(params, await self._trained(config))
        except ActivityError as error:
            if is_cancelled_exception(error) or cancel_requested():
                raise
            return self._failed(params, error_info(error))

    @workflow.signal(name=REPORT_SIGNAL)
    def report(self, report: RunReport) -> None:
        """Take note of what an activity tells of the training."""
        self._reports.take(report)
        workflow.set_current_details(progress_table(self._reports.progress(), []))

    @workflow.query
    def progress(self) -> ExperimentProgress:
        """Return step, loss, last checkpoint and attempts, as last reported."""
        return self._reports.progress()

    async def _suggestion(self) -> Params:
        suggestion = self._request.suggestion
        assert suggestion is not None
        answer = await call(
            SUGGEST_TRIAL,
            suggestion,
            activity_id="suggestion",
            summary=f"{suggestion.algorithm}, {len(suggestion.known)} trials known",
        )
        return answer.params

    async def _trained(self, config: FineTuneConfig) -> FineTuneResult:
        request = self._request
        return await call(
            FINE_TUNE_BERT,
            FineTuneRequest(
                experiment=request.sweep,
                run=self._run,
                data=request.data,
                config=config,
                snapshot=request.snapshot,
                checkpoints=request.checkpoints,
                until_epoch=request.until_epoch,
                thresholds=request.thresholds,
                # Test rows decide on nothing, so that the best configuration can be scored on them.
                score_test=False,
            ),
            activity_id=self._run,
            summary=f"{stretch_of(request)}: {describe_config(config)}",
        )

    def _record(self, params: Params, result: FineTuneResult) -> TrialRecord:
        return TrialRecord(
            number=self._request.number,
            status="completed" if result.finished else "stopped",
            params=params,
            values=[epoch.metrics[result.metric] for epoch in result.history],
            model_sha256=result.model_sha256,
            state_sha256=result.state_sha256,
            seconds=result.seconds,
        )

    def _failed(self, params: Params, error: ErrorInfo) -> TrialRecord:
        return TrialRecord(number=self._request.number, status="failed", params=params, error=error)


def stretch_of(request: TrialRequest) -> str:
    """Say how far a trial is to be trained."""
    end = "to the end" if request.until_epoch is None else f"until epoch {request.until_epoch}"
    asked = [epoch for epoch, bar in enumerate(request.thresholds, start=1) if bar is not None]
    return f"{end}, if good enough after epoch {' and '.join(map(str, asked))}" if asked else end
