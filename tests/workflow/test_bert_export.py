"""What the export workflow decides, and what a client tells of it, on a real server."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from durabert.contract import EXPORT_WORKFLOW
from durabert.errors import ExportRefused, RunNotUsable
from durabert.specs import DataSpec, ExperimentSpec, ExportRequest, FineTuneConfig
from tests.real import until


@pytest.fixture
async def run(bench, unique):
    """The name of a run that has a model."""
    await bench.client.start(
        ExperimentSpec(name=unique, data=DataSpec(source="reviews.csv"), runs=(FineTuneConfig(),))
    )
    await bench.client.wait(unique)
    return unique


async def test_an_export_says_where_it_is(bench, run):
    export = await bench.client.start_export(ExportRequest(run=run, format="onnx", output="/exported"))

    result = await export.result()

    assert (result.run, result.format, result.output) == (run, "onnx", "/exported")
    await bench.replay(export.handle.id)


async def test_a_refused_export_is_told_as_what_it_is(bench, run):
    request = ExportRequest(run=run, format="onnx-int8", output="/refused")

    with pytest.raises(ExportRefused, match="it predicts otherwise"):
        await bench.client.export(request)


async def test_cancel_ends_an_export(bench, run):
    export = await bench.client.start_export(ExportRequest(run=run, format="onnx", output="/endless"))

    async def exports():
        progress = await export.progress()
        return progress is not None and progress.phase == "exporting"

    await until(exports, seconds=20, what="the export goes on")
    await export.cancel()

    description = await export.handle.describe()
    assert description.status is WorkflowExecutionStatus.CANCELED
    await bench.replay(export.handle.id)


async def test_a_run_without_a_model_is_not_exported(bench, unique):
    await bench.client.start(
        ExperimentSpec(
            name=unique, data=DataSpec(source="reviews.csv"), runs=(FineTuneConfig(model="missing"),)
        )
    )
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match="it failed: no such model"):
        await bench.client.export(ExportRequest(run=unique, format="hf", output="/exported"))


@pytest.mark.parametrize(
    "request_fields",
    [
        {"run": "../../escape", "format": "hf", "output": "/exported"},
        {"run": "ok", "format": "pickle", "output": "/exported"},
        {"run": "ok", "format": "hf"},
    ],
)
async def test_a_request_that_cannot_be_decoded_fails_the_workflow_at_once(bench, unique, request_fields):
    handle = await bench.client.temporal.start_workflow(
        EXPORT_WORKFLOW, request_fields, id=unique, task_queue=unique
    )

    async with asyncio.timeout(10):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert caught.value.cause.type == "SpecInvalid"
    assert caught.value.cause.non_retryable
