"""Replay: the workflow code of today against what was recorded, without touching anything outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from google.protobuf.json_format import ParseError
from temporalio.client import WorkflowHistory
from temporalio.worker import Replayer

from durabert.errors import DataInvalid, DataNotFound
from durabert.specs import Wire
from durabert.wire import data_converter
from durabert.workflows import WORKFLOWS

if TYPE_CHECKING:
    from pathlib import Path


BEGINNING: Final = ("workflow_execution_started_event_attributes", "workflow_task_scheduled_event_attributes")
"""The first events of every workflow."""


class ReplayReport(Wire):
    """Whether the workflow code does again what it did."""

    workflow_id: str
    """Id of the replayed workflow."""
    workflow_type: str
    """Its type."""
    events: int
    """Length of the history."""
    same: bool
    """Whether the code made the same decisions."""
    difference: str | None = None
    """Where it first differs."""


async def replay(history: WorkflowHistory) -> ReplayReport:
    """Run the workflow code against a history; activities are not executed, their results are read."""
    replayer = Replayer(workflows=WORKFLOWS, data_converter=data_converter)
    outcome = await replayer.replay_workflow(history, raise_on_replay_failure=False)
    failure = outcome.replay_failure
    started = history.events[0].workflow_execution_started_event_attributes
    return ReplayReport(
        workflow_id=history.workflow_id,
        workflow_type=started.workflow_type.name,
        events=len(history.events),
        same=failure is None,
        difference=None if failure is None else str(failure),
    )


def read_history(path: Path) -> WorkflowHistory:
    """Read a history from a JSON file, as ``durabert replay --save`` or Temporal's own tools write it.

    Raises:
        DataInvalid: the file is no history.
        DataNotFound: there is no such file.
    """
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataNotFound(f"the history {str(path)!r} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataInvalid(f"{path} is not a workflow history in JSON: it is no text in UTF-8") from None
    try:
        history = WorkflowHistory.from_json(path.stem, document)
    except (ParseError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise DataInvalid(f"{path} is not a workflow history in JSON: {reason}") from None
    if not history.events:
        raise DataInvalid(f"{path} is not a workflow history in JSON: it has no events")
    _require_whole(history, path)
    return history


def _require_whole(history: WorkflowHistory, path: Path) -> None:
    # The SDK waits for ever for an event that is not there.
    for number, event in enumerate(history.events, start=1):
        expected = BEGINNING[number - 1] if number <= len(BEGINNING) else None
        kind = event.WhichOneof("attributes")
        if event.event_id != number or kind is None or expected not in {None, kind}:
            raise DataInvalid(f"{path} is not a whole workflow history: event {number} is missing or damaged")
    if len(history.events) < len(BEGINNING):
        raise DataInvalid(f"{path} is not a whole workflow history: it ends after its first event")
