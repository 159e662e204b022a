"""A job that goes on, and what it gives."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowHandle
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.failures import restored
from durabert.client.status import pending_progress
from durabert.errors import RunNotUsable
from durabert.specs import Wire

if TYPE_CHECKING:
    from durabert.engine import Engine
    from durabert.specs import Progress

Result = TypeVar("Result", bound=Wire)
Returned = TypeVar("Returned")


async def ended(handle: WorkflowHandle[Any, Returned], engine: Engine | None) -> Returned:
    """Wait until a workflow has ended, also where the embedded engine is killed or frozen meanwhile.

    Raises:
        WorkflowFailureError: it did not complete.
        RPCError: a server that is not the embedded one does not answer.
    """
    while True:
        try:
            return await handle.result()
        except RPCError as error:
            if engine is None or error.status is RPCStatusCode.NOT_FOUND:
                raise
            # Started again, it has its workflows on disk.
            await asyncio.to_thread(engine.revive)


@dataclass(frozen=True)
class RunningJob(Generic[Result]):
    """A workflow of one activity that was started, such as a prediction or an export."""

    handle: WorkflowHandle[Any, Result]
    """Its workflow."""
    engine: Engine | None = None
    """The embedded engine, if it is on one."""

    async def progress(self) -> Progress | None:
        """Return how far it is; none before the first sign of a worker and after the end."""
        return pending_progress(await self.handle.describe())

    async def result(self) -> Result:
        """Wait for its end.

        Raises:
            DurabertError: it failed; nothing was written.
        """
        try:
            return await ended(self.handle, self.engine)
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def cancel(self) -> None:
        """Cancel it and return when no process of it is left; nothing is written."""
        await self.handle.cancel()
        try:
            await ended(self.handle, self.engine)
        except WorkflowFailureError:
            return


@dataclass(frozen=True)
class ContinuedJob(Generic[Result]):
    """A workflow of any length that was started, or found: a batch or a sweep."""

    handle: WorkflowHandle[Any, Result]
    """Its workflow, over all its executions."""
    joined: bool = False
    """It was there already."""
    engine: Engine | None = None
    """The embedded engine, if it is on one."""

    @property
    def name(self) -> str:
        """The id of its workflow."""
        return self.handle.id

    async def result(self) -> Result:
        """Wait for its end, also where the embedded engine is killed meanwhile.

        Raises:
            DurabertError: it failed or was cancelled; what was finished by then stays.
        """
        try:
            return await ended(self.handle, self.engine)
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def cancel(self) -> None:
        """Cancel it and return when no process of it is left; what was finished by then stays.

        Raises:
            RunNotUsable: it has already ended.
        """
        if (await self.handle.describe()).status is not WorkflowExecutionStatus.RUNNING:
            raise RunNotUsable(f"{self.name!r} has already ended")
        await self.handle.cancel()
        try:
            await ended(self.handle, self.engine)
        except WorkflowFailureError:
            return
