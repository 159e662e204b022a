"""What both patterns decide, and what a client tells of them, on a real server."""

from __future__ import annotations

import asyncio
import functools
from datetime import timedelta

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError

from durabert.client import finding
from durabert.contract import CHECKPOINTED_WORKFLOW, FINE_TUNING_WORKFLOW, INFERENCE_WORKFLOW, PATTERNS
from durabert.errors import NameInUse, RunNotFound, RunNotUsable
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig, InferenceRequest
from durabert.workflows.visibility import STATUS
from tests.real import until
from tests.workflow.conftest import serving

DATA = DataSpec(source="reviews.csv")


def experiment(name: str, *models: str, **fields) -> ExperimentSpec:
    return ExperimentSpec(
        name=name, data=DATA, runs=tuple(FineTuneConfig(model=model) for model in models), **fields
    )


@pytest.fixture(params=PATTERNS)
def either(request, bench, monkeypatch):
    """The bench, on which experiments of one pattern are started."""
    of_pattern = functools.partial(bench.client.start, pattern=request.param)
    monkeypatch.setattr(bench.client, "start", of_pattern)
    return bench


async def test_every_run_of_an_experiment_is_trained(either, unique):
    await either.client.start(experiment(unique, "minilm", "minilm"))

    view = await either.client.wait(unique)

    assert view.status == "completed"
    assert [run.run for run in view.runs] == [f"{unique}.1", f"{unique}.2"]
    assert all(run.result.metrics == {"accuracy": 0.75} for run in view.runs)
    await either.replay(unique)


async def test_a_single_run_has_the_name_of_its_experiment(either, unique):
    await either.client.start(experiment(unique, "minilm"))

    view = await either.client.wait(unique)

    assert [run.run for run in view.runs] == [unique]


async def test_one_run_stays_below_60_events(either, unique):
    await either.client.start(experiment(unique, "minilm"))

    view = await either.client.wait(unique)

    assert view.num_events < 60


async def test_a_failed_run_does_not_lose_the_others(either, unique):
    await either.client.start(experiment(unique, "minilm", "missing", "minilm"))

    view = await either.client.wait(unique)

    assert [run.status for run in view.runs] == ["completed", "failed", "completed"]
    assert view.status == "partial"
    assert view.runs[1].error.type == "ModelNotFound"
    assert view.runs[1].error.message == "no such model"
    assert either.activities.attempts[f"{unique}.2"] == 1
    await either.replay(unique)


async def test_an_experiment_whose_runs_all_failed_is_failed(either, unique):
    await either.client.start(experiment(unique, "missing", "missing"))

    with pytest.raises(WorkflowFailureError, match="Workflow execution failed") as caught:
        await either.client.temporal.get_workflow_handle(unique).result()

    assert caught.value.cause.type == "ModelNotFound"
    assert (await either.client.status(unique)).status == "failed"
    await either.replay(unique)


async def test_infrastructure_errors_are_retried_and_told(either, unique):
    await either.client.start(experiment(unique, "flaky"))

    view = await either.client.wait(unique)

    assert view.runs[0].status == "completed"
    assert view.runs[0].attempts == 2
    assert view.runs[0].last_error.type == "ProcessKilled"
    await either.replay(unique)


async def test_runs_go_side_by_side(either, unique):
    spec = experiment(unique, "endless", "endless")
    await either.client.start(spec)

    async def both():
        return either.activities.running == 2

    await until(both, seconds=20, what="both runs go")
    await either.client.cancel(unique)

    assert either.activities.most_running == 2


async def test_runs_go_one_after_the_other_on_request(either, unique):
    await either.client.start(experiment(unique, "lingering", "lingering", "lingering", in_order=True))

    await either.client.wait(unique)

    assert either.activities.most_running == 1
    assert either.activities.started == [f"{unique}.{number}" for number in (1, 2, 3)]
    await either.replay(unique)


async def test_cancel_returns_when_the_activity_has_ended(either, unique):
    await either.client.start(experiment(unique, "endless"))

    async def running():
        return either.activities.running == 1

    await until(running, seconds=20, what="the run goes")
    view = await either.client.cancel(unique)

    description = await either.client.temporal.get_workflow_handle(unique).describe()
    assert view.status == "cancelled"
    assert description.status is WorkflowExecutionStatus.CANCELED
    assert description.typed_search_attributes[STATUS] == "cancelled"
    assert either.activities.ended == [unique]
    await either.replay(unique)


async def test_one_run_can_be_cancelled_alone(either, unique):
    await either.client.start(experiment(unique, "endless", "endless"))

    async def both():
        return either.activities.running == 2

    await until(both, seconds=20, what="both runs go")
    view = await either.client.cancel(f"{unique}.1")

    assert [run.status for run in view.runs] == ["cancelled", "running"]
    assert either.activities.running == 1
    view = await either.client.cancel(unique)
    assert {run.status for run in view.runs} == {"cancelled"}
    await either.replay(unique)


async def test_a_run_that_waits_for_its_turn_can_be_cancelled(either, unique):
    await either.client.start(experiment(unique, "endless", "minilm", in_order=True))

    async def running():
        return either.activities.running == 1

    await until(running, seconds=20, what="the run goes")
    view = await either.client.cancel(f"{unique}.2")
    await either.client.cancel(unique)

    assert [run.status for run in view.runs] == ["running", "cancelled"]
    assert either.activities.started == [f"{unique}.1"]
    await either.replay(unique)


async def test_cancel_of_what_has_ended_is_refused(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match="already ended: completed"):
        await bench.client.cancel(unique)


async def test_the_same_spec_joins_the_run(bench, unique):
    first = await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    second = await bench.client.start(experiment(unique, "minilm"))

    assert (first.joined, second.joined) == (False, True)
    assert bench.activities.started == [unique]


async def test_another_spec_under_the_same_name_is_refused(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))

    with pytest.raises(NameInUse, match=r"its model is 'minilm', not 'other'"):
        await bench.client.start(experiment(unique, "other"))


async def test_a_failed_name_can_be_used_again(bench, unique):
    await bench.client.start(experiment(unique, "missing"))
    await bench.client.wait(unique)

    await bench.client.start(experiment(unique, "minilm"))

    assert (await bench.client.wait(unique)).status == "completed"


async def test_progress_is_seen_while_a_run_goes_on(bench, unique):
    await bench.client.start(experiment(unique, "endless"))

    async def reported():
        run = await bench.client.run_status(unique)
        return run.progress is not None and run.progress.step == 4

    await until(reported, seconds=20, what="progress is reported")
    run = await bench.client.run_status(unique)
    await bench.client.cancel(unique)

    assert run.status == "running"
    assert run.progress.loss == 0.4
    assert run.heartbeat_age_seconds < 5


async def test_who_watches_a_calm_run_is_told_of_its_end_at_once(bench, unique, monkeypatch):
    monkeypatch.setattr(finding, "CALM_AFTER", timedelta(0))
    monkeypatch.setattr(finding, "CALM_POLL_INTERVAL", timedelta(hours=1))
    await bench.client.start(experiment(unique, "endless"))
    statuses = []
    watched = asyncio.Event()

    async def watch():
        async for view in bench.client.watch(unique):
            statuses.append(view.status)
            watched.set()

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(watch())

        async def running():
            return watched.is_set() and bench.activities.running == 1

        await until(running, seconds=20, what="the run goes and is watched")
        await bench.client.cancel(unique)

    assert statuses[-1] == "cancelled"
    assert len(statuses) == 2


async def test_unknown_names_are_told(bench, unique):
    with pytest.raises(RunNotFound, match=unique):
        await bench.client.status(unique)


async def test_predictions_come_back_in_order(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    result = await bench.client.predict(InferenceRequest(run=unique, texts=("good", "bad")))

    assert [prediction.label for prediction in result.predictions] == ["yes", "yes"]


async def test_a_run_without_a_model_is_not_predicted_with(bench, unique):
    await bench.client.start(experiment(unique, "missing"))
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match="it failed: no such model"):
        await bench.client.predict(InferenceRequest(run=unique, texts=("good",)))


@pytest.mark.parametrize("pattern", PATTERNS)
async def test_a_workflow_without_cache_decides_the_same(temporal, unique, pattern):
    async with serving(temporal, unique, max_cached_workflows=0) as bench:
        spec = experiment(unique, "minilm", "flaky", in_order=True)
        await bench.client.start(spec, pattern=pattern)

        view = await bench.client.wait(unique)

    assert view.status == "completed"
    await bench.replay(unique)


@pytest.mark.parametrize(
    ("workflow", "request_fields"),
    [
        (FINE_TUNING_WORKFLOW, {"name": "../../escape", "data": {"source": "x.csv"}}),
        (FINE_TUNING_WORKFLOW, {"name": "ok", "data": {"source": "x.csv"}, "runs": [{"batch_size": 0}]}),
        (FINE_TUNING_WORKFLOW, {"name": "ok"}),
        (CHECKPOINTED_WORKFLOW, {"name": "../../escape", "data": {"source": "x.csv"}}),
        (INFERENCE_WORKFLOW, {"run": "../../escape", "texts": ["x"]}),
        (INFERENCE_WORKFLOW, {"run": "ok", "texts": []}),
    ],
)
async def test_a_request_that_cannot_be_decoded_fails_the_workflow_at_once(
    bench, unique, workflow, request_fields
):
    handle = await bench.client.temporal.start_workflow(
        workflow, request_fields, id=unique, task_queue=unique
    )

    async with asyncio.timeout(10):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert caught.value.cause.type == "SpecInvalid"
    assert caught.value.cause.non_retryable
    assert bench.activities.started == []
    assert unique not in [found.name for found in await bench.client.experiments()]


async def test_unknown_fields_of_an_older_or_newer_request_are_ignored(bench, unique):
    fields = {"name": unique, "data": {"source": "x.csv", "from_the_future": 1}, "later": True}

    handle = await bench.client.temporal.start_workflow(
        FINE_TUNING_WORKFLOW, fields, id=unique, task_queue=unique
    )

    assert (await handle.result())["outcomes"][0]["status"] == "completed"
