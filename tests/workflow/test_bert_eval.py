"""What the pattern ``bert_eval`` decides, and what a client tells of it, on a real server."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus

from durabert.contract import EVAL_WORKFLOW
from durabert.errors import LabelsInvalid, RunNotUsable, SpecInvalid
from durabert.specs import (
    DataSpec,
    EvaluationRequest,
    EvaluationSpec,
    ExperimentSpec,
    FineTuneConfig,
)
from tests.real import until


def experiment(name: str, *models: str, sets: tuple[str, ...] = ("test.csv",), **fields) -> ExperimentSpec:
    return ExperimentSpec(
        name=name,
        data=DataSpec(source="reviews.csv"),
        runs=tuple(FineTuneConfig(model=model) for model in models),
        evaluations=tuple(EvaluationSpec(data=DataSpec(source=source)) for source in sets),
        **fields,
    )


async def ended(bench, spec):
    await bench.client.start(spec, pattern="bert_eval")
    async with asyncio.timeout(30):
        return await bench.client.wait(spec.name)


async def evaluating(bench, run, *, after=0):
    """Wait until an evaluation of a run is on a worker, with so many behind it."""

    async def there() -> bool:
        view = await bench.client.run_status(run)
        on_worker = view.result is not None and view.heartbeat_age_seconds is not None
        return on_worker and len(view.evaluations) == after

    await until(there, seconds=20, what=f"{run} is evaluated")


async def test_every_run_is_evaluated_on_every_set(bench, unique):
    spec = experiment(unique, "minilm", "minilm", sets=("test.csv", "other.csv"), seeds=(1, 2))

    view = await ended(bench, spec)

    assert [run.run for run in view.runs] == [
        f"{unique}.1-seed1", f"{unique}.1-seed2", f"{unique}.2-seed1", f"{unique}.2-seed2",
    ]  # fmt: skip
    assert [run.config.seed for run in view.runs] == [1, 2, 1, 2]
    for run in view.runs:
        assert run.status == "completed"
        assert [one.name for one in run.evaluations] == ["1", "2"]
        assert [one.result.data for one in run.evaluations] == ["test.csv", "other.csv"]
    assert bench.activities.snapshots == 1
    assert len(bench.activities.evaluations.plans) == 1
    await bench.replay(unique)


async def test_a_run_is_evaluated_as_its_set_says(bench, unique):
    spec = experiment(unique, "minilm", sets=()).model_copy(
        update={
            "evaluations": (
                EvaluationSpec(
                    data=DataSpec(source="test.csv"), split="validation", slice_by=("source",), resamples=200
                ),
            )
        }
    )

    await ended(bench, spec)

    [request] = bench.activities.evaluations.requests
    assert (request.run, request.snapshot, request.split) == (unique, "0" * 64, "validation")
    assert (request.slice_by, request.resamples) == (("source",), 200)


async def test_without_a_set_there_is_that_of_the_training_data(bench, unique):
    view = await ended(bench, experiment(unique, "minilm", sets=()))

    assert [one.name for one in view.runs[0].evaluations] == ["1"]
    assert bench.activities.evaluations.plans[0].sets == (EvaluationSpec(),)


async def test_a_run_is_evaluated_without_waiting_for_the_others(bench, unique):
    await bench.client.start(experiment(unique, "minilm", "endless"), pattern="bert_eval")

    async def first_is_evaluated():
        view = await bench.client.status(unique)
        return view.runs[0].status == "completed" and view.runs[0].evaluations

    await until(first_is_evaluated, seconds=20, what="the first run is evaluated while the second trains")
    assert (await bench.client.run_status(f"{unique}.2")).status == "running"
    view = await bench.client.cancel(unique)
    assert [run.status for run in view.runs] == ["completed", "cancelled"]
    await bench.replay(unique)


async def test_no_more_runs_go_on_at_once_than_are_allowed(bench, unique):
    await ended(bench, experiment(unique, *["lingering"] * 4, max_concurrent=2))

    assert bench.activities.most_running == 2


async def test_what_failed_does_not_lose_the_rest(bench, unique):
    view = await ended(bench, experiment(unique, "minilm", "missing", sets=("broken.csv", "test.csv")))

    good, bad = view.runs
    assert (good.status, bad.status, view.status) == ("completed", "failed", "partial")
    assert [one.status for one in good.evaluations] == ["failed", "completed"]
    assert good.evaluations[0].error.message == "a column is gone"
    assert bad.evaluations == []
    await bench.replay(unique)


async def test_an_evaluation_whose_process_dies_is_tried_again(bench, unique):
    view = await ended(bench, experiment(unique, "minilm", sets=("flaky.csv",)))

    assert view.runs[0].evaluations[0].status == "completed"
    assert len(bench.activities.evaluations.requests) == 2


async def test_a_set_that_does_not_fit_is_told_before_any_run_begins(bench, unique):
    view = await ended(bench, experiment(unique, "minilm", "minilm", sets=("test.csv", "unfit.csv")))

    assert [run.error.type for run in view.runs] == [LabelsInvalid.__name__] * 2
    assert bench.activities.started == []
    await bench.replay(unique)


async def test_a_run_that_is_evaluated_has_not_ended_and_can_be_cancelled(bench, unique):
    await bench.client.start(
        experiment(unique, "minilm", "minilm", sets=("test.csv", "endless.csv")), pattern="bert_eval"
    )
    await evaluating(bench, f"{unique}.1", after=1)
    before = await bench.client.run_status(f"{unique}.1")

    await bench.client.cancel(f"{unique}.1")

    after = await bench.client.run_status(f"{unique}.1")
    assert (before.status, before.progress.phase) == ("running", "evaluating")
    assert after.status == "cancelled"
    assert after.result is not None
    assert [one.status for one in after.evaluations] == ["completed", "cancelled"]
    assert (await bench.client.run_status(f"{unique}.2")).ended is False
    view = await bench.client.cancel(unique)
    assert [run.status for run in view.runs] == ["cancelled", "cancelled"]
    await bench.replay(unique)


async def test_a_cancelled_experiment_goes_on_with_its_evaluations(bench, unique):
    spec = experiment(unique, "minilm", sets=("endless.csv",))
    await bench.client.start(spec, pattern="bert_eval")
    await evaluating(bench, unique)
    await bench.client.cancel(unique)

    resumed = await bench.client.resume(unique)

    assert resumed.how == "restarted"
    await evaluating(bench, unique)
    await bench.client.cancel(unique)


async def test_a_pause_frees_the_device_of_an_evaluation(bench, unique):
    await bench.client.start(experiment(unique, "minilm", sets=("endless.csv",)), pattern="bert_eval")
    await evaluating(bench, unique)

    view = await bench.client.pause(unique)

    assert view.runs[0].status == "paused"
    assert (await bench.client.resume(unique)).how == "unpaused"
    await bench.client.cancel(unique)


async def test_another_run_costs_a_constant_number_of_events(bench, unique):
    events = []
    for number in (1, 2, 3):
        view = await ended(bench, experiment(f"{unique}-{number}", *["minilm"] * number, max_concurrent=1))
        events.append(view.num_events)

    assert events[2] - events[1] == pytest.approx(events[1] - events[0], abs=3)
    assert events[1] - events[0] <= 20


async def test_temporal_web_shows_the_evaluations(bench, unique):
    await ended(bench, experiment(unique, "minilm"))

    handle = bench.client.temporal.get_workflow_handle(unique)
    table = str(await handle.query("__temporal_workflow_metadata"))

    assert (await handle.describe()).workflow_type == EVAL_WORKFLOW
    assert f"| {unique} | 1 | accuracy 0.7000, 0.6000 to 0.8000, 20 rows |" in table


async def test_another_pattern_has_no_evaluation_sets(bench, unique):
    with pytest.raises(SpecInvalid, match="evaluations has 1 sets, but the pattern 'bert_checkpointing'"):
        await bench.client.start(experiment(unique, "minilm"))


async def test_one_run_is_evaluated_by_itself_and_the_same_request_is_joined(bench, unique):
    await bench.client.start(experiment(unique, "minilm"), pattern="bert_eval")
    await bench.client.wait(unique)
    request = EvaluationRequest(run=unique, data=DataSpec(source="later.csv"))
    endless = EvaluationRequest(run=unique, data=DataSpec(source="endless.csv"))

    evaluation = await bench.client.start_evaluation(request)
    result = await evaluation.result()
    first = await bench.client.start_evaluation(endless)
    second = await bench.client.start_evaluation(endless)
    await first.cancel()

    assert (result.run, result.data) == (unique, "later.csv")
    assert first.handle.id == second.handle.id
    assert (await second.handle.describe()).status is WorkflowExecutionStatus.CANCELED
    await bench.replay(evaluation.handle.id)


async def test_a_run_without_a_model_is_not_evaluated(bench, unique):
    await bench.client.start(experiment(unique, "missing"), pattern="bert_eval")
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match="has no model, it failed: no such model"):
        await bench.client.evaluate(EvaluationRequest(run=unique, data=DataSpec(source="test.csv")))
