"""An export that goes on, and what it gave."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING

from temporalio.client import WorkflowFailureError, WorkflowHandle

from durabert.client.failures import restored
from durabert.client.status import pending_progress
from durabert.workflows import BertExportWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.specs import ExportRequest, ExportResult, Progress


@dataclass(frozen=True)
class RunningExport:
    """An export that was started."""

    handle: WorkflowHandle[BertExportWorkflow, ExportResult]
    """Its workflow."""

    async def progress(self) -> Progress | None:
        """Return how far it is; none before the first sign of a worker and after the end."""
        return pending_progress(await self.handle.describe())

    async def result(self) -> ExportResult:
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


async def start_export(temporal: TemporalClient, request: ExportRequest, *, queue: str) -> RunningExport:
    """Start the workflow of an export."""
    handle = await temporal.start_workflow(
        BertExportWorkflow.run,
        request,
        id=f"export:{request.run}:{uuid.uuid4().hex[:8]}",
        task_queue=queue,
        static_summary=f"export {request.run} as {request.format}"[:200],
    )
    return RunningExport(handle)
