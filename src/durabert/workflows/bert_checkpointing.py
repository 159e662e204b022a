"""The second pattern: snapshot the data once, then train with checkpoints and go on from the newest."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.contract import CHECKPOINTED_WORKFLOW, CREATE_DATASET_SNAPSHOT, REPORT_SIGNAL
    from durabert.specs import (
        ExperimentProgress,
        ExperimentResult,
        ExperimentSpec,
        FineTuneRequest,
        RunOutcome,
        RunReport,
        SnapshotRequest,
        SnapshotResult,
    )
    from durabert.workflows.experiment import ExperimentRuns, started_by
    from durabert.workflows.failures import error_info
    from durabert.workflows.policies import call, require_not_cancelled
    from durabert.workflows.reports import Reports
    from durabert.workflows.visibility import progress_table, publish_outcomes


@workflow.defn(name=CHECKPOINTED_WORKFLOW)
class CheckpointedBertTrainingWorkflow(ExperimentRuns):
    """Snapshot the data once, then train every configuration with checkpoint-aware retry."""

    @workflow.init
    def __init__(self, spec: ExperimentSpec) -> None:
        super().__init__(spec)
        self._reports = Reports(self._names)

    @workflow.run
    async def run(self, spec: ExperimentSpec) -> ExperimentResult:
        """Return the outcome of every run.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        return await self.conduct(spec)

    async def conduct(self, spec: ExperimentSpec) -> ExperimentResult:
        """Prepare, then train every run.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        self.show()
        try:
            snapshot = await self.prepare(spec)
            require_not_cancelled()
        except (ActivityError, asyncio.CancelledError) as error:
            if not isinstance(error, ActivityError) or is_cancelled_exception(error):
                publish_outcomes([RunOutcome(run=run, status="cancelled") for run in self._names])
                raise
            return self.failed(error_info(error))
        return await self.train_all(
            [
                FineTuneRequest(
                    experiment=spec.name,
                    run=run,
                    data=spec.data,
                    config=config,
                    snapshot=snapshot.snapshot,
                    checkpoints=spec.checkpoints,
                    start_from=spec.start_from,
                    reuse=spec.reuse,
                    started_by=started_by(),
                    reproduces=spec.reproduces,
                )
                for run, config in spec.each_run()
            ]
        )

    async def prepare(self, spec: ExperimentSpec) -> SnapshotResult:
        """Return the snapshot that all runs train on."""
        return await call(
            CREATE_DATASET_SNAPSHOT,
            SnapshotRequest(data=spec.data),
            activity_id="snapshot",
            summary=f"snapshot of {spec.data.source}",
        )

    @workflow.signal(name=REPORT_SIGNAL)
    def report(self, report: RunReport) -> None:
        """Take note of what an activity tells of a run."""
        self._reports.take(report)
        self.show()

    @workflow.query
    def progress(self) -> ExperimentProgress:
        """Return step, loss, last checkpoint and attempts of each run, as last reported."""
        return self._reports.progress()

    def show(self, just_ended: RunOutcome | None = None) -> None:
        """Show runs, steps, checkpoints and attempts in Temporal Web."""
        table = progress_table(self._reports.progress(), self.ended(just_ended))
        workflow.set_current_details(table)
