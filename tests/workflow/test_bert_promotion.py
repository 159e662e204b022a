"""What the promotion workflow decides, and what a client tells of it, on a real server."""

from __future__ import annotations

import asyncio

import pytest
from temporalio.client import WorkflowExecutionStatus

from durabert.client.promotions import open_promotions
from durabert.errors import PromotionNotOpen, PromotionPending, RunNotFound, RunNotUsable, SpecInvalid
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig
from durabert.specs.registry import ApprovalPolicy, ModelRef, PromotionRequest
from tests.real import until
from tests.workflow.conftest import serving

PATIENT = ApprovalPolicy()
HASTY = ApprovalPolicy(remind_after_seconds=0.3, expire_after_seconds=2.5)


@pytest.fixture
async def run(bench, unique):
    """The name of a run that has a model."""
    await bench.client.start(
        ExperimentSpec(name=unique, data=DataSpec(source="reviews.csv"), runs=(FineTuneConfig(),))
    )
    await bench.client.wait(unique)
    return unique


def asked(run, alias="champion", **fields):
    # The name of the run is unique, and so is that of the model.
    return PromotionRequest(run=run, name=run, alias=alias, requested_by="ann@laptop", **fields)


async def test_a_model_that_passes_is_promoted_at_once(bench, run):
    promotion = await bench.client.start_promotion(asked(run))

    result = await promotion.settled()

    assert (result.status, result.version, result.decision) == ("promoted", 1, None)
    [written] = bench.activities.registry.written
    assert written.execution.startswith(f"default/promote:{run}@champion/")
    await bench.replay(promotion.handle.id)


async def test_a_model_that_a_gate_refuses_reaches_neither_people_nor_the_registry(bench, run):
    promotion = await bench.client.start_promotion(asked(run, "refused", approval=PATIENT))

    result = await promotion.settled()

    assert (result.status, result.version) == ("refused", None)
    assert bench.activities.registry.written == []
    with pytest.raises(PromotionNotOpen, match="was refused by a gate"):
        await promotion.decide(approved=True, reason="please")
    await bench.replay(promotion.handle.id)


async def test_an_approval_promotes_and_is_written_down(bench, run):
    promotion = await bench.client.start_promotion(asked(run, approval=PATIENT))
    state = await promotion.settled()
    assert (state.phase, state.reminders) == ("waiting", 0)
    assert [one.request.run for one in await open_promotions(bench.client.temporal) if one.request.run == run]
    found = await bench.client.promotion(ModelRef.parse_text(f"{run}@champion"))

    result = await found.decide(approved=True, reason="  looked at 50 errors ")

    assert (result.status, result.decision.approved) == ("promoted", True)
    [written] = bench.activities.registry.written
    assert written.decision.reason == "looked at 50 errors"
    assert "@" in written.decision.by
    with pytest.raises(PromotionNotOpen, match="is version 1 since"):
        await found.decide(approved=False, reason="too late")
    await bench.replay(promotion.handle.id)


async def test_a_rejection_ends_it(bench, run):
    promotion = await bench.client.start_promotion(asked(run, approval=PATIENT))
    await promotion.settled()

    result = await promotion.decide(approved=False, reason="biased")

    assert (result.status, result.decision.reason) == ("rejected", "biased")
    assert bench.activities.registry.written == []
    await bench.replay(promotion.handle.id)


async def test_a_decision_needs_a_reason(bench, run):
    promotion = await bench.client.start_promotion(asked(run, approval=PATIENT))
    await promotion.settled()

    with pytest.raises(SpecInvalid, match="a decision needs a reason"):
        await promotion.decide(approved=True, reason=" ")

    assert (await promotion.state()).decision is None
    await promotion.decide(approved=False, reason="end of the test")


async def test_nobody_decides_and_it_reminds_and_expires(bench, run):
    promotion = await bench.client.start_promotion(asked(run, approval=HASTY))

    result = await promotion.result()

    assert (result.status, result.decision) == ("expired", None)
    # A busy server's timers are late.
    assert 1 <= result.reminders <= 8
    assert bench.activities.registry.written == []
    with pytest.raises(PromotionNotOpen, match=r"it expired at .*; promote again"):
        await promotion.decide(approved=True, reason="late")
    await bench.replay(promotion.handle.id)


async def test_the_clock_goes_on_while_no_worker_is_up(temporal, unique):
    request = asked("some-run", f"a{unique}", approval=HASTY)
    async with serving(temporal, unique) as bench:
        # A client that finds no such run on a remote server lets the worker look for it.
        promotion = await bench.client.start_promotion(request)
        state = await promotion.settled()
    async with serving(temporal, unique, max_cached_workflows=0) as bench:
        result = await promotion.result()

    assert state.phase == "waiting"
    assert result.status == "expired"
    assert result.at >= state.expires


async def test_one_promotion_to_an_alias_at_a_time(bench, run):
    request = asked(run, approval=PATIENT)
    promotion = await bench.client.start_promotion(request)
    await promotion.settled()

    joined = await bench.client.start_promotion(request)
    with pytest.raises(PromotionPending, match=f"is open, that of run '{run}'; approve or reject it first"):
        await bench.client.start_promotion(asked(run, min_metrics={"accuracy": 0.5}, approval=PATIENT))

    assert joined.handle.id == promotion.handle.id
    await promotion.decide(approved=False, reason="end of the test")
    again = await bench.client.start_promotion(request)
    assert (await again.settled()).phase == "waiting"
    await again.decide(approved=False, reason="end of the test")


async def test_a_registry_that_does_not_answer_is_asked_again(bench, run):
    promotion = await bench.client.start_promotion(asked(run, "flaky"))

    assert (await promotion.settled()).status == "promoted"


async def test_a_run_that_a_worker_cannot_find_is_told(bench, run):
    promotion = await bench.client.start_promotion(asked(run, "missing"))

    async with asyncio.timeout(10):
        with pytest.raises(RunNotFound, match="there is no such run"):
            await promotion.settled()


async def test_cancel_ends_a_promotion_that_waits(bench, run):
    promotion = await bench.client.start_promotion(asked(run, approval=PATIENT))
    await promotion.settled()

    await promotion.handle.cancel()

    async def cancelled():
        return (await promotion.handle.describe()).status is WorkflowExecutionStatus.CANCELED

    await until(cancelled, seconds=10, what="it is cancelled")
    await bench.replay(promotion.handle.id)


async def test_a_metric_that_the_run_does_not_have_starts_nothing(bench, run):
    with pytest.raises(SpecInvalid, match="has no metric 'f1'; it has accuracy"):
        await bench.client.start_promotion(asked(run, min_metrics={"f1": 0.5}))

    with pytest.raises(PromotionNotOpen, match="there is no promotion to"):
        await bench.client.promotion(ModelRef.parse_text(f"{run}@champion"))


async def test_a_run_without_a_model_is_not_promoted(bench, unique):
    spec = ExperimentSpec(
        name=unique, data=DataSpec(source="reviews.csv"), runs=(FineTuneConfig(model="missing"),)
    )
    await bench.client.start(spec)
    await bench.client.wait(unique)

    with pytest.raises(RunNotUsable, match="it failed: no such model"):
        await bench.client.start_promotion(asked(unique))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("films", "should be NAME@ALIAS or NAME@VERSION"),
        ("@champion", "should be NAME@ALIAS or NAME@VERSION"),
        ("films@", "alias '' is not allowed"),
        ("films@a/b", "alias 'a/b' is not allowed"),
        ("films@-x", "alias '-x' is not allowed"),
        ("films@0", "version is '0', but should be greater than or equal to 1"),
        ("../x@champion", "should be NAME@ALIAS or NAME@VERSION"),
    ],
)
def test_what_is_no_name_of_a_model_is_refused(text, told):
    with pytest.raises(SpecInvalid, match=told):
        ModelRef.parse_text(text)
