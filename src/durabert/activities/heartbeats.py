"""Heartbeats of an activity: what it tells, how often, and how it learns soon that it is to stop.

A server answers a heartbeat with whether the activity was cancelled or paused, and in no other way. Each one
is written to the database of the server, though, costs it some milliseconds of a processor that a model may
train on, and is charged for by Temporal Cloud. So few are sent once a run is under way, and the history of
the workflow is listened to, which costs nothing while nothing happens.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.api.enums.v1 import EventType
from temporalio.service import RPCError

from durabert.contract import HEARTBEAT_SECONDS, HEARTBEAT_SIGNAL
from durabert.errors import UnexpectedError
from durabert.specs import Progress

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from temporalio.api.history.v1 import HistoryEvent

    from durabert.supervisor import Event

BRISK_SECONDS: Final = 1.0
"""Between two heartbeats at first, and where nothing can be heard."""
BRISK_BEATS: Final = 10
"""At the start, and again from the first step: who has just started something looks at it."""


class Beats:
    """The last progress of a child, and whether a heartbeat is wanted at once."""

    def __init__(self, on_progress: Callable[[Progress], None]) -> None:
        self.latest = Progress(phase="starting")
        self.wanted = asyncio.Event()
        self.num_brisk = BRISK_BEATS
        """How many heartbeats are still sent quickly, one after the other."""
        self._makes_steps = False
        self._phases = {self.latest.phase}
        self._on_progress = on_progress

    def on_event(self, event: Event) -> None:
        """Take what a child tells."""
        if event.kind == "started":
            self.latest = self.latest.model_copy(update={"process_id": event.body["pid"]})
        elif event.kind == "progress":
            self.latest = Progress.model_validate({**event.body, "process_id": self.latest.process_id})
            self._on_progress(self.latest)
            if self.latest.phase not in self._phases:
                self._phases.add(self.latest.phase)
                self.wanted.set()
            if self.latest.step and not self._makes_steps:
                self._makes_steps = True
                self.num_brisk = BRISK_BEATS
                self.wanted.set()

    def interval(self) -> float:
        """Return the seconds to the next heartbeat, and count it."""
        if not self.num_brisk:
            return HEARTBEAT_SECONDS
        self.num_brisk -= 1
        return BRISK_SECONDS

    def num_bugs(self) -> int:
        """Return how many attempts before this one ended with a bug."""
        log = self.latest.attempt_log
        if not log:
            return activity.info().attempt - 1
        # The server counts hand-overs and pauses, too.
        return sum(one.ended == UnexpectedError.__name__ for one in log)

    def num_fruitless(self) -> int:
        """Return how many attempts in a row, this one included, brought the work no further."""
        log = self.latest.attempt_log
        if not log:
            return activity.info().attempt - 1
        if (self.latest.checkpoint_step or 0) > (log[-1].resumed_from or 0):
            return 0
        fruitless = itertools.takewhile(lambda one: one.last_step is None, reversed(log))
        return sum(1 for _ in fruitless) - 1


@asynccontextmanager
async def heartbeats(on_progress: Callable[[Progress], None]) -> AsyncIterator[Beats]:
    """Send heartbeats while this is open, with the last progress that was told.

    Args:
        on_progress: called with each progress.
    """
    beats = Beats(on_progress)
    beating = asyncio.create_task(_beat(beats))
    try:
        yield beats
    finally:
        beating.cancel()


async def _beat(beats: Beats) -> None:
    activity.heartbeat(beats.latest)
    # What is over by then reads no history.
    await asyncio.sleep(BRISK_SECONDS)
    while True:
        await _beat_and_listen(beats)
        for _ in range(BRISK_BEATS):
            activity.heartbeat(beats.latest)
            await asyncio.sleep(BRISK_SECONDS)


async def _beat_and_listen(beats: Beats) -> None:
    """Send a heartbeat in each interval, and when one is wanted, until nothing tells any more that it is."""
    listening = asyncio.create_task(_listen(beats.wanted))
    try:
        while not listening.done():
            beats.wanted.clear()
            activity.heartbeat(beats.latest)
            # asyncio.wait_for of Python 3.11 forgets that it was cancelled if the wait has just ended.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(beats.interval()):
                    await beats.wanted.wait()
    finally:
        listening.cancel()


async def _listen(wanted: asyncio.Event) -> None:
    """Set ``wanted`` when the workflow's history asks for a heartbeat, and when it tells no more."""
    info = activity.info()
    assert info.workflow_id is not None
    workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
    try:
        async for event in workflow.fetch_history_events(wait_new_event=True):
            if _asks(event):
                wanted.set()
    except RPCError as lost:
        activity.logger.info("a heartbeat every second, as the history cannot be read: %s", lost)
    finally:
        # If the workflow was terminated, the answer to a heartbeat says so.
        wanted.set()


def _asks(event: HistoryEvent) -> bool:
    if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
        return True
    # A pause leaves no event of its own.
    return event.workflow_execution_signaled_event_attributes.signal_name == HEARTBEAT_SIGNAL
