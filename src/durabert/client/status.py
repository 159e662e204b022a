"""What is so of an experiment, read from Temporal's own record of it: no worker is asked."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from temporalio.api.enums.v1 import EventType, PendingActivityState
from temporalio.client import WorkflowExecutionStatus

from durabert.client.evaluated import with_evaluations
from durabert.client.payloads import argument_of, decoded, told_error
from durabert.client.views import ExperimentView, RunView
from durabert.contract import EVAL_WORKFLOW, FINE_TUNE_BERT, FOR_ALL_RUNS, PATTERNS, evaluation_of
from durabert.specs import (
    ErrorInfo,
    ExperimentResult,
    ExperimentSpec,
    FineTuneResult,
    Progress,
    RunOutcome,
)

if TYPE_CHECKING:
    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.api.workflow.v1 import PendingActivityInfo
    from temporalio.client import WorkflowExecutionDescription, WorkflowHistory

OF_A_JOB: Final = ("status", "pausing", "progress", "heartbeat_age_seconds", "last_error")
"""Fields of a run that tell of what it does now, whether it trains or is evaluated."""

OF_A_PROCESS: Final = ("process_id", "examples_per_second", "tokens_per_second", "eta_seconds")
"""Fields of a progress that are so only while the process is there that told them."""


def experiment_view(description: WorkflowExecutionDescription, history: WorkflowHistory) -> ExperimentView:
    """Put a description (what goes on now) and a history (what has ended) together."""
    spec = spec_of(history)
    runs = {
        run: RunView(run=run, experiment=spec.name, status="queued", config=config, parent=spec.start_from)
        for run, config in spec.each_run()
    }
    _apply_history(runs, history)
    if description.workflow_type == EVAL_WORKFLOW:
        runs = with_evaluations(runs, history, num_sets=len(spec.evaluation_sets()))
    _apply_pending(runs, description)
    last = history.events[-1]
    views = [_closed(view, description.status, last) for view in runs.values()]
    return ExperimentView(
        name=spec.name,
        status=_status(description.status, views),
        started=description.start_time,
        ended=description.close_time,
        data=spec.data.source,
        runs=views,
        num_events=description.history_length,
    )


def spec_of(history: WorkflowHistory) -> ExperimentSpec:
    """Return the spec that an experiment was started with."""
    return argument_of(history, ExperimentSpec)


def is_experiment(description: WorkflowExecutionDescription) -> bool:
    """Return whether a workflow is one of ours with runs in it."""
    return description.workflow_type in PATTERNS.values()


def pending_progress(description: WorkflowExecutionDescription) -> Progress | None:
    """Return the last heartbeat of a workflow with one activity; none while there is none."""
    for pending in description.raw_description.pending_activities:
        if pending.heartbeat_details.payloads:
            return decoded(pending.heartbeat_details.payloads[0], Progress)
    return None


def rows_in_flight(description: WorkflowExecutionDescription) -> int:
    """Return how many rows the pending activities of a batch have predicted on, by their last heartbeats."""
    beats = [
        decoded(pending.heartbeat_details.payloads[0], Progress)
        for pending in description.raw_description.pending_activities
        if pending.heartbeat_details.payloads
        and pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
    ]
    return sum(beat.step for beat in beats if beat.phase == "predicting")


def _apply_history(runs: dict[str, RunView], history: WorkflowHistory) -> None:
    run_of: dict[int, str] = {}
    cancels = _requested_cancels(history)
    for event in history.events:
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_type.name == FINE_TUNE_BERT.name:
                run_of[event.event_id] = scheduled.activity_id
            continue
        if event.event_type == EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
            _apply_cancel(runs, event)
            continue
        attributes = _activity_attributes(event)
        run = run_of.get(attributes.scheduled_event_id) if attributes else None
        if run is not None:
            update = _update(event, attributes)
            if update.get("status") == "failed" and attributes.scheduled_event_id in cancels:
                # As the workflow sees it: it may have left for a pause, or with its worker.
                update = {"status": "cancelled"}
            runs[run] = runs[run].model_copy(update=update)


def _apply_cancel(runs: dict[str, RunView], event: HistoryEvent) -> None:
    """Take in how a run was cancelled that no worker had yet: it has no other event."""
    told = event.workflow_execution_update_completed_event_attributes.outcome
    for payload in told.success.payloads:
        outcome = decoded(payload, RunOutcome)
        if outcome.status == "cancelled" and not runs[outcome.run].ended:
            runs[outcome.run] = runs[outcome.run].model_copy(update={"status": "cancelled"})


def _activity_attributes(event: HistoryEvent) -> Any:
    field = event.WhichOneof("attributes") or ""
    return getattr(event, field) if field.startswith("activity_task_") else None


def _update(event: HistoryEvent, attributes: Any) -> dict[str, Any]:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_STARTED:
            last = told_error(attributes.last_failure) if attributes.HasField("last_failure") else None
            return {"attempts": attributes.attempt, "worker": attributes.identity, "last_error": last}
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            result = decoded(attributes.result.payloads[0], FineTuneResult)
            return {"status": "completed", "result": result}
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            return {"status": "cancelled"}
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED | EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return {"status": "failed", "error": told_error(attributes.failure)}
    return {}


def _requested_cancels(history: WorkflowHistory) -> set[int]:
    return {
        event.activity_task_cancel_requested_event_attributes.scheduled_event_id
        for event in history.events
        if event.event_type == EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED
    }


def _apply_pending(runs: dict[str, RunView], description: WorkflowExecutionDescription) -> None:
    for pending in description.raw_description.pending_activities:
        # A snapshot is taken for all runs.
        of_all = pending.activity_type.name in FOR_ALL_RUNS
        trained, evaluation_set = evaluation_of(pending.activity_id)
        for run in list(runs) if of_all else [trained]:
            if run in runs and not runs[run].ended:
                update = _pending(pending)
                if evaluation_set:
                    # Attempts and workers are told of the training.
                    update = {field: update[field] for field in OF_A_JOB if field in update}
                runs[run] = runs[run].model_copy(update=update)


def _pending(pending: PendingActivityInfo) -> dict[str, Any]:
    waiting = {
        PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED: "queued",
        PendingActivityState.PENDING_ACTIVITY_STATE_PAUSED: "paused",
    }
    status = waiting.get(pending.state, "running")
    on_worker = status == "running"
    update: dict[str, Any] = {
        "status": status,
        "pausing": pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_PAUSE_REQUESTED,
        "attempts": pending.attempt if on_worker else pending.attempt - 1,
        "worker": pending.last_worker_identity or None,
    }
    if pending.HasField("last_failure"):
        update["last_error"] = told_error(pending.last_failure)
    if status == "paused" and pending.heartbeat_details.payloads:
        # Where it will go on; the process that told it is gone, and with it its speed.
        latest = decoded(pending.heartbeat_details.payloads[0], Progress)
        update["progress"] = latest.model_copy(update=dict.fromkeys(OF_A_PROCESS))
    beat = pending.last_heartbeat_time.ToDatetime(UTC)
    # The server keeps the last heartbeat of the attempt before until there is one of this attempt.
    is_new = beat >= pending.last_started_time.ToDatetime(UTC)
    if on_worker and is_new and pending.heartbeat_details.payloads:
        update["progress"] = decoded(pending.heartbeat_details.payloads[0], Progress)
        update["heartbeat_age_seconds"] = (datetime.now(UTC) - beat).total_seconds()
    return update


def _closed(view: RunView, status: WorkflowExecutionStatus | None, last: HistoryEvent) -> RunView:
    if view.ended or status in {WorkflowExecutionStatus.RUNNING, None}:
        return view
    if status == WorkflowExecutionStatus.CANCELED:
        return view.model_copy(update={"status": "cancelled", "progress": None})
    if status == WorkflowExecutionStatus.TERMINATED:
        error = ErrorInfo(type="RunCancelled", message="the workflow was terminated")
    elif status == WorkflowExecutionStatus.COMPLETED:
        # It ended without an event of its own: cancelled before a worker had it, or without a snapshot.
        result = decoded(
            last.workflow_execution_completed_event_attributes.result.payloads[0], ExperimentResult
        )
        [outcome] = [one for one in result.outcomes if one.run == view.run]
        return view.model_copy(update={"status": outcome.status, "error": outcome.error})
    elif status == WorkflowExecutionStatus.FAILED:
        # Before any run began: there is no snapshot, or the spec was refused.
        error = told_error(last.workflow_execution_failed_event_attributes.failure)
    else:
        error = ErrorInfo(type="UnexpectedError", message="the workflow ended before the run did")
    return view.model_copy(update={"status": "failed", "error": error, "progress": None})


def _status(status: WorkflowExecutionStatus | None, runs: list[RunView]) -> str:
    if status == WorkflowExecutionStatus.RUNNING:
        return "running"
    statuses = {run.status for run in runs}
    return statuses.pop() if len(statuses) == 1 else "partial"
