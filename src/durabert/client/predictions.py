"""How a prediction is started."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from durabert.client.running import RunningJob
from durabert.workflows import BertInferenceWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine
    from durabert.specs import InferenceRequest, InferenceResult


async def start_prediction(
    temporal: TemporalClient, request: InferenceRequest, *, queue: str, engine: Engine | None
) -> RunningJob[InferenceResult]:
    """Start the workflow of a prediction."""
    what = f"{len(request.texts)} texts" if request.input is None else request.input.path
    handle = await temporal.start_workflow(
        BertInferenceWorkflow.run,
        request,
        id=f"predict:{request.run}:{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        static_summary=f"predict {what} with {request.run}"[:200],
    )
    return RunningJob(handle, engine)
