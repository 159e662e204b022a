"""What ``BertSweepWorkflow`` decides: trials, rungs, short histories, steering, one end; on a real server."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from unittest import mock

import pytest
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from durabert.client import sweeps
from durabert.contract import SWEEP_WORKFLOW
from durabert.errors import (
    ModelNotFound,
    NameInUse,
    RunCancelled,
    RunNotUsable,
    SpecInvalid,
)
from durabert.specs import DataSpec, FineTuneConfig, Parameter, SweepSpec
from durabert.wire import data_converter
from durabert.workflows import WORKFLOWS, policies, visibility
from tests.real import until
from tests.workflow.conftest import serving

RATE = {"learning_rate": Parameter(log_uniform=(1e-5, 1e-1))}
EVENTS_OF_A_TRAINING = 9
"""Initiated, started and completed, and the two decisions that follow."""


def sweep_of(name: str, **fields) -> SweepSpec:
    options = {"space": RATE, "algorithm": "random", "trials": 4, "concurrency": 2, **fields}
    return SweepSpec(name=name, data=DataSpec(source="reviews.csv"), **options)


def asha(name: str, **fields) -> SweepSpec:
    return sweep_of(name, **{"stopping": "asha", "config": FineTuneConfig(epochs=9), "trials": 9, **fields})


def short(name: str, **fields) -> SweepSpec:
    """Return a sweep of two rungs."""
    return asha(name, **{"config": FineTuneConfig(), "trials": 4, **fields})


async def executions(bench, sweep) -> list[WorkflowHistory]:
    """Return the history of every execution of a sweep, from the first one on."""
    temporal = bench.client.temporal
    first = (await sweep.handle.describe()).raw_description.workflow_execution_info.first_run_id
    histories, run_id = [], first
    while run_id:
        histories.append(await temporal.get_workflow_handle(sweep.name, run_id=run_id).fetch_history())
        last = histories[-1].events[-1]
        run_id = last.workflow_execution_continued_as_new_event_attributes.new_execution_run_id
    return histories


async def replays(bench, sweep) -> None:
    replayer = Replayer(workflows=WORKFLOWS, data_converter=data_converter)
    for history in await executions(bench, sweep):
        await replayer.replay_workflow(history)
    await bench.replay(f"{sweep.name}.1")


def decided(result) -> list[tuple]:
    return [(one.number, one.status, one.params, one.values) for one in result.trials]


async def test_every_trial_is_trained_once_and_the_best_is_known(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique))

    result = await sweep.result()

    fake = bench.activities
    assert Counter(fake.started) == {f"{unique}.{number}": 1 for number in range(1, 5)}
    assert (fake.snapshots, fake.sweeps.plans) == (1, 1)
    assert [one.status for one in result.trials] == ["completed"] * 4
    assert len({one.params["learning_rate"] for one in result.trials}) == 4
    best = max(result.trials, key=lambda one: one.values[-1])
    assert result.best == best.number
    assert fake.most_running <= 2
    assert not any(request.score_test for request in fake.requests), "test rows decide on nothing"
    attributes = (await sweep.handle.describe()).typed_search_attributes
    assert attributes[visibility.STATUS] == "completed"
    assert attributes[visibility.BEST_METRIC] == max(best.values)
    await replays(bench, sweep)


async def test_a_promoted_trial_goes_on_and_nothing_is_trained_twice(bench, unique):
    sweep = await bench.client.start_sweep(asha(unique))

    result = await sweep.result()

    reached = Counter(one.epochs for one in result.trials)
    assert reached[9] >= 1
    assert sum(reached[epochs] for epochs in (3, 9)) >= 3
    for stretches in bench.activities.sweeps.stretches.values():
        assert stretches in ([(1, 1)], [(1, 1), (2, 3)], [(1, 1), (2, 3), (4, 9)])
    assert result.trials[result.best - 1].epochs == 9
    assert len(bench.activities.sweeps.suggestions) == 9
    progress = await sweep.view()
    assert progress.best == result.best
    await replays(bench, sweep)


async def test_one_at_a_time_a_trial_goes_on_at_once_where_it_would_be_promoted(bench, unique):
    # Each better than the one before.
    rates = (1e-5, 2e-5, 4e-5, 8e-5, 1e-4, 2e-4, 4e-4, 8e-4, 1e-3)
    space = {"learning_rate": Parameter(choice=rates)}
    spec = asha(unique, space=space, algorithm="grid", trials=None, concurrency=1)
    asked = spec.model_copy(update={"name": f"{unique}-asked", "budget_epochs": 1000})
    before = await (await bench.client.start_sweep(asked)).result()
    sweep = await bench.client.start_sweep(spec)

    result = await sweep.result()

    stretches = bench.activities.sweeps.stretches
    assert decided(result) == decided(before)
    assert stretches[f"{unique}-asked.3"] == [(1, 1), (2, 3)]
    assert stretches[f"{unique}.3"] == [(1, 3)]
    await replays(bench, sweep)


async def test_the_same_sweep_decides_the_same_however_long_its_trials_take(bench, unique):
    spec = short(unique, concurrency=3, algorithm="tpe", trials=5)
    first = await (await bench.client.start_sweep(spec)).result()
    slow = spec.model_copy(update={"name": f"{unique}-again", "config": FineTuneConfig(model="lingering")})

    again = await (await bench.client.start_sweep(slow)).result()

    assert decided(again) == decided(first)
    assert again.best == first.best


async def test_a_history_stays_short_whatever_the_number_of_trials(bench, unique, monkeypatch):
    monkeypatch.setattr(policies, "LONG_SWEEP", 120)
    whole = await (await bench.client.start_sweep(short(f"{unique}-0", trials=9, algorithm="tpe"))).result()
    monkeypatch.setattr(policies, "LONG_SWEEP", 25)
    monkeypatch.setattr(policies, "EVENTS_OF_A_WINDOW", 5)

    sweep = await bench.client.start_sweep(short(unique, trials=9, algorithm="tpe"))
    result = await sweep.result()

    histories = await executions(bench, sweep)
    assert len(histories) > 2
    assert decided(result) == decided(whole), "where a history is cut changes nothing"
    trainings = sum(map(len, bench.activities.sweeps.stretches.values())) / 2
    assert sum(len(history.events) for history in histories) <= EVENTS_OF_A_TRAINING * trainings + 20 * len(
        histories
    )
    assert max(len(history.events) for history in histories) < 100
    await replays(bench, sweep)


async def test_many_large_requests_are_begun_in_several_tasks(bench, unique, monkeypatch):
    monkeypatch.setattr(policies, "LONG_SWEEP", 40)
    monkeypatch.setattr(policies, "EVENTS_OF_A_WINDOW", 1)
    spec = sweep_of(unique, algorithm="tpe", trials=14, concurrency=4)
    whole = await bench.client.start_sweep(spec.model_copy(update={"name": f"{unique}-0"}))
    at_once = await most_begun_in_a_task(bench, whole)
    monkeypatch.setattr(policies, "LARGE_TASK", 1)

    sweep = await bench.client.start_sweep(spec)

    assert await most_begun_in_a_task(bench, sweep) == [4, 1]
    assert at_once == [4, 4]
    assert decided(await sweep.result()) == decided(await whole.result())
    await replays(bench, sweep)


async def test_what_a_large_task_leaves_is_begun_while_others_train(bench, unique, monkeypatch):
    monkeypatch.setattr(policies, "LARGE_TASK", 1)
    fake = bench.activities
    fake.sweeps.may_end.set()
    space = {"batch_size": Parameter(choice=(7,)), **RATE}
    spec = sweep_of(unique, space=space, algorithm="tpe", trials=12, concurrency=1)
    sweep = await bench.client.start_sweep(spec)

    async def some_are_known():
        return len(fake.started) > 2

    async def all_places_taken():
        return fake.running == 4

    await until(some_are_known, seconds=20, what="some trials are known")
    fake.sweeps.may_end.clear()
    await sweep.set_concurrency(4)
    await until(all_places_taken, seconds=20, what="four trials are held")
    fake.sweeps.may_end.set()

    assert len((await sweep.result()).trials) == 12
    await replays(bench, sweep)


async def most_begun_in_a_task(bench, sweep) -> list[int]:
    """Return how many trials a workflow task begins at most, before and after the first new execution."""
    await sweep.result()
    begun = []
    for history in await executions(bench, sweep):
        begins = [event.start_child_workflow_execution_initiated_event_attributes for event in history.events]
        begun.append(Counter(one.workflow_task_completed_event_id for one in begins if one.workflow_id))
    return [max(begun[0].values()), max(most for one in begun[1:] for most in one.values())]


async def test_a_trial_costs_fewer_than_15_events(bench, unique):
    sweep = await bench.client.start_sweep(short(unique, trials=6, concurrency=1))
    await sweep.result()

    [history] = await executions(bench, sweep)

    assert (len(history.events) - 20) / 6 < 15


@pytest.mark.parametrize(("factor", "epochs"), [(2, 16), (3, 9)])
async def test_whatever_rungs_there_are_a_trial_costs_fewer_than_15_events(bench, unique, factor, epochs):
    spec = asha(
        unique, config=FineTuneConfig(epochs=epochs), reduction_factor=factor, trials=16, concurrency=1
    )
    sweep = await bench.client.start_sweep(spec)
    await sweep.result()

    [history] = await executions(bench, sweep)

    assert (len(history.events) - 20) / 16 < 15


async def test_a_sweep_that_no_worker_answers_for_is_there_all_the_same(temporal, unique):
    async with serving(temporal, unique) as bench:
        await bench.client.start_sweep(sweep_of(unique, config=FineTuneConfig(model="endless")))
    with mock.patch.object(sweeps, "ANSWER_LIMIT", timedelta(seconds=1)):
        view = await (await bench.client.sweep(unique)).view()

    assert (view.status, view.phase) == ("running", sweeps.NOBODY_ANSWERS)
    await bench.client.temporal.get_workflow_handle(unique).terminate()


async def test_a_failed_trial_is_recorded_and_the_sweep_goes_on(bench, unique):
    space = {"model": Parameter(choice=("minilm", "missing")), **RATE}
    sweep = await bench.client.start_sweep(sweep_of(unique, space=space, trials=8))

    result = await sweep.result()

    failed = [one for one in result.trials if one.status == "failed"]
    assert 0 < len(failed) < 8
    assert {one.params["model"] for one in failed} == {"missing"}
    assert {one.error.type for one in failed} == {"ModelNotFound"}
    assert result.trials[result.best - 1].status == "completed"


async def test_a_sweep_fails_only_if_every_trial_does(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique, config=FineTuneConfig(model="missing")))

    with pytest.raises(ModelNotFound, match="no such model"):
        await sweep.result()

    view = await sweep.view()
    assert view.status == "failed"
    assert [one.status for one in view.trials] == ["failed"] * 4
    await replays(bench, sweep)


async def test_parameters_that_do_not_go_together_fail_their_trial(bench, unique):
    space = {
        "batch_size": Parameter(choice=(4, 8)),
        "gradient_accumulation": Parameter(choice=(1, 8)),
    }
    sweep = await bench.client.start_sweep(sweep_of(unique, space=space, algorithm="grid", trials=None))

    result = await sweep.result()

    [failed] = [one for one in result.trials if one.status == "failed"]
    assert failed.params == {"batch_size": 4, "gradient_accumulation": 8}
    assert failed.error.message == "gradient_accumulation is 8, but should be at most batch_size, 4"


async def test_a_metric_that_the_task_lacks_starts_no_trial(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique, config=FineTuneConfig(best_metric="pearson")))

    with pytest.raises(SpecInvalid, match="best_metric is 'pearson'"):
        await sweep.result()

    assert bench.activities.started == []


async def test_a_metric_of_which_less_is_better_is_minimized(bench, unique):
    sweep = await bench.client.start_sweep(short(unique, config=FineTuneConfig(best_metric="loss")))

    result = await sweep.result()

    top = [one for one in result.trials if one.epochs == 3]
    assert result.trials[result.best - 1].values[-1] == min(one.values[-1] for one in top)


async def test_a_trial_below_the_median_is_stopped(bench, unique):
    spec = sweep_of(unique, stopping="median", config=FineTuneConfig(epochs=6), trials=8, concurrency=1)
    sweep = await bench.client.start_sweep(spec)

    result = await sweep.result()

    stopped = [one for one in result.trials if one.status == "stopped"]
    assert stopped
    assert all(one.number > 5 for one in stopped), "a median needs some trials first"
    assert all(one.epochs < 6 for one in stopped)
    assert result.trials[result.best - 1].epochs == 6


async def test_a_budget_of_epochs_is_kept(bench, unique):
    sweep = await bench.client.start_sweep(asha(unique, budget_epochs=7))

    result = await sweep.result()

    assert 5 <= sum(one.epochs for one in result.trials) <= 7


async def test_a_budget_of_time_begins_nothing_more(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique, trials=50, budget_seconds=0.001))

    result = await sweep.result()

    assert len(result.trials) == 2, "those of the first moment"


async def test_a_paused_sweep_begins_nothing_until_it_is_resumed(bench, unique):
    space = {"batch_size": Parameter(choice=(7,)), **RATE}
    sweep = await bench.client.start_sweep(sweep_of(unique, space=space))
    fake = bench.activities

    async def held():
        return fake.running == 2

    await until(held, seconds=20, what="two trials are held")
    control = await sweep.set_paused(True)
    assert control.paused
    with pytest.raises(RunNotUsable, match="paused already"):
        await sweep.set_paused(True)
    fake.sweeps.may_end.set()

    async def idle():
        view = await sweep.view()
        return [one.status for one in view.trials] == ["completed", "completed"] and view.status == "paused"

    await until(idle, seconds=20, what="both have ended and none has begun")
    resumed = await bench.client.resume_sweep(sweep)
    result = await sweep.result()

    assert resumed.how == "unpaused"
    assert len(result.trials) == 4
    with pytest.raises(RunNotUsable):
        await sweep.set_paused(True)
    await replays(bench, sweep)


async def test_trials_and_places_can_be_added(bench, unique):
    space = {"batch_size": Parameter(choice=(7,)), **RATE}
    sweep = await bench.client.start_sweep(sweep_of(unique, space=space, concurrency=1))
    fake = bench.activities

    async def all_places_taken():
        return fake.running == 3

    await sweep.set_concurrency(3)
    await until(all_places_taken, seconds=20, what="three trials are held")
    control = await sweep.add_trials(2)
    fake.sweeps.may_end.set()
    result = await sweep.result()

    assert (control.trials, control.concurrency) == (6, 3)
    assert len(result.trials) == 6
    await replays(bench, sweep)


@pytest.mark.parametrize(
    ("update", "value", "sentence"),
    [
        ("add_trials", 0, "trials to add are 0, but should be 1 to 1996"),
        ("add_trials", 3000, "should be 1 to 1996"),
        ("set_concurrency", 0, "concurrency is 0, but should be 1 to 64"),
        ("set_concurrency", 65, "concurrency is 65"),
    ],
)
async def test_a_change_that_cannot_be_is_refused(bench, unique, update, value, sentence):
    space = {"batch_size": Parameter(choice=(7,)), **RATE}
    sweep = await bench.client.start_sweep(sweep_of(unique, space=space))

    with pytest.raises(SpecInvalid, match=sentence):
        await getattr(sweep, update)(value)

    await sweep.cancel()


async def test_a_cancelled_sweep_leaves_no_trial_and_goes_on_when_it_is_resumed(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique, config=FineTuneConfig(model="endless"), trials=3))
    fake = bench.activities

    async def running():
        return fake.running == 2

    await until(running, seconds=20, what="two trials run")
    await sweep.cancel()

    assert fake.running == 0
    assert (await sweep.view()).status == "cancelled"
    with pytest.raises(RunCancelled):
        await sweep.result()
    await replays(bench, sweep)

    assert (await bench.client.resume_sweep(sweep)).how == "restarted"
    again = await bench.client.sweep(unique)
    await until(running, seconds=20, what="they run again")
    await again.cancel()


async def test_the_best_configuration_is_trained_with_other_seeds_and_they_alone_see_test_rows(bench, unique):
    sweep = await bench.client.start_sweep(sweep_of(unique, final_seeds=2))

    result = await sweep.result()

    finals = [one for one in bench.activities.requests if one.score_test]
    best = result.trials[result.best - 1].params["learning_rate"]
    assert [one.run for one in finals] == [f"{unique}-final.seed-43", f"{unique}-final.seed-44"]
    assert {one.config.learning_rate for one in finals} == {best}
    assert [run.seed for run in result.final.runs] == [43, 44]
    await replays(bench, sweep)


async def test_the_same_sweep_is_joined_and_another_one_refused(bench, unique):
    await (await bench.client.start_sweep(sweep_of(unique))).result()

    joined = await bench.client.start_sweep(sweep_of(unique))

    assert joined.joined
    with pytest.raises(NameInUse, match="a sweep whose seed is 42, not 43"):
        await bench.client.start_sweep(sweep_of(unique, seed=43))


async def test_decisions_replay_without_a_cache(temporal, unique):
    async with serving(temporal, unique, max_cached_workflows=0) as bench:
        sweep = await bench.client.start_sweep(short(unique, algorithm="tpe"))
        result = await sweep.result()

        assert len(result.trials) == 4
        await replays(bench, sweep)


async def test_a_spec_that_cannot_be_decoded_fails_the_workflow_at_once(bench, unique):
    fields = {"name": unique, "data": {"source": "x.csv"}, "space": {}}
    handle = await bench.client.temporal.start_workflow(SWEEP_WORKFLOW, fields, id=unique, task_queue=unique)

    async with asyncio.timeout(10):
        with pytest.raises(Exception) as caught:
            await handle.result()

    assert caught.value.cause.type == "SpecInvalid"
