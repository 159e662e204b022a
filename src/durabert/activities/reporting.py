"""What an activity tells its workflow while it runs: seldom, since every word is in the history for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Final

from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError

from durabert.contract import REPORT_SIGNAL
from durabert.specs import FineTuneRequest, Progress, RunReport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

FIRST_PAUSE: Final = timedelta(minutes=1)
LONGEST_PAUSE: Final = timedelta(minutes=30)
MAX_TOLD_ATTEMPTS: Final = 20
"""Attempts that tell when they start and fail. A report costs four events of history and fewer than 500 are
promised for 24 hours: 51 reports of progress and 40 of attempts cost some 370."""


def pauses(age: timedelta) -> Iterator[timedelta]:
    """Yield the pauses between the reports of progress of an attempt that begins when its run is ``age`` old.

    A run reports when it is 1, 3, 7, 15 and 31 minutes old and then every half an hour, into however many
    attempts it is cut.
    """
    pause, due = FIRST_PAUSE, FIRST_PAUSE
    while True:
        if due > age:
            yield due - age
            age = due
        pause = min(2 * pause, LONGEST_PAUSE)
        due += pause


def tells_ends(attempt: int) -> bool:
    """Return whether this attempt tells when it starts and when it fails; the journal has it in any case."""
    return attempt <= MAX_TOLD_ATTEMPTS


class RunReporter:
    """Signals the workflow when an attempt starts, now and then while it goes on, and when it fails.

    A report that does not arrive is lost: it is for people who look at the workflow, and decides nothing.
    """

    def __init__(self, request: FineTuneRequest) -> None:
        self._run = request.run
        self._latest = Progress(phase="starting")
        self._first = asyncio.Event()

    @classmethod
    @asynccontextmanager
    async def of(cls, request: FineTuneRequest) -> AsyncIterator[RunReporter]:
        """Report a run that makes checkpoints, from here to the end of the block; others tell nothing."""
        reporter = cls(request)
        if request.checkpoints is None:
            yield reporter
            return
        telling = asyncio.create_task(reporter._tell_now_and_then())
        try:
            yield reporter
        except BaseException as error:
            telling.cancel()
            if tells_ends(activity.info().attempt):
                await reporter._send("ended", error=error)
            raise
        finally:
            telling.cancel()

    def progressed(self, progress: Progress) -> None:
        """Take note of the latest progress."""
        self._latest = progress
        if progress.phase == "training":
            self._first.set()

    async def _tell_now_and_then(self) -> None:
        await self._first.wait()
        info = activity.info()
        if tells_ends(info.attempt):
            await self._send("started")
        for pause in pauses(info.started_time - info.scheduled_time):
            await asyncio.sleep(pause.total_seconds())
            await self._send("progress")

    async def _send(self, kind: str, *, error: BaseException | None = None) -> None:
        info, latest = activity.info(), self._latest
        report = RunReport.model_validate(
            {
                "run": self._run,
                "kind": kind,
                "attempt": info.attempt,
                "worker": activity.client().identity,
                "step": latest.step,
                "steps": latest.steps,
                "epoch": latest.epoch,
                "loss": latest.loss,
                "checkpoint_step": latest.checkpoint_step,
                "resumed_from": latest.attempt_log[-1].resumed_from if latest.attempt_log else None,
                "error": None if error is None else _class_of(error),
                "message": None if error is None else str(error)[:500],
            }
        )
        assert info.workflow_id is not None
        workflow = activity.client().get_workflow_handle(info.workflow_id, run_id=info.workflow_run_id)
        try:
            await workflow.signal(REPORT_SIGNAL, report)
        except RPCError as lost:
            activity.logger.info("the workflow was not told that attempt %d %s: %s", info.attempt, kind, lost)


def _class_of(error: BaseException) -> str:
    # Most errors of durabert are Temporal's by the time that they come by here.
    return error.type or "" if isinstance(error, ApplicationError) else type(error).__name__
