"""A prediction that goes on, and what it gave."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio.client import WorkflowFailureError, WorkflowHandle

from durabert.client.failures import restored
from durabert.client.status import pending_progress
from durabert.workflows import BertInferenceWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.specs import InferenceRequest, InferenceResult, Progress


@dataclass(frozen=True)
class RunningPrediction:
    """A prediction that was started."""

    handle: WorkflowHandle[BertInferenceWorkflow, InferenceResult]
    """Its workflow."""

    async def progress(self) -> Progress | None:
        """Return how far it is; none before the first sign of a worker and after the end."""
        return pending_progress(await self.handle.describe())

    async def result(self) -> InferenceResult:
        """Wait for its end.

        Raises:
            DurabertError: it failed; nothing was written.
        """
        try:
            return await self.handle.result()
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def cancel(self) -> None:
        """Cancel it and return when no process of it is left; nothing is written."""
        await self.handle.cancel()
        try:
            await self.handle.result()
        except WorkflowFailureError:
            return


async def start_prediction(
    temporal: TemporalClient, request: InferenceRequest, *, queue: str
) -> RunningPrediction:
    """Start the workflow of a prediction."""
    what = f"{len(request.texts)} texts" if request.input is None else request.input.path
    handle = await temporal.start_workflow(
        BertInferenceWorkflow.run,
        request,
        id=f"predict:{request.run}:{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        static_summary=f"predict {what} with {request.run}"[:200],
    )
    return RunningPrediction(handle)
