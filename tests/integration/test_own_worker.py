"""durabert inside somebody's own Temporal application, and queues split by configuration."""

from __future__ import annotations

import json
import uuid
from datetime import UTC, datetime, timedelta

import pytest
from temporalio import workflow
from temporalio.api.sdk.v1 import WorkflowMetadata
from temporalio.client import Client as TemporalClient
from temporalio.client import WorkflowFailureError
from temporalio.worker import Worker

from durabert.activities.devices import DeviceSlots
from durabert.client import Client
from durabert.connection import TaskQueues
from durabert.plugin import DurabertPlugin
from durabert.specs import FineTuneResult, InferenceRequest
from durabert.workflows.visibility import BEST_METRIC, EXPERIMENT, MODEL, STATUS, TASK
from tests.real import LONG, SHORT, WorkerProcess, spec_for, until
from tests.shell import write_reviews

with workflow.unsafe.imports_passed_through():
    from durabert.specs import FineTuneRequest


MY_HEARTBEAT_TIMEOUT = timedelta(seconds=3)


@workflow.defn
class MyWorkflow:
    """Uses an activity of durabert beside whatever else it does."""

    @workflow.run
    async def run(self, request: FineTuneRequest) -> FineTuneResult:
        return await workflow.execute_activity(
            "fine_tune_bert",
            request,
            result_type=FineTuneResult,
            start_to_close_timeout=timedelta(hours=1),
            heartbeat_timeout=MY_HEARTBEAT_TIMEOUT,
        )


@pytest.fixture
def queue() -> str:
    return f"own-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def reviews(tmp_path):
    return write_reviews(tmp_path / "reviews.csv")


async def test_the_plugin_brings_everything_to_an_own_client_and_worker(
    engine, queue, reviews, tiny, tmp_path
):
    plugin = DurabertPlugin(home=tmp_path / "home")
    client = await TemporalClient.connect(engine.info.address, plugins=[plugin])
    spec = spec_for(queue, reviews, tiny, **SHORT)
    request = FineTuneRequest(experiment="mine", run="mine", data=spec.data, config=spec.runs[0])

    async with Worker(client, task_queue=queue, workflows=[MyWorkflow]):
        outcome = await client.execute_workflow("BertFineTuningWorkflow", spec, id=queue, task_queue=queue)
        mine = await client.execute_workflow(MyWorkflow.run, request, id=f"{queue}-mine", task_queue=queue)

    assert outcome["outcomes"][0]["status"] == "completed"
    assert mine.model_sha256 == outcome["outcomes"][0]["result"]["model_sha256"]
    assert (tmp_path / "home" / "runs" / "mine" / "model" / "model.safetensors").is_file()


async def test_a_run_that_waits_for_a_slot_is_not_taken_for_dead(engine, queue, reviews, tiny, tmp_path):
    plugin = DurabertPlugin(home=tmp_path / "home", slots=DeviceSlots([None]))
    client = await TemporalClient.connect(engine.info.address, plugins=[plugin])
    spec = spec_for(queue, reviews, tiny, **LONG)
    requests = [
        FineTuneRequest(experiment="mine", run=f"waits-{number}", data=spec.data, config=spec.runs[0])
        for number in range(2)
    ]

    async with Worker(client, task_queue=queue, workflows=[MyWorkflow], max_concurrent_activities=2):
        handles = [
            await client.start_workflow(
                MyWorkflow.run, request, id=f"{queue}-{request.run}", task_queue=queue
            )
            for request in requests
        ]

        async def pending():
            descriptions = [await handle.describe() for handle in handles]
            return [one.raw_description.pending_activities for one in descriptions]

        async def both_started_long_ago():
            return all(found and age_of(found[0]) > 2 * MY_HEARTBEAT_TIMEOUT for found in await pending())

        async def one_trains_and_one_waits():
            # The one that trains is validated in between, again and again.
            beats = [activities[0].heartbeat_details.payloads[0].data for activities in await pending()]
            return sorted(json.loads(beat)["phase"] for beat in beats) == ["starting", "training"]

        await until(both_started_long_ago, seconds=60, what="both have been on the worker for long")
        await until(one_trains_and_one_waits, seconds=20, what="one trains and one waits for the slot")
        attempts = [activities[0].attempt for activities in await pending()]
        for handle in handles:
            await handle.cancel()
            with pytest.raises(WorkflowFailureError):
                await handle.result()

    assert attempts == [1, 1]


def age_of(activity) -> timedelta:
    if not activity.HasField("last_started_time"):
        # Scheduled, and not yet with the worker: not at the beginning of 1970.
        return timedelta(0)
    return datetime.now(UTC) - activity.last_started_time.ToDatetime(UTC)


async def test_training_and_inference_are_split_by_configuration(
    engine, temporal, queue, reviews, tiny, tmp_path
):
    queues = TaskQueues(train=queue, inference=f"{queue}-inference")
    client = Client(temporal, queues=queues)
    home = tmp_path / "home"
    trainer = WorkerProcess(engine.info.address, home, tmp_path / "1.log", "--train-queue", queues.train)
    predictor = WorkerProcess(
        engine.info.address, home, tmp_path / "2.log", "--inference-queue", queues.inference
    )
    try:
        await client.start(spec_for(queue, reviews, tiny, **SHORT))
        view = await client.wait(queue)
        prediction = await client.start_prediction(InferenceRequest(run=queue, texts=("the film was great",)))
        await prediction.result()
        events = (await prediction.handle.fetch_history()).events
    finally:
        trainer.stop()
        predictor.stop()

    predicted_by = {
        event.activity_task_started_event_attributes.identity
        for event in events
        if event.HasField("activity_task_started_event_attributes")
    }
    assert view.runs[0].worker.startswith(f"{trainer.pid}@")
    assert [identity.split("@")[0] for identity in predicted_by] == [str(predictor.pid)]


async def test_temporal_web_shows_an_experiment(engine, temporal, queue, reviews, tiny, tmp_path):
    client = Client(temporal, queues=TaskQueues(train=queue, inference=queue))
    worker = WorkerProcess(engine.info.address, tmp_path / "home", tmp_path / "log", "--train-queue", queue)
    try:
        await client.start(spec_for(queue, reviews, tiny, **SHORT))
        view = await client.wait(queue)
        handle = temporal.get_workflow_handle(queue)
        metadata = await handle.query("__temporal_workflow_metadata", result_type=WorkflowMetadata)
    finally:
        worker.stop()

    description = await handle.describe()
    found = description.typed_search_attributes
    assert found[EXPERIMENT] == queue
    assert found[MODEL] == [str(tiny)]
    assert found[TASK] == "binary"
    assert found[STATUS] == "completed"
    assert found[BEST_METRIC] == view.runs[0].result.metrics["accuracy"]
    assert "Fine-tune" in await description.static_summary()
    assert "learning rate" in await description.static_details()
    assert f"| {queue} | completed | 28 |" in metadata.current_details
    assert "| 1: completed | accuracy" in metadata.current_details
