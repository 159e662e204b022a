"""Export the model of a finished run."""

from __future__ import annotations

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.contract import EXPORT_BERT, EXPORT_WORKFLOW
    from durabert.specs import ExportRequest, ExportResult
    from durabert.workflows.experiment import error_info
    from durabert.workflows.policies import call


@workflow.defn(name=EXPORT_WORKFLOW)
class BertExportWorkflow:
    """Write the model of a finished run to a directory that other tools load."""

    @workflow.run
    async def run(self, request: ExportRequest) -> ExportResult:
        """Return what was written, and how it compares with the trained model."""
        try:
            return await call(
                EXPORT_BERT,
                request,
                activity_id=request.run,
                summary=f"export {request.run} as {request.format} to {request.output}"[:200],
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            info = error_info(error)
            raise ApplicationError(info.message, type=info.type, non_retryable=True) from error
