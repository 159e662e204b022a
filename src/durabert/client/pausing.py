"""Pausing on Temporal's own activity pause: the server keeps an activity back until it is let go on."""

from __future__ import annotations

import asyncio
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, Literal

from google.protobuf.field_mask_pb2 import FieldMask
from temporalio.api.activity.v1 import ActivityOptions
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import (
    PauseActivityRequest,
    UnpauseActivityRequest,
    UpdateActivityOptionsRequest,
)
from temporalio.client import WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from durabert.contract import FOR_ALL_RUNS, HEARTBEAT_SIGNAL, evaluation_of
from durabert.errors import EngineUnavailable, RunNotUsable

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from temporalio.api.workflow.v1 import PendingActivityInfo
    from temporalio.client import Client, WorkflowExecutionDescription, WorkflowHandle

REASON: Final = "durabert pause"

POLL_INTERVAL: Final = timedelta(seconds=0.1)
"""How often the server is asked whether a paused activity has left its worker."""

BEGIN_LIMIT: Final = timedelta(seconds=10)
"""How long a pause waits for an experiment to begin; without a worker for its workflow it never does."""


async def pause(temporal: Client, handle: WorkflowHandle[Any, Any], name: str) -> None:
    """Pause the activities of an experiment or of one run of it; return when they have left their workers.

    Raises:
        RunNotUsable: none is open.
        EngineUnavailable: the server cannot pause.
    """
    asked, deadline = False, _deadline()
    # An experiment that was just started, the next of runs that go in order, or a run after the snapshot.
    may_begin = name == handle.id
    while True:
        description = await handle.describe()
        pending = _of(description, name)
        if pending:
            deadline = _deadline()
            may_begin |= any(one.activity_type.name in FOR_ALL_RUNS for one in pending)
        answers = [await _pause(temporal, handle, one.activity_id) for one in pending if not one.paused]
        if any(answers):
            # A worker is told of a pause by the answer to a heartbeat alone.
            await _asked(handle.signal(HEARTBEAT_SIGNAL))
            asked = True
        running = description.status is WorkflowExecutionStatus.RUNNING
        soon = not pending and may_begin and running and time.monotonic() < deadline
        if all(answers) and not soon:
            if not asked:
                raise RunNotUsable(
                    f"{name!r} has nothing to pause: it has ended, waits for its turn, has not begun, "
                    "or is paused already"
                )
            if all(one.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED for one in pending):
                return
        await asyncio.sleep(POLL_INTERVAL.total_seconds())


def _deadline() -> float:
    return time.monotonic() + BEGIN_LIMIT.total_seconds()


async def _pause(temporal: Client, handle: WorkflowHandle[Any, Any], activity_id: str) -> bool:
    return await _asked(
        temporal.workflow_service.pause_activity(
            PauseActivityRequest(
                **_activity(temporal, handle, activity_id),
                reason=REASON,
            )
        )
    )


async def let_go_on(
    temporal: Client, handle: WorkflowHandle[Any, Any], name: str, *, queue: str | None
) -> Literal["unpaused", "moved", "running"]:
    """Let paused activities go on; move them, and what waits for a worker, to a queue that is given."""
    pending = _of(await handle.describe(), name)
    waiting = [one for one in pending if one.state == PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED]
    paused = [one for one in pending if one.paused]
    if queue is not None:
        for one in [*waiting, *paused]:
            await _move(temporal, handle, one.activity_id, queue)
    for one in paused:
        await _unpause(temporal, handle, one.activity_id)
    if paused:
        return "unpaused"
    return "moved" if waiting and queue is not None else "running"


async def _unpause(temporal: Client, handle: WorkflowHandle[Any, Any], activity_id: str) -> None:
    await _asked(
        temporal.workflow_service.unpause_activity(
            UnpauseActivityRequest(
                **_activity(temporal, handle, activity_id),
            )
        )
    )


async def _move(temporal: Client, handle: WorkflowHandle[Any, Any], activity_id: str, queue: str) -> None:
    await _asked(
        temporal.workflow_service.update_activity_options(
            UpdateActivityOptionsRequest(
                **_activity(temporal, handle, activity_id),
                activity_options=ActivityOptions(task_queue=TaskQueue(name=queue)),
                update_mask=FieldMask(paths=["task_queue.name"]),
            )
        )
    )


def _of(description: WorkflowExecutionDescription, name: str) -> list[PendingActivityInfo]:
    # A snapshot is taken for all runs.
    return [
        one
        for one in description.raw_description.pending_activities
        if name in (description.id, evaluation_of(one.activity_id)[0])
        or one.activity_type.name in FOR_ALL_RUNS
    ]


def _activity(temporal: Client, handle: WorkflowHandle[Any, Any], activity_id: str) -> dict[str, Any]:
    """Return the fields of a request that say who asks for what of which activity."""
    return {
        "namespace": temporal.namespace,
        "identity": temporal.identity,
        "execution": WorkflowExecution(workflow_id=handle.id),
        "id": activity_id,
    }


async def _asked(call: Awaitable[Any]) -> bool:
    """Await the server's answer; False if the activity has ended since it was looked up.

    Raises:
        EngineUnavailable: the server cannot pause.
    """
    try:
        await call
    except RPCError as error:
        if error.status is RPCStatusCode.NOT_FOUND:
            return False
        if error.status is RPCStatusCode.UNIMPLEMENTED:
            raise EngineUnavailable(
                "this Temporal server cannot pause activities; cancel the run and resume it later instead"
            ) from None
        raise
    return True
