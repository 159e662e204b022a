"""What a firing of a schedule decides, on Temporal's own schedules; no clock is awaited."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime

import pytest
from temporalio.client import WorkflowExecutionStatus

from durabert.client.firings import Firing
from durabert.errors import (
    DataNotFound,
    ModelNotFound,
    NameInUse,
    RunCancelled,
    RunNotUsable,
    ScheduleNotFound,
    SpecInvalid,
)
from durabert.specs import (
    DataSpec,
    EvaluationSpec,
    ExperimentSpec,
    FineTuneConfig,
    RetrainingPromotion,
    RetrainingRequest,
    RetrainingTiming,
)
from durabert.specs.registry import ApprovalPolicy, ModelRef
from durabert.workflows import BertRetrainingWorkflow
from tests.real import until

RARELY = RetrainingTiming(every_seconds=300 * 86400)
HOURLY = RetrainingTiming(cron="0 * * * *")


def wanted(
    name, source="reviews.csv", *, model="minilm", to=None, sets=("test.csv",), approval=None
) -> RetrainingRequest:
    spec = ExperimentSpec(
        name=name,
        data=DataSpec(source=source),
        runs=(FineTuneConfig(model=model),),
        evaluations=tuple(EvaluationSpec(data=DataSpec(source=one)) for one in sets),
    )
    promotion = to and RetrainingPromotion(name=name, alias=to, approval=approval)
    return RetrainingRequest(
        experiment=spec, spec_sha256=spec.digest(), promotion=promotion, started_by="ann@laptop"
    )


@pytest.fixture
async def scheduled(bench, unique):
    """Creates the schedule of a test, which is deleted after it."""
    created = []

    async def create(*source, timing=RARELY, **fields):
        view = await bench.client.schedules.create(wanted(unique, *source, **fields), timing)
        created.append(view.name)
        return view

    yield create
    for name in created:
        with contextlib.suppress(ScheduleNotFound):
            await bench.client.schedules.delete(name)


@pytest.fixture
async def started(bench, unique):
    """Starts a firing by itself: what it decides has nothing to do with who wanted it."""

    async def start(*source, **fields) -> Firing:
        handle = await bench.client.temporal.start_workflow(
            BertRetrainingWorkflow.run,
            wanted(unique, *source, **fields),
            id=f"retrain:{unique}-{len(bench.activities.started)}",
            task_queue=bench.client.queues.train,
        )
        return Firing(handle)

    return start


async def fired(bench, name) -> Firing:
    async with asyncio.timeout(60):
        return await bench.client.schedules.trigger(name)


async def ended(bench, name):
    """Let a schedule fire, once it knows of the end of the firing before, and wait for the result."""

    async def learnt():
        return not (await described(bench, name)).info.running_actions

    await until(learnt, seconds=20, what="the schedule knows that its firing has ended")
    firing = await fired(bench, name)
    async with asyncio.timeout(60):
        return firing, await firing.result()


async def described(bench, name):
    return await bench.client.temporal.get_schedule_handle(name).describe()


async def test_a_firing_trains_evaluates_and_promotes(bench, started, unique):
    firing = await started(to="champion")

    result = await firing.result()

    asked_by = f"schedule {unique} of ann@laptop"
    assert (result.status, result.version, result.champion) == ("promoted", 1, None)
    assert [one.value for one in result.standings] == [0.7]
    [written] = bench.activities.registry.written
    assert (written.promotion.run, written.promotion.requested_by) == (result.run, asked_by)
    # Its run is an experiment as any other.
    view = await bench.client.status(result.run)
    assert (view.status, view.runs[0].evaluations[0].status) == ("completed", "completed")
    [request] = bench.activities.requests
    assert (request.started_by, request.data.source) == (asked_by, f"snapshot:{'5' * 64}")
    for workflow in (firing.handle.id, result.run):
        await bench.replay(workflow)


async def test_data_that_have_not_changed_are_not_trained_on_again(bench, scheduled, unique):
    await scheduled(timing=HOURLY)
    day = datetime(2026, 1, 31, tzinfo=UTC)

    times = await bench.client.schedules.backfill(
        unique, first=day.replace(hour=3), last=day.replace(hour=5), overlap="buffer_all"
    )

    async def done():
        views = (await bench.client.schedules.view(unique)).firings
        return len(views) == 3 and all(one.ended for one in views)

    await until(done, seconds=60, what="three firings have ended")
    assert [one.hour for one in times] == [3, 4, 5]
    firings = (await bench.client.schedules.view(unique)).firings
    first, *_, last = (one.result for one in firings)
    assert [one.status for one in firings] == ["trained", "skipped", "skipped"]
    assert (first.fired, last.fired) == ("2026-01-31T03:00:00+00:00", "2026-01-31T05:00:00+00:00")
    assert first.run.startswith(f"{unique}-20260131T030000Z-")
    assert last.reason == f"the data have not changed since run {first.run}, snapshot 555555555555"
    assert bench.activities.started == [first.run]
    await bench.replay(firings[-1].workflow)


def test_a_run_is_named_by_schedule_time_data_and_spec():
    at = datetime(2026, 1, 31, 3, tzinfo=UTC)
    one, other = wanted("weekly"), wanted("weekly", model="other")

    names = [
        request.on(snapshot, fired=at).name
        for request in (one, other)
        for snapshot in ("5" * 64, "6" * 64, "5" * 64)
    ]

    assert names[0] == names[2] == "weekly-20260131T030000Z-" + names[0][-8:]
    assert len(set(names)) == 4


async def test_a_paused_schedule_fires_only_when_it_is_triggered(bench, scheduled, unique):
    await scheduled("missing.csv")
    await bench.client.schedules.pause(unique, note="new labels come")

    view = await bench.client.schedules.view(unique)
    firing = await fired(bench, unique)

    assert (view.paused, view.note) == (True, "new labels come")
    with pytest.raises(DataNotFound):
        await firing.result()
    await bench.client.schedules.resume(unique)
    assert not (await bench.client.schedules.view(unique)).paused


async def test_data_that_have_changed_are(bench, scheduled, unique):
    await scheduled("growing.csv", sets=())
    _, first = await ended(bench, unique)

    firing, second = await ended(bench, unique)

    assert (first.status, second.status) == ("trained", "trained")
    assert first.run != second.run
    assert second.reason == f"run {second.run} is trained; the schedule promotes nothing"
    await bench.replay(firing.handle.id)


async def test_a_firing_that_failed_is_no_success_that_the_next_one_skips(bench, scheduled, unique):
    await scheduled(model="missing")

    for _ in range(2):
        with pytest.raises(ModelNotFound, match="no such model"):
            await ended(bench, unique)

    async def told():
        firings = (await bench.client.schedules.view(unique)).firings
        return [one.status for one in firings] == ["failed", "failed"] and firings[0].error.message

    await until(told, seconds=20, what="both are told as failed")


async def test_data_that_are_gone_fail_the_firing(bench, started, unique):
    firing = await started("missing.csv")

    with pytest.raises(DataNotFound, match=r"there is no missing\.csv"):
        await firing.result()

    assert bench.activities.started == []
    await bench.replay(firing.handle.id)


async def test_an_evaluation_that_failed_fails_the_firing(bench, started, unique):
    firing = await started(to="champion", sets=("test.csv", "broken.csv"))

    with pytest.raises(Exception, match="was not evaluated on set 2: a column is gone"):
        await firing.result()

    assert bench.activities.registry.written == []
    await bench.replay(firing.handle.id)


async def test_the_champion_is_evaluated_on_the_same_rows(bench, started, unique):
    firing = await started(to="beaten", sets=("test.csv", "other.csv"))

    result = await firing.result()

    rows = {run: set() for run in (result.run, "beaten-champion")}
    for one in bench.activities.evaluations.requests:
        rows[one.run].add((one.snapshot, one.split, one.resamples))
    assert rows[result.run] == rows["beaten-champion"] == {("0" * 64, "test", 1000), ("1" * 64, "test", 1000)}
    assert [one.champion for one in result.standings] == [0.7, 0.7]
    assert (result.status, result.champion) == ("promoted", "beaten-champion")
    assert (await firing.handle.describe()).history_length < 60
    await bench.replay(firing.handle.id)


async def test_without_rows_to_evaluate_on_the_gates_are_asked_all_the_same(bench, started, unique):
    firing = await started(to="beaten", sets=())

    result = await firing.result()

    assert (result.status, result.standings) == ("promoted", [])
    assert bench.activities.evaluations.requests == []
    await bench.replay(firing.handle.id)


@pytest.mark.parametrize(
    ("alias", "status", "reason"),
    [
        ("refused", "refused", "a gate refused run {run}: min accuracy: accuracy is 0.7500"),
        ("same", "left", "{name}@same names these weights already, as run twin"),
        (
            "odd",
            "left",
            "the champion, run odd-champion, cannot be evaluated on the same rows: it has other labels",
        ),
    ],
)
async def test_a_model_that_is_not_promoted_is_left_and_it_says_why(
    bench, started, unique, alias, status, reason
):
    firing = await started(to=alias)

    result = await firing.result()

    assert (result.status, result.version) == (status, None)
    assert result.reason == reason.format(run=result.run, name=unique)
    assert bench.activities.registry.written == []
    await bench.replay(firing.handle.id)


async def test_an_approval_is_asked_for_and_the_firing_ends(bench, started, unique):
    first = await started("growing.csv", to="champion", approval=ApprovalPolicy())
    asked = await first.result()
    second = await started("growing.csv", to="champion", approval=ApprovalPolicy())
    left = await second.result()

    assert asked.status == "waiting"
    assert f"durabert approve {unique}@champion --reason TEXT" in asked.reason
    assert left.status == "left"
    assert f"another promotion to {unique}@champion is open; decide on it, then: durabert" in left.reason
    promotion = await bench.client.promotion(ModelRef.parse_text(f"{unique}@champion"))
    assert (await promotion.decide(approved=True, reason="looked at it")).run == asked.run
    for one in (first, second):
        await bench.replay(one.handle.id)


async def test_nobody_is_asked_about_a_model_that_a_gate_refuses(bench, started, unique):
    firing = await started(to="refused", approval=ApprovalPolicy())

    result = await firing.result()

    assert result.status == "refused"
    await bench.replay(firing.handle.id)


async def test_a_firing_that_is_cancelled_leaves_no_training(bench, started, unique):
    firing = await started(model="endless")
    run = await firing.training()

    await firing.handle.cancel()
    with pytest.raises(RunCancelled):
        await firing.result()

    assert (await bench.client.status(run)).status == "cancelled"
    assert bench.activities.running == 0
    await bench.replay(firing.handle.id)


async def test_a_run_that_is_cancelled_by_itself_fails_its_firing(bench, started, unique):
    firing = await started(model="endless")
    run = await firing.training()

    await bench.client.cancel(run)

    with pytest.raises(RunCancelled, match=f"run '{run}' was cancelled"):
        await firing.result()
    assert (await firing.handle.describe()).status is WorkflowExecutionStatus.FAILED
    await bench.replay(firing.handle.id)


async def test_a_second_firing_is_refused_while_one_goes_on(bench, scheduled, unique):
    await scheduled(model="endless")
    firing = await fired(bench, unique)
    await firing.training()

    with pytest.raises(RunNotUsable, match=f"a firing of '{unique}' goes on, and its overlap policy is skip"):
        await bench.client.schedules.trigger(unique)

    await firing.handle.cancel()


WRONG_RANGES = [
    ("2026-01-31T05:00", "2026-01-31T03:00", "but should not be before --from, 2026-01-31T05:00"),
    ("2026-01-31T03:10", "2026-01-31T03:50", "has no firing between"),
    ("2026-01-01", "2026-01-31", "has 721 firings between .* should have at most 100"),
    ("2026-01-01", "9999-01-31", "should not be in the future"),
]


async def test_a_backfill_of_a_wrong_range_fires_nothing(bench, scheduled, unique):
    await scheduled(timing=HOURLY)

    for first, last, told in WRONG_RANGES:
        bounds = [datetime.fromisoformat(one).replace(tzinfo=UTC) for one in (first, last)]
        with pytest.raises(SpecInvalid, match=told):
            await bench.client.schedules.backfill(
                unique, first=bounds[0], last=bounds[1], overlap="buffer_all"
            )

    assert (await bench.client.schedules.view(unique)).num_fired == 0


@pytest.mark.parametrize(
    ("timing", "told"),
    [
        ({"cron": "61 3 * * 1"}, r"--cron is '61 3 \* \* 1', but should be five fields"),
        ({"cron": "nightly"}, "--cron is 'nightly', but should be five fields"),
        ({"cron": "0 0 31 2 *"}, "which never comes"),
        (
            {"cron": "*/5 * * * * * *"},
            "which comes after 5 seconds; firings should be at least 60 seconds apart",
        ),
        ({"cron": "0 3 * * 1", "time_zone": "Mars/Olympus"}, "--time-zone is 'Mars/Olympus'"),
    ],
)
async def test_times_that_temporal_does_not_take_create_nothing(bench, scheduled, unique, timing, told):
    with pytest.raises(SpecInvalid, match=told):
        await scheduled(timing=RetrainingTiming(**timing))

    with pytest.raises(ScheduleNotFound):
        await bench.client.schedules.view(unique)


async def test_a_name_belongs_to_one_schedule(bench, scheduled, unique):
    await scheduled()

    with pytest.raises(
        NameInUse, match=f"{unique}' is in use by another schedule .*durabert schedule delete"
    ):
        await scheduled()


async def test_a_schedule_that_is_not_there_has_a_near_one(bench, scheduled, unique):
    await scheduled()

    async def listed():
        return unique in {one.name for one in await bench.client.schedules.all()}

    await until(listed, seconds=20, what="it is listed")

    with pytest.raises(ScheduleNotFound, match=f"there is no schedule '{unique}x'; did you mean '{unique}'"):
        await bench.client.schedules.trigger(unique + "x")


async def test_a_deleted_schedule_leaves_what_it_has_started(bench, scheduled, unique):
    await scheduled(model="endless")
    firing = await fired(bench, unique)
    run = await firing.training()

    await bench.client.schedules.delete(unique)

    assert (await bench.client.status(run)).status == "running"
    with pytest.raises(ScheduleNotFound):
        await bench.client.schedules.view(unique)
    await firing.handle.cancel()
