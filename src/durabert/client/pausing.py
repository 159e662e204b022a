"""Pausing on Temporal's own activity pause: the server keeps an activity back until it is let go on."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

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
from temporalio.service import RPCError, RPCStatusCode

from durabert.errors import EngineUnavailable, RunNotUsable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from temporalio.api.workflow.v1 import PendingActivityInfo
    from temporalio.client import Client, WorkflowHandle

REASON = "durabert pause"


async def pause(temporal: Client, handle: WorkflowHandle[Any, Any], name: str) -> None:
    """Ask the server to pause the activities of an experiment or of one run of it.

    Raises:
        RunNotUsable: none is open.
        EngineUnavailable: the server cannot pause.
    """
    open_ones = [one for one in await _pending(handle, name) if not one.paused]
    if not open_ones:
        raise RunNotUsable(f"{name!r} has nothing to pause: it has ended or is paused already")
    for one in open_ones:
        with _server_can_pause():
            await temporal.workflow_service.pause_activity(
                PauseActivityRequest(
                    namespace=temporal.namespace,
                    execution=_execution(handle),
                    identity=temporal.identity,
                    id=one.activity_id,
                    reason=REASON,
                )
            )


async def unpause(
    temporal: Client, handle: WorkflowHandle[Any, Any], name: str, *, queue: str | None
) -> bool:
    """Let paused activities go on, on another task queue if one is given; return whether there were any."""
    paused = [
        one
        for one in await _pending(handle, name)
        if one.paused or one.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED
    ]
    for one in paused:
        if queue is not None:
            await _move(temporal, handle, one.activity_id, queue)
        with _server_can_pause():
            await temporal.workflow_service.unpause_activity(
                UnpauseActivityRequest(
                    namespace=temporal.namespace,
                    execution=_execution(handle),
                    identity=temporal.identity,
                    id=one.activity_id,
                )
            )
    return bool(paused)


async def _move(temporal: Client, handle: WorkflowHandle[Any, Any], activity_id: str, queue: str) -> None:
    with _server_can_pause():
        await temporal.workflow_service.update_activity_options(
            UpdateActivityOptionsRequest(
                namespace=temporal.namespace,
                execution=_execution(handle),
                identity=temporal.identity,
                id=activity_id,
                activity_options=ActivityOptions(task_queue=TaskQueue(name=queue)),
                update_mask=FieldMask(paths=["task_queue.name"]),
            )
        )


async def _pending(handle: WorkflowHandle[Any, Any], name: str) -> list[PendingActivityInfo]:
    description = await handle.describe()
    pending = description.raw_description.pending_activities
    return [one for one in pending if name in (handle.id, one.activity_id) or one.activity_id == "snapshot"]


def _execution(handle: WorkflowHandle[Any, Any]) -> WorkflowExecution:
    return WorkflowExecution(workflow_id=handle.id)


@contextmanager
def _server_can_pause() -> Iterator[None]:
    try:
        yield
    except RPCError as error:
        if error.status is RPCStatusCode.UNIMPLEMENTED:
            raise EngineUnavailable(
                "this Temporal server cannot pause activities; cancel the run and resume it later instead"
            ) from None
        raise
