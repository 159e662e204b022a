"""The firings of a schedule: each is one execution of a workflow, which is followed or looked at."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import WorkflowExecutionStatus, WorkflowFailureError, WorkflowQueryFailedError
from temporalio.service import RPCError

from durabert.client.failures import restored
from durabert.client.views import FiringView
from durabert.errors import RunCancelled
from durabert.specs import ErrorInfo, RetrainingResult, RetrainingState
from durabert.workflows import BertRetrainingWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.client import WorkflowHandle

ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long a worker may take to say how far a firing is; there may be none."""
POLL_INTERVAL: Final = timedelta(seconds=0.2)


@dataclass(frozen=True)
class Firing:
    """One firing of a schedule."""

    handle: WorkflowHandle[Any, RetrainingResult]
    """Its workflow."""

    @classmethod
    def of(cls, temporal: TemporalClient, workflow: str, execution: str) -> Firing:
        """Return one by its workflow and the run id of its execution."""
        handle = temporal.get_workflow_handle_for(BertRetrainingWorkflow.run, workflow, run_id=execution)
        return cls(handle)

    async def state(self) -> RetrainingState | None:
        """Return what goes on; None: no worker says so."""
        try:
            return await self.handle.query(BertRetrainingWorkflow.state, rpc_timeout=ANSWER_LIMIT)
        except (RPCError, WorkflowQueryFailedError):
            return None

    async def training(self) -> str | None:
        """Wait until it trains and return its run; None: it has ended, or is past that."""
        while (await self.handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            state = await self.state()
            if state is not None and state.phase != "snapshot":
                return state.run if state.phase == "training" else None
            await asyncio.sleep(POLL_INTERVAL.total_seconds())
        return None

    async def result(self) -> RetrainingResult:
        """Wait for its end.

        Raises:
            DurabertError: the data cannot be read, or the training failed or was cancelled.
        """
        try:
            return await self.handle.result()
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def view(self) -> FiringView:
        """Return what is so of it."""
        description = await self.handle.describe()
        view = FiringView(
            workflow=description.id,
            execution=description.run_id,
            status="running",
            started=description.start_time,
            ended=description.close_time,
        )
        if description.status is WorkflowExecutionStatus.RUNNING:
            state = await self.state()
            return view if state is None else view.model_copy(update={"phase": state.phase, "run": state.run})
        try:
            result = await self.handle.result(follow_runs=False)
        except WorkflowFailureError as error:
            problem = restored(error.cause)
            told = {
                "status": "cancelled" if isinstance(problem, RunCancelled) else "failed",
                "error": ErrorInfo(type=type(problem).__name__, message=str(problem)),
            }
            return view.model_copy(update=told)
        return view.model_copy(update={"status": result.status, "run": result.run, "result": result})
