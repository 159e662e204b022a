"""Export the model of a finished run."""

from __future__ import annotations

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from durabert.contract import EXPORT_BERT, EXPORT_WORKFLOW
    from durabert.specs import ExportRequest, ExportResult
    from durabert.workflows.failures import failing_alike
    from durabert.workflows.policies import call


@workflow.defn(name=EXPORT_WORKFLOW)
class BertExportWorkflow:
    """Write the model of a finished run to a directory that other tools load."""

    @workflow.run
    async def run(self, request: ExportRequest) -> ExportResult:
        """Return what was written, and how it compares with the trained model."""
        with failing_alike():
            return await call(
                EXPORT_BERT,
                request,
                activity_id=request.run,
                summary=f"export {request.run} as {request.format} to {request.output}",
            )
