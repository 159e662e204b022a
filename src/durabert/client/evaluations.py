"""How an evaluation is started."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy

from durabert.client.running import RunningJob
from durabert.workflows import BertRunEvaluationWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine
    from durabert.specs import EvaluationRequest, EvaluationResult


async def start_evaluation(
    temporal: TemporalClient, request: EvaluationRequest, *, queue: str, engine: Engine | None
) -> RunningJob[EvaluationResult]:
    """Start the workflow of an evaluation, or join it if the same request is running."""
    handle = await temporal.start_workflow(
        BertRunEvaluationWorkflow.run,
        request,
        id=request.evaluation_id(),
        task_queue=queue,
        # What is finished is found in the store.
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        id_conflict_policy=WorkflowIDConflictPolicy.USE_EXISTING,
        static_summary=f"evaluate {request.run} on {request.data.source}"[:200],
    )
    return RunningJob(handle, engine)
