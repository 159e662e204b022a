"""How an export is started."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from durabert.client.running import RunningJob
from durabert.workflows import BertExportWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine
    from durabert.specs import ExportRequest, ExportResult


async def start_export(
    temporal: TemporalClient, request: ExportRequest, *, queue: str, engine: Engine | None
) -> RunningJob[ExportResult]:
    """Start the workflow of an export."""
    handle = await temporal.start_workflow(
        BertExportWorkflow.run,
        request,
        id=f"export:{request.run}:{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        static_summary=f"export {request.run} as {request.format}"[:200],
    )
    return RunningJob(handle, engine)
