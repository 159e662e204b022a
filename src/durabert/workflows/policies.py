"""Every time limit and retry of the workflows, each with its reason."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Final, TypeVar

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.workflow import ActivityCancellationType

with workflow.unsafe.imports_passed_through():
    from durabert.contract import FINE_TUNE_BERT, ActivityContract
    from durabert.specs import Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

Request = TypeVar("Request", bound=Wire)
Result = TypeVar("Result", bound=Wire)

TRAINING_LIMIT: Final = timedelta(days=30)
"""Training may take days; whether it lives is the heartbeat's job."""

BATCH_LIMIT: Final = timedelta(hours=24)
"""Snapshots, evaluation and prediction: long enough for any file, short enough to end a forgotten one."""

HEARTBEAT_TIMEOUT: Final = timedelta(seconds=30)
"""Without one, a killed worker is not noticed before the start-to-close limit."""

RETRY: Final = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    backoff_coefficient=2.0,
    # For a worker that is lost. An activity that fails says itself how long to wait, up to 60 s: the server
    # would count hand-overs, too, and a run that was moved often would wait longer and longer.
    maximum_interval=timedelta(seconds=5),
    # Infrastructure is retried without limit; errors that are final say so themselves (durabert.errors).
    maximum_attempts=0,
)

LONG_HISTORY: Final = 300
"""Events after which a batch continues as new: a shard costs 6 or fewer, so some 50 shards an execution."""

EVENTS_OF_A_WINDOW: Final = 20
"""For each shard in flight, if that is more: all of them end before a history does, so a wide window needs a
longer one to have work for most of its time."""

LONG_SWEEP: Final = 1000
"""Events after which a sweep continues as new: a training costs it 9 or fewer, so over 100 an execution, and
the wait for the last of those in flight is a small part of the time."""

LARGE_TASK: Final = 40_000
"""Values of known trials after which no more trials are begun in the same workflow task. At some 20 bytes
each that is 0.8 MB; the server ends a workflow that hands in a task of more than 4 MB."""

SUMMARY_LENGTH: Final = 200
"""Characters of a summary; Temporal takes 400 bytes."""

START_TO_CLOSE: Final[Mapping[str, timedelta]] = {FINE_TUNE_BERT.name: TRAINING_LIMIT}


async def call(
    contract: ActivityContract[Request, Result], request: Request, *, activity_id: str, summary: str
) -> Result:
    """Run an activity under the policies of this module.

    Args:
        contract: which activity.
        request: its argument.
        activity_id: unique in the workflow; clients find the activity's progress by it.
        summary: one line that Temporal Web shows beside the activity, cut to what it has room for.

    Raises:
        ActivityError: it failed for good or was cancelled; its process is gone by then.
    """
    result: Result = await workflow.execute_activity(
        contract.name,
        request,
        result_type=contract.result,
        activity_id=activity_id,
        summary=summary[:SUMMARY_LENGTH],
        start_to_close_timeout=START_TO_CLOSE.get(contract.name, BATCH_LIMIT),
        heartbeat_timeout=HEARTBEAT_TIMEOUT,
        retry_policy=RETRY,
        # The workflow must know that the device is free before it says "cancelled".
        cancellation_type=ActivityCancellationType.WAIT_CANCELLATION_COMPLETED,
    )
    return result


def history_is_long(*, window: int, long: int | None = None) -> bool:
    """Return whether nothing more is to be started before the workflow continues as new.

    Args:
        window: activities or children in flight at once; each still adds a few events when it ends.
        long: how many events are many; default: ``LONG_HISTORY``.
    """
    info = workflow.info()
    longest = max(LONG_HISTORY if long is None else long, EVENTS_OF_A_WINDOW * window)
    return info.is_continue_as_new_suggested() or info.get_current_history_length() >= longest


def cancel_requested() -> bool:
    """Return whether this task was told to stop, however the activity that it waited for has ended."""
    # A worker that dies after the request ends its activity with a time-out instead of a cancellation, and an
    # activity that ends at that moment has a result.
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def require_not_cancelled() -> None:
    """Let a result that came together with a cancel begin nothing more.

    Raises:
        CancelledError: this task was told to stop.
    """
    if cancel_requested():
        raise asyncio.CancelledError
