"""What ``CheckpointedBertTrainingWorkflow`` decides and keeps, on a real server."""

from __future__ import annotations

from datetime import timedelta

import pytest
from temporalio.client import WorkflowFailureError

from durabert.activities.reporting import pauses, tells_ends
from durabert.contract import CHECKPOINTED_WORKFLOW, FINE_TUNING_WORKFLOW, REPORT_SIGNAL
from durabert.errors import NameInUse, RunNotUsable, SpecInvalid
from durabert.specs import (
    CheckpointPolicy,
    CheckpointRef,
    DataSpec,
    ExperimentProgress,
    ExperimentSpec,
    FineTuneConfig,
    RunReport,
)
from durabert.workflows.reports import MAX_ATTEMPTS
from durabert.workflows.visibility import STATUS, search_attributes
from tests.real import until
from tests.workflow.conftest import serving


def experiment(name: str, *models: str, source: str = "reviews.csv", **fields) -> ExperimentSpec:
    return ExperimentSpec(
        name=name,
        data=DataSpec(source=source),
        runs=tuple(FineTuneConfig(model=model) for model in models),
        **fields,
    )


async def running(bench, number: int = 1) -> None:
    async def so_many():
        return bench.activities.running == number

    await until(so_many, seconds=20, what=f"{number} runs go")


async def told(bench, name: str, **fields) -> ExperimentProgress:
    """Send one report and return what the workflow has made of it."""
    handle = bench.client.temporal.get_workflow_handle(name)
    report = {"run": name, "kind": "progress", "attempt": 1, "worker": "1@host", "steps": 100, **fields}
    await handle.signal(REPORT_SIGNAL, RunReport(**report))
    return await handle.query("progress", result_type=ExperimentProgress)


async def taking_a_snapshot(bench) -> None:
    async def begun():
        return bench.activities.snapshots == 1

    await until(begun, seconds=20, what="the snapshot is taken")


async def status_attribute(bench, name: str) -> str | None:
    description = await bench.client.temporal.get_workflow_handle(name).describe()
    return description.typed_search_attributes[STATUS]


async def test_it_is_the_default_pattern(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    description = await bench.client.temporal.get_workflow_handle(unique).describe()
    assert description.workflow_type == CHECKPOINTED_WORKFLOW


async def test_every_run_is_trained_on_one_snapshot(bench, unique):
    policy, parent = CheckpointPolicy(every_steps=7), CheckpointRef(run="other", step=3)
    await bench.client.start(experiment(unique, "minilm", "minilm", checkpoints=policy, start_from=parent))

    view = await bench.client.wait(unique)

    assert view.status == "completed"
    assert bench.activities.snapshots == 1
    assert [request.run for request in bench.activities.requests] == [f"{unique}.1", f"{unique}.2"]
    for request in bench.activities.requests:
        assert (request.snapshot, request.checkpoints, request.start_from) == ("5" * 64, policy, parent)
    await bench.replay(unique)


async def test_without_a_snapshot_every_run_fails_with_its_error(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="missing.csv"))

    with pytest.raises(WorkflowFailureError) as caught:
        await bench.client.temporal.get_workflow_handle(unique).result()

    view = await bench.client.status(unique)
    assert caught.value.cause.type == "DataNotFound"
    assert caught.value.cause.message == "there is no missing.csv"
    assert [(run.status, run.error.type) for run in view.runs] == [("failed", "DataNotFound")] * 2
    assert bench.activities.requests == []
    await bench.replay(unique)


async def test_a_snapshot_is_shown_while_it_is_taken_and_can_be_cancelled(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="endless.csv"))

    async def shown():
        runs = (await bench.client.status(unique)).runs
        return all(run.progress and run.progress.phase == "taking a snapshot" for run in runs)

    await until(shown, seconds=20, what="the snapshot is shown")
    view = await bench.client.cancel(unique)

    assert [run.status for run in view.runs] == ["cancelled", "cancelled"]
    assert bench.activities.requests == []
    await bench.replay(unique)


async def test_an_experiment_that_is_cancelled_at_its_snapshot_is_found_as_cancelled(bench, unique):
    await bench.client.start(experiment(unique, "minilm", source="endless.csv"))
    await taking_a_snapshot(bench)

    await bench.client.cancel(unique)

    assert await status_attribute(bench, unique) == "cancelled"


async def test_a_snapshot_that_is_finished_as_the_cancel_comes_is_not_trained_on(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="finishing.csv"))
    await taking_a_snapshot(bench)

    view = await bench.client.cancel(unique)

    assert [run.status for run in view.runs] == ["cancelled", "cancelled"]
    assert bench.activities.requests == []
    history = await bench.client.history(unique)
    assert any(event.HasField("activity_task_completed_event_attributes") for event in history.events)
    await bench.replay(unique)


async def test_a_run_that_is_cancelled_before_it_begins_is_not_trained(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="held.csv"))
    await taking_a_snapshot(bench)

    before = await bench.client.cancel(f"{unique}.1")
    with pytest.raises(RunNotUsable, match="already ended: cancelled"):
        await bench.client.cancel(f"{unique}.1")
    bench.activities.may_leave.set()
    after = await bench.client.wait(unique)

    assert [run.status for run in before.runs] == ["cancelled", "running"]
    assert [run.status for run in after.runs] == ["cancelled", "completed"]
    assert bench.activities.started == [f"{unique}.2"]
    await bench.replay(unique)


async def test_a_run_that_was_cancelled_has_not_failed_with_the_snapshot(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "minilm", source="held-missing.csv"))
    await taking_a_snapshot(bench)
    await bench.client.cancel(f"{unique}.1")
    bench.activities.may_leave.set()

    view = await bench.client.wait(unique)

    assert [run.status for run in view.runs] == ["cancelled", "failed"]
    await bench.replay(unique)


async def test_one_run_that_fails_does_not_lose_the_others_also_without_cache(temporal, unique):
    async with serving(temporal, unique, max_cached_workflows=0) as bench:
        await bench.client.start(experiment(unique, "flaky", "missing", in_order=True))

        view = await bench.client.wait(unique)

    assert [run.status for run in view.runs] == ["completed", "failed"]
    assert view.runs[0].attempts == 2
    await bench.replay(unique)


async def test_one_run_can_be_cancelled_alone(bench, unique):
    await bench.client.start(experiment(unique, "endless", "endless"))
    await running(bench, 2)

    view = await bench.client.cancel(f"{unique}.1")

    assert [run.status for run in view.runs] == ["cancelled", "running"]
    await bench.client.cancel(unique)
    await bench.replay(unique)


async def test_it_keeps_what_activities_report(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    await told(bench, unique, kind="started", step=5, loss=0.5)
    await told(bench, unique, kind="progress", step=40, loss=0.25, checkpoint_step=30)
    await told(bench, unique, kind="started", attempt=2, worker="2@host", step=31, resumed_from=30)
    error = {"error": "DeviceFault", "message": "it fell off the bus"}
    progress = await told(bench, unique, kind="ended", attempt=2, step=50, resumed_from=30, **error)

    [run] = progress.runs
    assert (run.run, run.step, run.steps, run.loss, run.checkpoint_step) == (unique, 50, 100, 0.25, 30)
    assert [(one.number, one.resumed_from, one.ended) for one in run.attempts] == [
        (1, None, "WorkerLost"),
        (2, 30, "DeviceFault"),
    ]
    assert run.attempts[1].message == "it fell off the bus"
    await bench.client.cancel(unique)
    await bench.replay(unique)


async def test_temporal_web_shows_a_table_of_it(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    await told(bench, unique, step=40, loss=0.25, checkpoint_step=30)

    handle = bench.client.temporal.get_workflow_handle(unique)
    metadata = await handle.query("__temporal_workflow_metadata")
    assert f"| {unique} | open | 40 of 100 | 0.2500 | step 30 | 1: goes on |  |" in str(metadata)
    await bench.client.cancel(unique)


async def test_the_table_says_what_the_last_attempt_came_to(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "odd"))
    await told(bench, unique, run=f"{unique}.1", kind="started", step=9)
    await told(bench, unique, run=f"{unique}.2", kind="started", step=9)
    await bench.client.wait(unique)

    handle = bench.client.temporal.get_workflow_handle(unique)
    table = str(await handle.query("__temporal_workflow_metadata"))
    assert f"| {unique}.1 | completed | 10 | 0.2500 | step 10 | 1: completed | accuracy 0.7500, " in table
    assert r"| 1: failed | a sentence with \\| and a line |" in table


async def test_an_attempt_that_wakes_late_tells_only_of_its_own_end(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)
    await told(bench, unique, kind="started", attempt=1, step=5, checkpoint_step=4)
    await told(bench, unique, kind="started", attempt=2, step=50, checkpoint_step=40, loss=0.1)

    await told(bench, unique, kind="progress", attempt=1, step=6, checkpoint_step=4, loss=0.9)
    end = {"error": "AttemptSuperseded", "message": "another one has it"}
    progress = await told(bench, unique, kind="ended", attempt=1, step=6, loss=0.9, **end)

    [run] = progress.runs
    assert (run.step, run.loss, run.checkpoint_step) == (50, 0.1, 40)
    assert [(one.number, one.ended) for one in run.attempts] == [(1, "AttemptSuperseded"), (2, None)]
    await bench.client.cancel(unique)


async def test_it_remembers_the_newest_50_attempts(bench, unique):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    for attempt in range(1, MAX_ATTEMPTS + 4):
        progress = await told(bench, unique, kind="started", attempt=attempt)

    assert [one.number for one in progress.runs[0].attempts] == list(range(4, MAX_ATTEMPTS + 4))
    await bench.client.cancel(unique)


@pytest.mark.parametrize(
    ("attempts", "reports"), [(1, 52), (24, 91)], ids=["undisturbed", "handed over every hour"]
)
async def test_24_hours_of_reports_stay_below_500_events(bench, unique, attempts, reports):
    await bench.client.start(experiment(unique, "endless"))
    await running(bench)

    length, step = timedelta(hours=24) / attempts, 0

    async def report(kind: str, attempt: int, **fields) -> None:
        nonlocal step
        step += 1
        # The answer comes from a workflow task of this report alone: they are not taken together.
        progress = await told(bench, unique, kind=kind, attempt=attempt, step=step, steps=1000, **fields)
        assert progress.runs[0].step == step

    for attempt in range(1, attempts + 1):
        age, end = (attempt - 1) * length, attempt * length
        if tells_ends(attempt):
            await report("started", attempt)
        for pause in pauses(age):
            age += pause
            if age > end:
                break
            await report("progress", attempt)
        if attempt < attempts and tells_ends(attempt):
            await report("ended", attempt, error="WorkerStopping")
    view = await bench.client.cancel(unique)

    assert step == reports
    assert view.num_events < 500
    await bench.replay(unique)


async def test_the_baseline_refuses_to_begin_from_a_checkpoint(bench, unique):
    spec = experiment(unique, "minilm", start_from=CheckpointRef(run="other"))
    with pytest.raises(SpecInvalid, match="the pattern 'bert_finetune' makes no checkpoints"):
        await bench.client.start(spec, pattern="bert_finetune")

    # As another client might.
    handle = await bench.client.temporal.start_workflow(
        FINE_TUNING_WORKFLOW,
        spec,
        id=unique,
        task_queue=unique,
        search_attributes=search_attributes(spec),
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()

    assert caught.value.cause.type == "SpecInvalid"
    assert "start_from needs checkpoints" in caught.value.cause.message
    assert (await bench.client.status(unique)).runs[0].error.message == caught.value.cause.message
    assert await status_attribute(bench, unique) == "failed"
    assert bench.activities.requests == []
    await bench.replay(unique)


async def test_the_baseline_takes_no_snapshot(bench, unique):
    await bench.client.start(experiment(unique, "minilm"), pattern="bert_finetune")

    view = await bench.client.wait(unique)

    description = await bench.client.temporal.get_workflow_handle(unique).describe()
    [request] = bench.activities.requests
    assert (view.status, description.workflow_type) == ("completed", FINE_TUNING_WORKFLOW)
    assert (bench.activities.snapshots, request.snapshot, request.checkpoints) == (0, None, None)
    assert unique in [found.name for found in await bench.client.experiments()]
    await bench.replay(unique)


async def test_a_pattern_that_is_not_there_is_refused(bench, unique):
    with pytest.raises(SpecInvalid, match="should be bert_checkpointing or bert_finetune"):
        await bench.client.start(experiment(unique, "minilm"), pattern="bert")


@pytest.mark.parametrize("ends", [True, False])
async def test_the_same_spec_under_another_pattern_is_refused(bench, unique, ends):
    spec = experiment(unique, "minilm" if ends else "endless")
    await bench.client.start(spec, pattern="bert_finetune")
    if ends:
        await bench.client.wait(unique)

    with pytest.raises(NameInUse, match="its pattern is 'bert_finetune', not 'bert_checkpointing'"):
        await bench.client.start(spec)

    assert (await bench.client.start(spec, pattern="bert_finetune")).joined
    if not ends:
        await bench.client.cancel(unique)


async def test_more_epochs_under_the_name_of_a_completed_run_are_told_how(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)
    longer = experiment(unique, "minilm")
    longer = longer.model_copy(update={"runs": (FineTuneConfig(model="minilm", epochs=9),)})

    with pytest.raises(NameInUse, match=rf"its epochs is 3, not 9\); .* give --from {unique}$"):
        await bench.client.start(longer)


async def test_a_completed_run_without_checkpoints_is_not_told_to_be_trained_on(bench, unique):
    await bench.client.start(experiment(unique, "minilm"), pattern="bert_finetune")
    await bench.client.wait(unique)
    longer = experiment(unique, "minilm")
    longer = longer.model_copy(update={"runs": (FineTuneConfig(model="minilm", epochs=9),)})

    with pytest.raises(NameInUse, match=r"choose another name$"):
        await bench.client.start(longer)
    with pytest.raises(RunNotUsable, match=r"has completed, and made no checkpoint to train on from$"):
        await bench.client.resume(unique)


async def test_a_run_tells_its_parent_from_its_beginning(bench, unique):
    parent = CheckpointRef(run="other", step=40)
    await bench.client.start(experiment(unique, "endless", start_from=parent))

    run = await bench.client.run_status(unique)
    await bench.client.cancel(unique)

    assert run.as_json()["parent"] == {"run": "other", "step": 40}


async def test_other_differences_of_a_completed_run_are_only_told(bench, unique):
    await bench.client.start(experiment(unique, "minilm"))
    await bench.client.wait(unique)

    with pytest.raises(NameInUse, match=r"choose another name$"):
        await bench.client.start(experiment(unique, "other"))
