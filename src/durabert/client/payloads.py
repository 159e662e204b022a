"""What is in a history: payloads and failures, as our types."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel

from durabert.errors import WorkerLost
from durabert.specs import ErrorInfo
from durabert.wire import data_converter

if TYPE_CHECKING:
    from temporalio.api.common.v1 import Payload
    from temporalio.api.failure.v1 import Failure
    from temporalio.client import WorkflowHistory

Model = TypeVar("Model", bound=BaseModel)


def decoded(payload: Payload, kind: type[Model]) -> Model:
    """Return the value of a payload."""
    value: Model = data_converter.payload_converter.from_payload(payload, kind)
    return value


def argument_of(history: WorkflowHistory, kind: type[Model]) -> Model:
    """Return what a workflow was started with."""
    started = history.events[0].workflow_execution_started_event_attributes
    return decoded(started.input.payloads[0], kind)


def told_error(failure: Failure) -> ErrorInfo:
    """Return what a failure tells."""
    if failure.HasField("application_failure_info"):
        return ErrorInfo(type=failure.application_failure_info.type, message=failure.message)
    if failure.HasField("timeout_failure_info"):
        return ErrorInfo(
            type=WorkerLost.__name__, message="the worker is taken for lost, nothing is heard of it"
        )
    return ErrorInfo(type="UnexpectedError", message=failure.message)
