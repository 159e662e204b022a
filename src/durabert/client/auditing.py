"""What the server's history says of a run, for an audit."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from temporalio.api.enums.v1 import EventType

from durabert.client.payloads import decoded
from durabert.client.replaying import replay
from durabert.contract import CREATE_DATASET_SNAPSHOT, FINE_TUNE_BERT, STARTED_BY_MEMO
from durabert.errors import RunNotFound
from durabert.specs import FineTuneRequest, SnapshotResult
from durabert.specs.audit import HistoryRecord
from durabert.wire import data_converter

if TYPE_CHECKING:
    from temporalio.api.history.v1 import WorkflowExecutionStartedEventAttributes
    from temporalio.client import WorkflowHistory

    from durabert.client import Client


async def history_record(client: Client, run: str) -> HistoryRecord | None:
    """Return what the history says of a run; None: the server has none of it, or not any more.

    Raises:
        RunNotUsable: the name is an experiment of several runs.
    """
    try:
        view = await client.run_status(run)
        history = await client.history(view.experiment)
        experiment = await client.status(view.experiment)
    except RunNotFound:
        return None
    report = await replay(history)
    started = history.events[0].workflow_execution_started_event_attributes
    return HistoryRecord(
        workflow_id=view.experiment,
        workflow_type=started.workflow_type.name,
        execution=started.original_execution_run_id,
        namespace=client.temporal.namespace,
        num_events=len(history.events),
        started=experiment.started.astimezone(UTC).isoformat(timespec="seconds"),
        ended=None
        if experiment.ended is None
        else experiment.ended.astimezone(UTC).isoformat(timespec="seconds"),
        status=view.status,
        started_by=_started_by(started),
        client=started.identity,
        worker=view.worker,
        replays=report.same,
        difference=report.difference,
        request=_request(history, run),
        snapshot=_snapshot(history),
        result=view.result,
        error=view.error,
    )


def _started_by(started: WorkflowExecutionStartedEventAttributes) -> str | None:
    told = started.memo.fields.get(STARTED_BY_MEMO)
    if told is None:
        return None
    value: str = data_converter.payload_converter.from_payload(told, str)
    return value


def _request(history: WorkflowHistory, run: str) -> FineTuneRequest | None:
    for event in history.events:
        scheduled = event.activity_task_scheduled_event_attributes
        if scheduled.activity_type.name == FINE_TUNE_BERT.name and scheduled.activity_id == run:
            return decoded(scheduled.input.payloads[0], FineTuneRequest)
    return None


def _snapshot(history: WorkflowHistory) -> str | None:
    scheduled_by = {
        event.event_id
        for event in history.events
        if event.activity_task_scheduled_event_attributes.activity_type.name == CREATE_DATASET_SNAPSHOT.name
    }
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            completed = event.activity_task_completed_event_attributes
            if completed.scheduled_event_id in scheduled_by:
                return decoded(completed.result.payloads[0], SnapshotResult).snapshot
    return None
