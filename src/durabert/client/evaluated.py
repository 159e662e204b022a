"""The evaluations of an experiment's runs, read from Temporal's record: a run has ended when they have."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from temporalio.api.enums.v1 import EventType

from durabert.client.payloads import decoded, told_error
from durabert.contract import EVALUATE_BERT, evaluation_of
from durabert.specs import EvaluationOutcome, EvaluationResult, Progress, RunOutcome

if TYPE_CHECKING:
    from collections.abc import Mapping

    from temporalio.api.history.v1 import HistoryEvent
    from temporalio.client import WorkflowHistory

    from durabert.client.views import RunView


def with_evaluations(
    runs: Mapping[str, RunView], history: WorkflowHistory, *, num_sets: int
) -> dict[str, RunView]:
    """Return the runs with their evaluations; one that is trained and not evaluated yet goes on.

    Args:
        runs: as far as their training tells.
        history: of their experiment.
        num_sets: evaluation sets.
    """
    record = _Record()
    for event in history.events:
        record.take(event)
    return {name: record.added(view, num_sets) for name, view in runs.items()}


@dataclass
class _Record:
    ended: dict[str, list[EvaluationOutcome]] = field(default_factory=dict)
    """By run."""
    cancelled: set[str] = field(default_factory=set)
    """Runs that a client has cancelled."""
    _begun: dict[int, tuple[str, str]] = field(default_factory=dict)
    """Run and evaluation set, by the event that an activity was scheduled with."""
    _cancels: set[int] = field(default_factory=set)

    def take(self, event: HistoryEvent) -> None:
        """Take one more event in."""
        match event.event_type:
            case EventType.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED:
                scheduled = event.activity_task_scheduled_event_attributes
                if scheduled.activity_type.name == EVALUATE_BERT.name:
                    self._begun[event.event_id] = evaluation_of(scheduled.activity_id)
            case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCEL_REQUESTED:
                self._cancels.add(event.activity_task_cancel_requested_event_attributes.scheduled_event_id)
            case EventType.EVENT_TYPE_WORKFLOW_EXECUTION_UPDATE_COMPLETED:
                told = event.workflow_execution_update_completed_event_attributes.outcome
                outcomes = [decoded(payload, RunOutcome) for payload in told.success.payloads]
                self.cancelled |= {outcome.run for outcome in outcomes if outcome.status == "cancelled"}
            case _:
                self._take_end(event)

    def _take_end(self, event: HistoryEvent) -> None:
        attribute = event.WhichOneof("attributes") or ""
        attributes = getattr(event, attribute) if attribute.startswith("activity_task_") else None
        scheduled = getattr(attributes, "scheduled_event_id", None)
        if scheduled not in self._begun:
            return
        run, name = self._begun[scheduled]
        outcome = _outcome(event, attributes, name)
        if outcome is None:
            return
        if outcome.status == "failed" and scheduled in self._cancels:
            # As the workflow sees it: it may have left with its worker.
            outcome = EvaluationOutcome(name=name, status="cancelled")
        self.ended.setdefault(run, []).append(outcome)

    def added(self, view: RunView, num_sets: int) -> RunView:
        """Return a run with its evaluations, and whether it has ended."""
        ended = self.ended.get(view.run, [])
        update: dict[str, Any] = {"evaluations": ended}
        complete = len(ended) == num_sets and all(one.status != "cancelled" for one in ended)
        if view.status == "completed" and not complete:
            stopped = view.run in self.cancelled or any(one.status == "cancelled" for one in ended)
            goes_on = {"status": "running", "progress": Progress(phase="evaluating")}
            update |= {"status": "cancelled"} if stopped else goes_on
        return view.model_copy(update=update)


def _outcome(event: HistoryEvent, attributes: Any, name: str) -> EvaluationOutcome | None:
    match event.event_type:
        case EventType.EVENT_TYPE_ACTIVITY_TASK_COMPLETED:
            result = decoded(attributes.result.payloads[0], EvaluationResult)
            return EvaluationOutcome(name=name, status="completed", result=result)
        case EventType.EVENT_TYPE_ACTIVITY_TASK_CANCELED:
            return EvaluationOutcome(name=name, status="cancelled")
        case EventType.EVENT_TYPE_ACTIVITY_TASK_FAILED | EventType.EVENT_TYPE_ACTIVITY_TASK_TIMED_OUT:
            return EvaluationOutcome(name=name, status="failed", error=told_error(attributes.failure))
    return None
