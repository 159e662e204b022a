"""The third pattern: train every configuration with every seed, evaluate each run once it is trained."""

from __future__ import annotations

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.contract import (
        EVAL_WORKFLOW,
        EVALUATE_BERT,
        PLAN_EVALUATIONS,
        RUN_EVALUATION_WORKFLOW,
        evaluation_id,
    )
    from durabert.specs import (
        EvaluationOptions,
        EvaluationOutcome,
        EvaluationPlanRequest,
        EvaluationRequest,
        EvaluationResult,
        EvaluationSpec,
        ExperimentResult,
        ExperimentSpec,
        FineTuneRequest,
        PlannedEvaluation,
        RunOutcome,
        SnapshotResult,
    )
    from durabert.workflows.bert_checkpointing import CheckpointedBertTrainingWorkflow
    from durabert.workflows.failures import error_info, failing_alike
    from durabert.workflows.policies import call, cancel_requested, require_not_cancelled
    from durabert.workflows.visibility import evaluation_table


@workflow.defn(name=EVAL_WORKFLOW)
class BertEvalWorkflow(CheckpointedBertTrainingWorkflow):
    """Snapshot all data once, train with checkpoints, and evaluate each run without waiting for others."""

    @workflow.init
    def __init__(self, spec: ExperimentSpec) -> None:
        super().__init__(spec)
        self._sets = spec.evaluation_sets()
        self._planned: list[PlannedEvaluation] = []
        self._evaluated: dict[str, list[EvaluationOutcome]] = {run: [] for run in self._names}

    @workflow.run
    async def run(self, spec: ExperimentSpec) -> ExperimentResult:
        """Return the outcome of every run, with its evaluations.

        Raises:
            ApplicationError: every run failed; its detail is the ``ExperimentResult``.
        """
        return await self.conduct(spec)

    async def prepare(self, spec: ExperimentSpec) -> SnapshotResult:
        """Return the snapshot to train on, once every evaluation set is known to fit it."""
        snapshot = await super().prepare(spec)
        require_not_cancelled()
        plan = await call(
            PLAN_EVALUATIONS,
            EvaluationPlanRequest(
                data=spec.data,
                snapshot=snapshot.snapshot,
                tasks=tuple(dict.fromkeys(config.task for config in spec.runs)),
                sets=tuple(one for _, one in self._sets),
            ),
            activity_id="evaluation-sets",
            summary=f"{len(self._sets)} evaluation sets",
        )
        self._planned = plan.sets
        return snapshot

    async def attempt(self, request: FineTuneRequest) -> RunOutcome:
        """Train a run, and evaluate it at once."""
        outcome = await super().attempt(request)
        if outcome.result is None:
            return outcome
        for (name, options), planned in zip(self._sets, self._planned, strict=True):
            if cancel_requested():
                break
            self._evaluated[request.run].append(await self._evaluate(request.run, name, options, planned))
            self.show()
        ended = self._evaluated[request.run]
        complete = len(ended) == len(self._sets) and all(one.status != "cancelled" for one in ended)
        status = outcome.status if complete else "cancelled"
        return outcome.model_copy(update={"status": status, "evaluations": ended})

    async def _evaluate(
        self, run: str, name: str, options: EvaluationSpec, planned: PlannedEvaluation
    ) -> EvaluationOutcome:
        how = {field: getattr(options, field) for field in EvaluationOptions.model_fields if field != "split"}
        request = EvaluationRequest(
            run=run, data=planned.data, snapshot=planned.snapshot, split=planned.split, **how
        )
        try:
            result = await call(
                EVALUATE_BERT,
                request,
                activity_id=evaluation_id(run, name),
                summary=f"evaluate {run} on {planned.data.source} {planned.split}",
            )
        except (ActivityError, asyncio.CancelledError) as error:
            if not isinstance(error, ActivityError) or is_cancelled_exception(error) or cancel_requested():
                return EvaluationOutcome(name=name, status="cancelled")
            return EvaluationOutcome(name=name, status="failed", error=error_info(error))
        return EvaluationOutcome(name=name, status="completed", result=result)

    def show(self, just_ended: RunOutcome | None = None) -> None:
        """Show the runs, and below them the evaluations that have ended, in Temporal Web."""
        super().show(just_ended)
        table = evaluation_table(self._evaluated)
        if table:
            workflow.set_current_details(f"{workflow.get_current_details()}\n\n{table}")


@workflow.defn(name=RUN_EVALUATION_WORKFLOW)
class BertRunEvaluationWorkflow:
    """Evaluate one finished run."""

    @workflow.run
    async def run(self, request: EvaluationRequest) -> EvaluationResult:
        """Return the metrics, and the id of all that is in the store."""
        with failing_alike():
            return await call(
                EVALUATE_BERT,
                request,
                activity_id=request.run,
                summary=f"evaluate {request.run} on {request.data.source}",
            )
