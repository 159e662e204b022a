"""How an activity learns that it is to stop while it sends few heartbeats, on a real server."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Interceptor, OutboundInterceptor, WorkflowFailureError
from temporalio.service import RPCError, RPCStatusCode
from temporalio.worker import Worker

from durabert.activities import heartbeats
from durabert.client.pausing import pause
from durabert.contract import HEARTBEAT_SIGNAL
from durabert.specs import Progress
from durabert.supervisor import Event
from tests.real import until

LONG = 3600.0
THROTTLE = timedelta(milliseconds=10)


@workflow.defn(name="waits", sandboxed=False)
class Waits:
    @workflow.run
    async def run(self) -> None:
        await workflow.execute_activity(
            "wait",
            start_to_close_timeout=timedelta(hours=1),
            cancellation_type=workflow.ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
        )


class Waiting:
    """An activity that ends when it is told to, and what became of it."""

    def __init__(self) -> None:
        self.beats = None
        self.ended_as = None
        self.leave = asyncio.Event()
        self.ticks_after_a_wish = 0

    @activity.defn(name="wait")
    async def wait(self) -> None:
        async with heartbeats.heartbeats(lambda _: None) as self.beats:
            try:
                await self.leave.wait()
                self.beats.wanted.set()
                for _ in range(self.ticks_after_a_wish):
                    await asyncio.sleep(0)
            except asyncio.CancelledError:
                self.ended_as = activity.cancellation_details()
                raise


@pytest.fixture
def sent(monkeypatch):
    """Heartbeats that were sent: three at first, and then none by itself."""
    sent = []
    send = activity.heartbeat
    monkeypatch.setattr(
        activity, "heartbeat", lambda told: (sent.append((datetime.now(UTC), told)), send(told))
    )
    monkeypatch.setattr(heartbeats, "BRISK_BEATS", 1)
    monkeypatch.setattr(heartbeats, "BRISK_SECONDS", 0.1)
    monkeypatch.setattr(heartbeats, "HEARTBEAT_SECONDS", LONG)
    return sent


@asynccontextmanager
async def waiting(temporal, name, sent):
    """A workflow whose activity has sent the heartbeats that it sends by itself."""
    found = Waiting()
    async with Worker(
        temporal,
        task_queue=name,
        workflows=[Waits],
        activities=[found.wait],
        max_heartbeat_throttle_interval=THROTTLE,
        default_heartbeat_throttle_interval=THROTTLE,
    ):
        handle = await temporal.start_workflow("waits", id=name, task_queue=name)

        async def calm():
            # The server has answered the last of them: nothing but another one can tell of what comes now.
            [pending] = (await handle.describe()).raw_description.pending_activities or [None]
            return len(sent) >= 3 and pending.last_heartbeat_time.ToDatetime(UTC) > sent[-1][0]

        await until(calm, seconds=20, what="it has sent what it sends by itself")
        try:
            yield handle, found
        finally:
            with contextlib.suppress(RPCError):
                await handle.terminate()


async def ended(found):
    async def has_ended():
        return found.ended_as is not None

    await until(has_ended, seconds=20, what="the activity is told")
    return found.ended_as


async def test_a_cancel_reaches_an_activity_long_before_its_next_heartbeat(temporal, unique, sent):
    async with waiting(temporal, unique, sent) as (handle, found):
        await handle.cancel()

        assert (await ended(found)).cancel_requested
        with pytest.raises(WorkflowFailureError):
            await handle.result()


async def test_a_pause_reaches_an_activity_long_before_its_next_heartbeat(temporal, unique, sent):
    async with waiting(temporal, unique, sent) as (handle, found):
        pausing = asyncio.create_task(pause(temporal, handle, unique))

        assert (await ended(found)).paused
        await pausing


async def test_the_end_of_its_workflow_reaches_an_activity_long_before_its_next_heartbeat(
    temporal, unique, sent
):
    async with waiting(temporal, unique, sent) as (handle, found):
        await handle.terminate()

        assert (await ended(found)).not_found


async def test_only_what_asks_for_a_heartbeat_causes_one(temporal, unique, sent, monkeypatch):
    heard, asks = [], heartbeats._asks
    monkeypatch.setattr(heartbeats, "_asks", lambda event: (heard.append(event), asks(event))[1])
    async with waiting(temporal, unique, sent) as (handle, found):

        async def taken(signal):
            names = [event.workflow_execution_signaled_event_attributes.signal_name for event in heard]
            return signal in names and not found.beats.wanted.is_set()

        before = len(sent)
        await handle.signal("report")
        await until(lambda: taken("report"), seconds=20, what="the other signal is heard")
        assert len(sent) == before

        await handle.signal(HEARTBEAT_SIGNAL)
        await until(lambda: taken(HEARTBEAT_SIGNAL), seconds=20, what="the signal is heard")
        assert len(sent) == before + 1


async def test_a_phase_is_told_when_it_begins(temporal, unique, sent):
    async with waiting(temporal, unique, sent) as (_, found):
        before = len(sent)
        for step in (1, 2):
            found.beats.on_event(Event("progress", Progress(phase="training", step=step).model_dump()))

        async def told():
            return len(sent) > before

        await until(told, seconds=20, what="a heartbeat of the phase")
        found.beats.on_event(Event("progress", Progress(phase="training", step=3).model_dump()))
        await asyncio.sleep(0)
        assert [told.step for _, told in sent[before:]] == [2]
        assert not found.beats.wanted.is_set()


async def test_first_steps_are_told_quickly_however_long_the_start_took(temporal, unique, sent):
    async with waiting(temporal, unique, sent) as (_, found):
        training = Progress(phase="training")
        found.beats.on_event(Event("progress", training.model_dump()))

        async def told(step, times):
            return [told.step for _, told in sent].count(step) == times

        await until(lambda: told(0, 4), seconds=20, what="a heartbeat of the phase")
        found.beats.on_event(Event("progress", training.model_copy(update={"step": 1}).model_dump()))

        # At once, and once more by itself.
        await until(lambda: told(1, 2), seconds=20, what="heartbeats of the first step")
        assert found.beats.interval() == LONG


@pytest.mark.parametrize("ticks", range(5))
async def test_no_heartbeat_outlives_its_activity_whatever_is_wanted_then(temporal, unique, sent, ticks):
    async with waiting(temporal, unique, sent) as (handle, found):
        found.ticks_after_a_wish = ticks
        found.leave.set()
        await handle.result()

        assert "_beat" not in [task.get_coro().__name__ for task in asyncio.all_tasks()]


class Unreadable(Interceptor):
    """A client that may not read histories."""

    def intercept_client(self, following):
        return Refusing(following)


class Refusing(OutboundInterceptor):
    def fetch_workflow_history_events(self, _):
        raise RPCError("no permission", RPCStatusCode.PERMISSION_DENIED, b"")


async def test_where_the_history_cannot_be_read_heartbeats_go_on(temporal, unique, sent):
    config = temporal.config()
    config["interceptors"] = [Unreadable()]
    async with waiting(type(temporal)(**config), unique, sent) as (handle, found):
        await handle.cancel()

        assert (await ended(found)).cancel_requested
