"""A sweep that goes on, how it is steered, and what it gave."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.failures import restored
from durabert.client.payloads import argument_of
from durabert.client.running import ContinuedJob
from durabert.client.views import Resumed, SweepView
from durabert.contract import SPEC_DIGEST_MEMO, SWEEP_WORKFLOW, TRIAL_WORKFLOW
from durabert.errors import NameInUse, RunNotUsable
from durabert.specs import (
    ErrorInfo,
    SweepControl,
    SweepResult,
    SweepSpec,
    TrialRecord,
)
from durabert.workflows import BertSweepWorkflow, BertTrialWorkflow
from durabert.workflows.visibility import search_attributes

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.client import WorkflowExecutionDescription, WorkflowHandle

    from durabert.engine import Engine

ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long a worker may take to say how far a sweep is; there may be none."""

NOBODY_ANSWERS: Final = "no worker answers"
"""In place of the phase of a sweep of which nobody says more than that it is there."""

STATUSES: Final = {
    WorkflowExecutionStatus.RUNNING: "running",
    WorkflowExecutionStatus.COMPLETED: "completed",
    WorkflowExecutionStatus.CANCELED: "cancelled",
}
"""Any other is a failure."""


class RunningSweep(ContinuedJob[SweepResult]):
    """A sweep that was started, or found."""

    async def view(self) -> SweepView:
        """Return what is so of it, also where the embedded engine was killed."""
        try:
            description = await self.handle.describe()
        except RPCError:
            if self.engine is None:
                raise
            await asyncio.to_thread(self.engine.revive)
            description = await self.handle.describe()
        status = STATUSES.get(description.status or WorkflowExecutionStatus.RUNNING, "failed")
        view = SweepView(
            name=self.name, status=status, started=description.start_time, ended=description.close_time
        )
        if status in {"completed", "failed"}:
            return view.model_copy(update=await self._ending())
        try:
            told = await self.handle.query(BertSweepWorkflow.progress, rpc_timeout=ANSWER_LIMIT)
        except (RPCError, WorkflowQueryFailedError):
            return view.model_copy(update={"phase": NOBODY_ANSWERS})
        return view.model_copy(
            update={
                "status": "paused" if status == "running" and told.control.paused else status,
                **{name: getattr(told, name) for name in ("phase", "metric", "control", "rungs")},
                **{name: getattr(told, name) for name in ("trials", "best", "final")},
            }
        )

    async def set_paused(self, paused: bool) -> SweepControl:
        """Begin no training any more, or begin some again.

        Raises:
            RunNotUsable: it is so already, or the search has ended.
        """
        return await self._update("set_paused", paused)

    async def add_trials(self, number: int) -> SweepControl:
        """Train so many trials more.

        Raises:
            SpecInvalid: there can be no more.
            RunNotUsable: the search has ended.
        """
        return await self._update("add_trials", number)

    async def set_concurrency(self, concurrency: int) -> SweepControl:
        """Train so many trials at once.

        Raises:
            SpecInvalid: it is out of range.
            RunNotUsable: the search has ended.
        """
        return await self._update("set_concurrency", concurrency)

    async def _update(self, name: str, value: bool | int) -> SweepControl:
        try:
            control: SweepControl = await self.handle.execute_update(name, value, result_type=SweepControl)
        except WorkflowUpdateFailedError as error:
            raise restored(error.cause) from None
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                raise RunNotUsable(f"sweep {self.name!r} has already ended") from None
            raise
        return control

    async def _ending(self) -> dict[str, Any]:
        try:
            result = await self.handle.result()
        except WorkflowFailureError as failure:
            cause = failure.cause
            if not isinstance(cause, ApplicationError):
                return {"error": ErrorInfo(type="UnexpectedError", message=str(cause))}
            error = ErrorInfo(type=cause.type or "UnexpectedError", message=cause.message)
            found = [SweepResult.model_validate(told, extra="ignore") for told in cause.details]
            return {"error": error, **(_of(found[0]) if found else {})}
        return {"phase": "ended", **_of(result)}


async def start_sweep(
    temporal: TemporalClient,
    spec: SweepSpec,
    *,
    queue: str,
    engine: Engine | None,
    searchable: bool,
    again: bool = False,
) -> RunningSweep:
    """Start a sweep, or join it if the same one was started under this name before.

    Args:
        temporal: the server.
        spec: what to search.
        queue: task queue of the trainings.
        engine: the embedded engine, if the server is one.
        searchable: the namespace has durabert's search attributes.
        again: also if it has ended; trials are found as far as they were trained.

    Raises:
        NameInUse: the name belongs to another sweep, or to an experiment.
    """
    reuse = WorkflowIDReusePolicy
    try:
        await temporal.start_workflow(
            BertSweepWorkflow.run,
            spec,
            id=spec.name,
            task_queue=queue,
            id_reuse_policy=reuse.ALLOW_DUPLICATE if again else reuse.ALLOW_DUPLICATE_FAILED_ONLY,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo={SPEC_DIGEST_MEMO: spec.digest()},
            search_attributes=search_attributes(spec) if searchable else None,
            static_summary=f"{spec.algorithm} over {', '.join(spec.space)}: {spec.num_trials} trials"[:200],
        )
    except WorkflowAlreadyStartedError:
        await _require_same(temporal, spec)
        return RunningSweep(_handle(temporal, spec.name), joined=True, engine=engine)
    return RunningSweep(_handle(temporal, spec.name), engine=engine)


async def resume_sweep(
    temporal: TemporalClient, sweep: RunningSweep, *, queue: str, searchable: bool
) -> Resumed:
    """Let a paused sweep go on, or one that was cancelled or failed, with the trials that it has.

    Raises:
        RunNotUsable: it has completed.
    """
    view = await sweep.view()
    if view.status == "completed":
        raise RunNotUsable(f"sweep {sweep.name!r} has completed")
    if view.status == "paused":
        await sweep.set_paused(False)
        return Resumed(sweep.name, "unpaused")
    if not view.is_over:
        return Resumed(sweep.name, "running")
    again = await start_sweep(
        temporal, await sweep_spec(sweep), queue=queue, engine=sweep.engine, searchable=searchable, again=True
    )
    return Resumed(sweep.name, "running" if again.joined else "restarted")


async def find_sweep(temporal: TemporalClient, name: str, *, engine: Engine | None) -> RunningSweep | None:
    """Return a sweep by its name; none if there is none."""
    if await _described(temporal, name, SWEEP_WORKFLOW) is None:
        return None
    return RunningSweep(_handle(temporal, name), joined=True, engine=engine)


async def sweep_statuses(temporal: TemporalClient) -> dict[str, str]:
    """Return the status of every sweep by its name, the newest first."""
    statuses: dict[str, str] = {}
    # One that continued as new, or was begun again, is listed once an execution.
    async for found in temporal.list_workflows(f"WorkflowType = '{SWEEP_WORKFLOW}'"):
        statuses.setdefault(found.id, STATUSES.get(found.status or WorkflowExecutionStatus.RUNNING, "failed"))
    return statuses


async def sweep_spec(sweep: RunningSweep) -> SweepSpec:
    """Return what a sweep was started with."""
    spec = argument_of(await sweep.handle.fetch_history(), SweepSpec)
    return spec.model_copy(update={"state": None})


async def find_trial(temporal: TemporalClient, run: str) -> TrialRecord | None:
    """Return what a trial has come to whose last training has ended; none if there is no such trial.

    Raises:
        RunNotUsable: it is being trained, or did not end by itself.
    """
    description = await _described(temporal, run, TRIAL_WORKFLOW)
    if description is None:
        return None
    if description.status is not WorkflowExecutionStatus.COMPLETED:
        status = STATUSES.get(description.status or WorkflowExecutionStatus.RUNNING, "failed")
        raise RunNotUsable(f"trial {run!r} has no model, it is {status}")
    return await temporal.get_workflow_handle_for(BertTrialWorkflow.run, run).result()


async def _require_same(temporal: TemporalClient, spec: SweepSpec) -> None:
    description = await _described(temporal, spec.name, SWEEP_WORKFLOW)
    if description is None:
        raise NameInUse(spec.name, difference="it is no sweep")
    if await description.memo_value(SPEC_DIGEST_MEMO, None) == spec.digest():
        return
    theirs = (await sweep_spec(RunningSweep(_handle(temporal, spec.name)))).model_dump()
    ours = spec.model_dump()
    field = next((name for name in ours if theirs[name] != ours[name]), None)
    if field is not None:
        raise NameInUse(
            spec.name, difference=f"a sweep whose {field} is {theirs[field]!r:.80}, not {ours[field]!r:.80}"
        )


async def _described(temporal: TemporalClient, name: str, kind: str) -> WorkflowExecutionDescription | None:
    try:
        description = await temporal.get_workflow_handle(name).describe()
    except RPCError as error:
        # What cannot be an id, such as an empty one, is refused as an argument.
        if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
            return None
        raise
    return description if description.workflow_type == kind else None


def _handle(temporal: TemporalClient, name: str) -> WorkflowHandle[Any, SweepResult]:
    return temporal.get_workflow_handle_for(BertSweepWorkflow.run, name)


def _of(result: SweepResult) -> dict[str, Any]:
    return {name: getattr(result, name) for name in ("metric", "trials", "best", "final")}
