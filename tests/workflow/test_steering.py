"""Pause, resume and what the client tells of it, on a real server."""

from __future__ import annotations

import asyncio
import uuid

import pytest
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from durabert.client import Client
from durabert.client.pausing import pause
from durabert.connection import TaskQueues
from durabert.errors import EngineUnavailable, RunNotFound, RunNotUsable
from durabert.workflows import WORKFLOWS
from tests.real import until
from tests.workflow.conftest import serving
from tests.workflow.test_bert_checkpointing import experiment, running


async def test_pause_returns_when_the_activity_has_left(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    view = await bench.client.pause(unique)

    assert bench.activities.running == 0
    assert (view.status, view.runs[0].status, view.runs[0].pausing) == ("running", "paused", False)
    progress = view.runs[0].progress
    # Where it will go on is known; a process and its speed are not any more.
    assert (progress.step, progress.process_id, progress.examples_per_second, progress.eta_seconds) == (
        4, None, None, None,
    )  # fmt: skip
    await bench.client.cancel(unique)
    await bench.replay(unique)


async def test_what_was_just_started_is_paused_as_it_begins(temporal, unique):
    client = Client(temporal, queues=TaskQueues(train=unique, inference=unique))
    await client.start(experiment(unique, "endless"))
    pausing = asyncio.create_task(client.pause(unique))

    # Until here there is nothing that could be paused.
    async with serving(temporal, unique):
        view = await pausing
        await client.cancel(unique)

    assert view.runs[0].status == "paused"


async def test_a_pause_that_was_asked_for_is_told(bench, unique):
    await bench.client.start(experiment(unique, "stubborn"))
    await running(bench)
    pausing = asyncio.create_task(bench.client.pause(unique))

    async def told():
        return (await bench.client.run_status(unique)).pausing

    await until(told, seconds=20, what="the pause is told")
    run = await bench.client.run_status(unique)
    left = pausing.done()
    bench.activities.may_leave.set()
    view = await pausing

    assert (run.status, left, view.runs[0].status) == ("running", False, "paused")
    await bench.client.cancel(unique)


async def test_a_paused_run_goes_on_when_it_is_resumed(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.pause(unique)

    resumed = await bench.client.resume(unique)
    await running(bench)

    assert resumed.how == "unpaused"
    assert bench.activities.attempts[unique] > 1
    assert (await bench.client.run_status(unique)).status == "running"
    await bench.client.cancel(unique)
    await bench.replay(unique)


async def test_a_paused_run_can_be_cancelled(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.pause(unique)

    view = await bench.client.cancel(unique)

    assert view.status == "cancelled"
    await bench.replay(unique)


async def test_a_run_that_is_cancelled_while_it_leaves_for_a_pause_is_cancelled(bench, unique):
    await bench.client.start(experiment(unique, "stubborn"))
    await running(bench)
    pausing = asyncio.create_task(bench.client.pause(unique))

    async def told():
        return (await bench.client.run_status(unique)).pausing

    await until(told, seconds=20, what="the pause is told")
    handle = bench.client.temporal.get_workflow_handle(unique)
    await handle.cancel()
    bench.activities.may_leave.set()
    await pausing
    view = await bench.client.wait(unique)

    assert (view.status, view.runs[0].error) == ("cancelled", None)
    await bench.replay(unique)


async def test_one_run_of_several_is_paused_alone(bench, unique):
    await bench.client.start(experiment(unique, "endless", "endless"))
    await running(bench, 2)

    view = await bench.client.pause(f"{unique}.2")

    assert [run.status for run in view.runs] == ["running", "paused"]
    assert bench.activities.running == 1
    await bench.client.cancel(unique)


async def test_runs_that_go_in_order_are_paused_with_the_first(bench, unique):
    await bench.client.start(experiment(unique, "endless", "minilm", in_order=True))
    await running(bench)

    view = await bench.client.pause(unique)

    assert [run.status for run in view.runs] == ["paused", "queued"]
    with pytest.raises(RunNotUsable, match="waits for its turn"):
        await bench.client.pause(f"{unique}.2")
    await bench.client.cancel(unique)


async def test_a_snapshot_is_paused_for_all_runs(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="endless.csv"))

    async def begun():
        return bench.activities.snapshots == 1

    await until(begun, seconds=20, what="the snapshot is taken")
    view = await bench.client.pause(f"{unique}.1")

    assert [run.status for run in view.runs] == ["paused", "paused"]
    await bench.client.cancel(unique)


async def test_a_run_is_paused_whose_snapshot_was_taken_meanwhile(bench, unique, monkeypatch):
    await bench.client.start(experiment(unique, "endless", "endless", source="held.csv"))
    service = bench.client.temporal.workflow_service
    ask = service.pause_activity
    asked = []

    async def too_late(request):
        asked.append(request.id)
        if request.id == "snapshot":
            bench.activities.may_leave.set()
            await running(bench, 2)
        return await ask(request)

    async def begun():
        return bench.activities.snapshots == 1

    await until(begun, seconds=20, what="the snapshot is taken")
    with monkeypatch.context() as patch:
        patch.setattr(service, "pause_activity", too_late)
        view = await bench.client.pause(f"{unique}.1")
    await bench.client.cancel(unique)

    assert asked == ["snapshot", f"{unique}.1"]
    assert [run.status for run in view.runs] == ["paused", "running"]


async def test_what_is_paused_or_has_ended_is_not_paused(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.pause(unique)

    with pytest.raises(RunNotUsable, match="has nothing to pause"):
        await bench.client.pause(unique)
    await bench.client.cancel(unique)
    with pytest.raises(RunNotUsable, match="has nothing to pause"):
        await bench.client.pause(unique)
    with pytest.raises(RunNotFound):
        await bench.client.pause(f"{unique}.9")


async def test_a_server_that_cannot_pause_is_told(bench, unique, monkeypatch):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    async def unknown(_request):
        raise RPCError("unknown method PauseActivity", RPCStatusCode.UNIMPLEMENTED, b"")

    temporal = bench.client.temporal
    with monkeypatch.context() as patch:
        patch.setattr(temporal.workflow_service, "pause_activity", unknown)
        with pytest.raises(EngineUnavailable, match="cannot pause activities; cancel the run and resume"):
            await pause(temporal, temporal.get_workflow_handle(unique), unique)
    await bench.client.cancel(unique)


async def test_a_paused_run_goes_on_on_another_queue(bench, temporal, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.pause(unique)
    other = f"{unique}-other"

    async with serving(temporal, other) as there:
        await bench.client.resume(unique, queue=other)
        await running(there)
        await bench.client.cancel(unique)

    assert there.activities.queues == [other]
    assert bench.activities.queues == [unique]


async def test_a_run_that_waits_for_a_worker_is_moved_to_another_queue(temporal, unique):
    without_activities = Worker(temporal, task_queue=unique, workflows=WORKFLOWS)
    client = Client(temporal, queues=TaskQueues(train=unique, inference=unique))
    other = f"{unique}-other"

    async with without_activities, serving(temporal, other) as there:
        await client.start(experiment(unique, "minilm"), pattern="bert_finetune")

        async def pending():
            description = await temporal.get_workflow_handle(unique).describe()
            return list(description.raw_description.pending_activities)

        await until(pending, seconds=20, what="the run waits")
        resumed = await client.resume(unique, queue=other)
        view = await client.wait(unique)

    assert (resumed.how, view.status, there.activities.queues) == ("moved", "completed", [other])


async def test_a_run_that_trains_is_not_moved_before_it_is_paused(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    with pytest.raises(RunNotUsable, match="pause it first, then resume it with --queue other"):
        await bench.client.resume(unique, queue="other")
    await bench.client.cancel(unique)


async def test_of_two_that_resume_a_run_one_starts_it(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.cancel(unique)
    first, second = bench.client, Client(bench.client.temporal, queues=bench.client.queues)

    both = await asyncio.gather(first.resume(unique), second.resume(unique))
    await running(bench)
    await bench.client.cancel(unique)

    assert {resumed.how for resumed in both} == {"restarted", "running"}
    assert len(bench.activities.started) == 2


async def test_a_cancelled_run_is_started_anew_with_its_spec(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await bench.client.cancel(unique)

    resumed = await bench.client.resume(unique)
    await running(bench)
    await bench.client.cancel(unique)

    first, second = bench.activities.requests
    assert resumed.how == "restarted"
    assert first == second
    await bench.replay(unique)


async def test_a_failed_run_is_started_anew_on_another_queue(bench, temporal, unique):
    await bench.client.start(experiment(unique, "missing"))
    await bench.client.wait(unique)

    async with serving(temporal, f"{unique}-other") as there:
        resumed = await bench.client.resume(unique, queue=f"{unique}-other")
        await bench.client.wait(unique)

    assert resumed.how == "restarted"
    assert there.activities.started == [unique]


async def test_a_run_of_the_baseline_stays_one(bench, unique):
    await bench.client.start(experiment(unique, "missing"), pattern="bert_finetune")
    await bench.client.wait(unique)

    await bench.client.resume(unique)
    await bench.client.wait(unique)

    assert bench.activities.started == [unique, unique]
    assert bench.activities.snapshots == 0


async def test_a_completed_run_is_not_resumed_but_told_how_to_go_on(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match=f"has completed; .* --from {unique} --epochs MORE"):
        await bench.client.resume(unique)


async def test_a_running_run_is_left_alone(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    resumed = await bench.client.resume(unique)
    await bench.client.cancel(unique)

    assert resumed.how == "running"
    assert bench.activities.started == [unique]


async def test_a_run_that_ended_in_an_experiment_that_goes_on_waits_for_its_end(bench, unique):
    await bench.client.start(experiment(unique, "endless", "missing"))

    async def failed():
        return (await bench.client.run_status(f"{unique}.2")).status == "failed"

    await until(failed, seconds=20, what="the second run fails")
    with pytest.raises(RunNotUsable, match="still runs; resume it when that has ended"):
        await bench.client.resume(f"{unique}.2")
    await bench.client.cancel(unique)


async def test_names_that_are_not_there_are_told(bench):
    name = f"test-{uuid.uuid4().hex[:10]}"

    with pytest.raises(RunNotFound, match=name):
        await bench.client.pause(name)
    with pytest.raises(RunNotFound, match=name):
        await bench.client.resume(name)
