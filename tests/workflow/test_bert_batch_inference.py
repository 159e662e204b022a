"""What ``BertBatchInferenceWorkflow`` decides: a window, short histories and one end, on a real server."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHistory
from temporalio.worker import Replayer

from durabert.contract import BATCH_INFERENCE_WORKFLOW, RUN_BERT_INFERENCE
from durabert.errors import ArtifactDamaged, RunCancelled, RunNotFound, RunNotUsable
from durabert.specs import BatchInferenceRequest, TextsSpec
from durabert.wire import data_converter
from durabert.workflows import WORKFLOWS, policies
from durabert.workflows.policies import LONG_HISTORY
from tests.real import until
from tests.workflow.conftest import serving

EVENTS_OF_A_SHARD = 6
"""Scheduled, started and completed, each of the activity and of the decision that follows."""

_number = itertools.count()


def request(run: str, rows: int, **fields) -> BatchInferenceRequest:
    options = {"shard_rows": 1, "concurrency": 3, **fields}
    return BatchInferenceRequest(
        run=run, input=TextsSpec(path=f"{rows}.csv"), output=f"out-{next(_number)}", **options
    )


async def executions(bench, batch) -> list[WorkflowHistory]:
    """Return the history of every execution of a batch, from the first one on."""
    histories, run_id = [], batch.handle.result_run_id
    while run_id:
        handle = bench.client.temporal.get_workflow_handle(batch.name, run_id=run_id)
        histories.append(await handle.fetch_history())
        last = histories[-1].events[-1]
        continued = last.workflow_execution_continued_as_new_event_attributes
        run_id = continued.new_execution_run_id
    return histories


async def replays(histories) -> None:
    replayer = Replayer(workflows=WORKFLOWS, data_converter=data_converter)
    for history in histories:
        await replayer.replay_workflow(history)


def num_shards(history: WorkflowHistory) -> int:
    return sum(
        event.activity_task_scheduled_event_attributes.activity_type.name == RUN_BERT_INFERENCE.name
        for event in history.events
    )


async def test_every_shard_is_scored_once_and_then_all_is_committed(bench):
    batch = await bench.client.start_batch(request("films", 10))

    result = await batch.result()

    fake = bench.activities.batches
    assert sorted(fake.scored) == list(range(10))
    assert (fake.plans, fake.commits) == (1, 1)
    assert result.rows == 10
    assert result.rows_per_second > 0
    await replays(await executions(bench, batch))


async def test_the_last_shard_has_the_rest(bench):
    batch = await bench.client.start_batch(request("films", 10, shard_rows=4))

    await batch.result()

    assert sorted(bench.activities.batches.begun) == [0, 4, 8]
    progress = await batch.progress()
    assert (progress.rows_done, progress.shards_done, progress.shards) == (10, 3, 3)


@pytest.mark.parametrize("concurrency", [1, 5])
async def test_as_many_shards_as_allowed_are_in_flight(bench, concurrency):
    batch = await bench.client.start_batch(request("endless", 50, concurrency=concurrency))

    async def full():
        return bench.activities.batches.running == concurrency

    await until(full, seconds=20, what="the window is full")
    await batch.cancel()
    assert bench.activities.batches.most_running == concurrency


async def test_one_that_takes_long_holds_no_other_up(bench):
    batch = await bench.client.start_batch(request("straggler", 20))
    fake = bench.activities.batches

    async def all_others():
        return len(fake.scored) == 19

    await until(all_others, seconds=20, what="all shards but the first have ended")
    assert fake.begun[0] == 0
    assert 0 not in fake.scored
    fake.may_end.set()
    await batch.result()
    assert fake.most_running <= 3


async def test_a_history_stays_short_whatever_the_number_of_shards(bench):
    batch = await bench.client.start_batch(request("films", 100, concurrency=4))

    result = await batch.result()

    histories = await executions(bench, batch)
    assert sorted(bench.activities.batches.scored) == list(range(100))
    assert result.shards == 100
    assert len(histories) > 1
    assert sum(num_shards(history) for history in histories) == 100
    for history in histories:
        assert len(history.events) <= LONG_HISTORY + EVENTS_OF_A_SHARD * 4 + 10
        assert len(history.events) <= EVENTS_OF_A_SHARD * num_shards(history) + 20
    await replays(histories)


@pytest.fixture
def short_histories(monkeypatch):
    """Executions of a few shards each."""
    monkeypatch.setattr(policies, "LONG_HISTORY", 30)
    monkeypatch.setattr(policies, "EVENTS_OF_A_WINDOW", 5)


async def test_what_is_handed_on_has_one_size(bench, short_histories):
    batch = await bench.client.start_batch(request("films", 30))
    result = await batch.result()

    _, *later = histories = await executions(bench, batch)

    assert sorted(bench.activities.batches.scored) == list(range(30))
    assert result.rows == 30
    starts = [history.events[0].workflow_execution_started_event_attributes.input for history in later]
    assert len(starts) >= 2
    assert all(start.payloads[0].ByteSize() < 1000 for start in starts)
    await replays(histories)


async def test_a_workflow_without_cache_decides_the_same(temporal, unique, short_histories):
    async with serving(temporal, unique, max_cached_workflows=0) as bench:
        batch = await bench.client.start_batch(request("films", 14, concurrency=2))

        await batch.result()

        histories = await executions(bench, batch)
    assert len(histories) > 1
    assert sorted(bench.activities.batches.scored) == list(range(14))
    await replays(histories)


async def test_shards_that_were_committed_before_are_passed_over(bench):
    batch = await bench.client.start_batch(request("begun", 35))

    await batch.result()

    assert sorted(bench.activities.batches.begun) == list(range(30, 35))


async def test_a_finished_output_is_told_and_nothing_is_scored(bench):
    batch = await bench.client.start_batch(request("finished", 10))

    result = await batch.result()

    assert result.reused
    assert (bench.activities.batches.begun, bench.activities.batches.commits) == ([], 0)
    await replays(await executions(bench, batch))


async def test_cancel_returns_when_every_shard_has_left(bench):
    batch = await bench.client.start_batch(request("endless", 50))
    fake = bench.activities.batches

    async def running():
        return fake.running == 3

    await until(running, seconds=20, what="the window is full")
    await batch.cancel()

    assert (fake.running, fake.left, fake.commits) == (0, 3, 0)
    assert (await batch.handle.describe()).status is WorkflowExecutionStatus.CANCELED
    with pytest.raises(RunCancelled):
        await batch.result()
    with pytest.raises(RunNotUsable, match="has already ended"):
        await batch.cancel()
    await replays(await executions(bench, batch))


async def test_a_plan_that_is_finished_as_the_cancel_comes_is_not_scored(bench):
    batch = await bench.client.start_batch(request("finishing-plan", 50))
    fake = bench.activities.batches

    async def planning():
        return fake.plans == 1

    await until(planning, seconds=20, what="the plan is made")
    await batch.cancel()

    assert (fake.begun, fake.commits) == ([], 0)
    with pytest.raises(RunCancelled):
        await batch.result()
    await replays(await executions(bench, batch))


async def test_a_shard_that_is_finished_as_the_cancel_comes_is_the_last_one(bench):
    batch = await bench.client.start_batch(request("finishing", 50, concurrency=1))
    fake = bench.activities.batches

    async def scoring():
        return fake.running == 1

    await until(scoring, seconds=20, what="the first shard is scored")
    await batch.cancel()

    assert (fake.begun, fake.scored, fake.commits) == ([0], [0], 0)
    with pytest.raises(RunCancelled):
        await batch.result()
    await replays(await executions(bench, batch))


async def test_a_shard_that_cannot_be_scored_ends_the_batch_and_the_others(bench):
    batch = await bench.client.start_batch(request("broken", 50, shard_rows=10))
    fake = bench.activities.batches

    with pytest.raises(ArtifactDamaged, match="it is damaged"):
        await batch.result()

    assert (fake.running, fake.left, fake.commits) == (0, 2, 0)
    await replays(await executions(bench, batch))


async def test_infrastructure_errors_are_retried(bench):
    batch = await bench.client.start_batch(request("flaky", 3))

    await batch.result()

    assert sorted(bench.activities.batches.begun) == [0, 0, 1, 1, 2, 2]
    assert sorted(bench.activities.batches.scored) == [0, 1, 2]
    await replays(await executions(bench, batch))


async def test_a_plan_that_cannot_be_made_fails_once(bench):
    batch = await bench.client.start_batch(request("nobody", 3))

    with pytest.raises(RunNotFound, match="no run 'nobody'"):
        await batch.result()
    assert bench.activities.batches.plans == 1


async def test_the_same_request_joins_what_is_running(bench):
    wanted = request("endless", 50)
    first = await bench.client.start_batch(wanted)

    second = await bench.client.start_batch(wanted.model_copy(update={"concurrency": 9}))
    other = await bench.client.start_batch(wanted.model_copy(update={"precision": "fp32"}))

    assert (first.joined, second.joined, other.joined) == (False, True, False)
    assert first.name == second.name != other.name
    for batch in (second, other):
        await batch.cancel()


async def test_a_batch_is_found_by_its_name(bench, unique):
    batch = await bench.client.start_batch(request("films", 3))
    await batch.result()

    found = await bench.client.batch(batch.name)

    assert (await found.result()).rows == 3
    with pytest.raises(RunNotFound):
        await bench.client.batch(f"batch:films:{unique}")


async def test_progress_counts_the_rows_of_shards_in_flight(bench):
    batch = await bench.client.start_batch(request("endless", 100, shard_rows=10))

    async def told():
        progress = await batch.progress()
        return progress is not None and progress.rows_done == 9

    await until(told, seconds=20, what="three rows of each of three shards are told")
    progress = await batch.progress()
    await batch.cancel()

    assert (progress.phase, progress.rows, progress.shards, progress.in_flight) == ("predicting", 100, 10, 3)
    assert progress.shards_done == 0


@pytest.mark.parametrize(
    "wrong", [{"shard_rows": 0}, {"concurrency": 0}, {"output": "file.csv"}, {"run": "../a"}]
)
async def test_a_request_that_cannot_be_decoded_fails_the_workflow_at_once(bench, unique, wrong):
    fields = {"run": "films", "input": {"path": "3.csv"}, "output": "out", **wrong}
    handle = await bench.client.temporal.start_workflow(
        BATCH_INFERENCE_WORKFLOW, fields, id=unique, task_queue=unique
    )

    async with asyncio.timeout(10):
        with pytest.raises(WorkflowFailureError) as caught:
            await handle.result()

    assert caught.value.cause.type == "SpecInvalid"
    assert bench.activities.batches.plans == 0
