"""A batch that goes on, and what it gave."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import WorkflowQueryFailedError
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.running import ContinuedJob
from durabert.client.status import rows_in_flight
from durabert.contract import BATCH_INFERENCE_WORKFLOW
from durabert.errors import RunNotFound
from durabert.specs import BatchInferenceRequest, BatchInferenceResult, BatchProgress
from durabert.workflows import BertBatchInferenceWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.client import WorkflowHandle

    from durabert.engine import Engine

ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long a worker may take to say how far a batch is; there may be none."""


class RunningBatch(ContinuedJob[BatchInferenceResult]):
    """A batch that was started, or found."""

    async def progress(self) -> BatchProgress | None:
        """Return how far it is, rows of shards in flight among those that are done; none: nobody says so."""
        try:
            told = await self.handle.query(BertBatchInferenceWorkflow.progress, rpc_timeout=ANSWER_LIMIT)
            in_flight = rows_in_flight(await self.handle.describe())
        except (RPCError, WorkflowQueryFailedError):
            return None
        return told.model_copy(update={"rows_done": min(told.rows, told.rows_done + in_flight)})


async def start_batch(
    temporal: TemporalClient, request: BatchInferenceRequest, *, queue: str, engine: Engine | None
) -> RunningBatch:
    """Start the workflow of a batch, or join it if the same request is running."""
    try:
        handle = await temporal.start_workflow(
            BertBatchInferenceWorkflow.run,
            request,
            id=request.batch_id(),
            task_queue=queue,
            # What is finished is found in the output.
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            static_summary=f"predict {request.input.path} with {request.run} into {request.output}"[:200],
        )
    except WorkflowAlreadyStartedError:
        return RunningBatch(_handle(temporal, request.batch_id()), joined=True, engine=engine)
    return RunningBatch(handle, engine=engine)


async def find_batch(temporal: TemporalClient, name: str, *, engine: Engine | None) -> RunningBatch:
    """Return a batch by the id of its workflow.

    Raises:
        RunNotFound: there is none of that id.
    """
    handle = _handle(temporal, name)
    try:
        description = await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise RunNotFound(name) from None
    if description.workflow_type != BATCH_INFERENCE_WORKFLOW:
        raise RunNotFound(name)
    return RunningBatch(handle, joined=True, engine=engine)


def _handle(temporal: TemporalClient, name: str) -> WorkflowHandle[Any, BatchInferenceResult]:
    return temporal.get_workflow_handle_for(BertBatchInferenceWorkflow.run, name)
