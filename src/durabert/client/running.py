"""A job that goes on, and what it gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from temporalio.client import WorkflowFailureError, WorkflowHandle

from durabert.client.failures import restored
from durabert.client.status import pending_progress
from durabert.specs import Wire

if TYPE_CHECKING:
    from durabert.specs import Progress

Result = TypeVar("Result", bound=Wire)


@dataclass(frozen=True)
class RunningJob(Generic[Result]):
    """A workflow of one activity that was started, such as a prediction or an export."""

    handle: WorkflowHandle[Any, Result]
    """Its workflow."""

    async def progress(self) -> Progress | None:
        """Return how far it is; none before the first sign of a worker and after the end."""
        return pending_progress(await self.handle.describe())

    async def result(self) -> Result:
        """Wait for its end.

        Raises:
            DurabertError: it failed; nothing was written.
        """
        try:
            return await self.handle.result()
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def cancel(self) -> None:
        """Cancel it and return when no process of it is left; nothing is written."""
        await self.handle.cancel()
        try:
            await self.handle.result()
        except WorkflowFailureError:
            return
