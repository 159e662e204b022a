"""Temporal's errors as ours."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from temporalio.exceptions import ApplicationError, CancelledError
from temporalio.service import RPCError

from durabert.errors import DurabertError, EngineUnavailable, RunCancelled

if TYPE_CHECKING:
    from collections.abc import Iterator


def restored(cause: BaseException | None) -> DurabertError:
    """Return the error that ended a workflow or an update as it was raised on the worker."""
    if isinstance(cause, CancelledError):
        return RunCancelled("it was cancelled")
    if isinstance(cause, ApplicationError):
        return DurabertError.restored(cause.type or "", cause.message)
    return DurabertError.restored("", str(cause))


@contextmanager
def server_answers() -> Iterator[None]:
    """Tell a server that went away, or refuses, as ``EngineUnavailable``."""
    try:
        yield
    except RPCError as error:
        raise EngineUnavailable(
            f"the Temporal server does not answer any more, or refuses ({error.status.name}): {error.message}"
        ) from error
