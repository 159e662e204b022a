"""What an activity or a child workflow failed with, and how a workflow fails with the same."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from durabert.specs import ErrorInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

    from temporalio.exceptions import ChildWorkflowError


def error_info(error: ActivityError | ChildWorkflowError) -> ErrorInfo:
    """Return what an activity or a child workflow failed with."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return ErrorInfo(type=cause.type or "UnexpectedError", message=cause.message)
    return ErrorInfo(type=type(cause).__name__, message=str(cause or error))


@contextmanager
def failing_alike() -> Iterator[None]:
    """Let the workflow fail with the error of its activity, for good; a cancel stays one.

    Raises:
        ApplicationError: an activity inside failed.
    """
    try:
        yield
    except ActivityError as error:
        if is_cancelled_exception(error):
            raise
        info = error_info(error)
        raise ApplicationError(info.message, type=info.type, non_retryable=True) from error
