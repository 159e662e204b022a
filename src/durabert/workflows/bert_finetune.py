"""The baseline pattern: one experiment, a list of configurations, then inference. No snapshots, no resume."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from durabert.contract import FINE_TUNING_WORKFLOW, INFERENCE_WORKFLOW, RUN_BERT_INFERENCE
    from durabert.specs import (
        ErrorInfo,
        ExperimentResult,
        ExperimentSpec,
        FineTuneRequest,
        InferenceRequest,
        InferenceResult,
        RunOutcome,
    )
    from durabert.workflows.experiment import ExperimentRuns, started_by
    from durabert.workflows.failures import failing_alike
    from durabert.workflows.policies import call
    from durabert.workflows.visibility import run_table


@workflow.defn(name=FINE_TUNING_WORKFLOW)
class BertFineTuningWorkflow(ExperimentRuns):
    """Train every configuration of an experiment; one that fails does not lose the others' results."""

    @workflow.init
    def __init__(self, spec: ExperimentSpec) -> None:
        super().__init__(spec)

    @workflow.run
    async def run(self, spec: ExperimentSpec) -> ExperimentResult:
        """Return the outcome of every run.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        if spec.start_from is not None:
            return self.failed(
                ErrorInfo(
                    type="SpecInvalid",
                    message="start_from needs checkpoints, which BertFineTuningWorkflow does not make; "
                    "use CheckpointedBertTrainingWorkflow",
                )
            )
        return await self.train_all(
            [
                FineTuneRequest(
                    experiment=spec.name,
                    run=run,
                    data=spec.data,
                    config=config,
                    reuse=spec.reuse,
                    started_by=started_by(),
                    reproduces=spec.reproduces,
                )
                for run, config in spec.each_run()
            ]
        )

    def show(self, just_ended: RunOutcome | None = None) -> None:
        """Show a table of the runs in Temporal Web."""
        workflow.set_current_details(run_table(self._names, self.ended(just_ended)))


@workflow.defn(name=INFERENCE_WORKFLOW)
class BertInferenceWorkflow:
    """Predict with the model of a finished run."""

    @workflow.run
    async def run(self, request: InferenceRequest) -> InferenceResult:
        """Return the predictions, or where they were written."""
        what = f"{len(request.texts)} texts" if request.input is None else request.input.path
        with failing_alike():
            return await call(
                RUN_BERT_INFERENCE,
                request,
                activity_id=request.run,
                summary=f"predict {what} with {request.run}",
            )
