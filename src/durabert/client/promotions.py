"""A promotion: started, followed until somebody must decide, and decided."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowQueryFailedError,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.failures import restored
from durabert.client.identity import who
from durabert.client.running import ended
from durabert.contract import APPROVE_UPDATE, PROMOTION_WORKFLOW, REJECT_UPDATE, STARTED_BY_MEMO
from durabert.errors import PromotionNotOpen, PromotionPending
from durabert.specs.registry import (
    Decision,
    ModelRef,
    PromotionRequest,
    PromotionResult,
    PromotionState,
    promotion_id,
)
from durabert.workflows import BertPromotionWorkflow

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.client import WorkflowHandle

    from durabert.engine import Engine

ANSWER_LIMIT: Final = timedelta(seconds=5)
"""How long a worker may take to say how far a promotion is; there may be none."""
POLL_INTERVAL: Final = timedelta(seconds=0.2)


@dataclass(frozen=True)
class RunningPromotion:
    """A promotion that was started, or found."""

    handle: WorkflowHandle[Any, PromotionResult]
    """Its workflow."""
    engine: Engine | None = None
    """The embedded engine, if it is on one."""

    async def state(self) -> PromotionState | None:
        """Return how far it is, also after its end; None: no worker says so."""
        try:
            return await self.handle.query(BertPromotionWorkflow.state, rpc_timeout=ANSWER_LIMIT)
        except (RPCError, WorkflowQueryFailedError):
            return None

    async def settled(self) -> PromotionState | PromotionResult:
        """Wait until it has ended, or waits for a person.

        Raises:
            DurabertError: the run is not there, or the registry cannot be written.
        """
        while (await self.handle.describe()).status is WorkflowExecutionStatus.RUNNING:
            state = await self.state()
            if state is not None and state.phase == "waiting" and state.decision is None:
                return state
            await asyncio.sleep(POLL_INTERVAL.total_seconds())
        return await self.result()

    async def result(self) -> PromotionResult:
        """Wait for its end.

        Raises:
            DurabertError: the run is not there, or the registry cannot be written.
        """
        try:
            return await ended(self.handle, self.engine)
        except WorkflowFailureError as error:
            raise restored(error.cause) from None

    async def decide(self, *, approved: bool, reason: str) -> PromotionResult:
        """Approve or reject, and return what has become of it.

        Raises:
            PromotionNotOpen: it has ended, or somebody has decided already.
            SpecInvalid: there is no reason.
        """
        decision = Decision(by=who(), reason=reason)
        try:
            await self.handle.execute_update(
                APPROVE_UPDATE if approved else REJECT_UPDATE, decision, result_type=PromotionState
            )
        except WorkflowUpdateFailedError as error:
            raise restored(error.cause) from None
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise PromotionNotOpen(await self._how_it_ended()) from None
        return await self.result()

    async def _how_it_ended(self) -> str:
        target = self.handle.id.partition(":")[2]
        try:
            result = await self.handle.result()
        except WorkflowFailureError:
            return f"the promotion to {target} has failed; promote again"
        told = {
            "promoted": f"run {result.run} is version {result.version} since {result.at}",
            "refused": f"it was refused by a gate at {result.at}",
            "rejected": f"it was rejected at {result.at}",
            "expired": f"it expired at {result.at}, nobody had decided; promote again",
        }
        return f"no promotion to {target} waits for a decision: {told[result.status]}"


async def start_promotion(
    temporal: TemporalClient, request: PromotionRequest, *, queue: str, engine: Engine | None
) -> RunningPromotion:
    """Start a promotion, or join it if the same one waits.

    Raises:
        PromotionPending: another one to the same alias has not ended.
    """
    try:
        handle = await temporal.start_workflow(
            BertPromotionWorkflow.run,
            request,
            id=request.workflow_id(),
            task_queue=queue,
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo={STARTED_BY_MEMO: request.requested_by},
            static_summary=f"promote {request.run} to {request.target()}"[:200],
        )
    except WorkflowAlreadyStartedError:
        running = RunningPromotion(_handle(temporal, request.workflow_id()), engine)
        state = await running.state()
        if state is not None and state.request == request:
            return running
        other = "another one" if state is None else f"that of run {state.request.run!r}"
        raise PromotionPending(
            f"a promotion to {request.target()} is open, {other}; approve or reject it first"
        ) from None
    return RunningPromotion(handle, engine)


async def find_promotion(
    temporal: TemporalClient, ref: ModelRef, *, engine: Engine | None
) -> RunningPromotion:
    """Return the last promotion to an alias.

    Raises:
        PromotionNotOpen: there was none, or a version is named in place of an alias.
    """
    missing = PromotionNotOpen(
        f"there is no promotion to {ref}; durabert promote RUN --to NAME@ALIAS starts one"
    )
    if ref.alias is None:
        raise missing
    handle = _handle(temporal, promotion_id(ref.name, ref.alias))
    try:
        description = await handle.describe()
    except RPCError as error:
        if error.status is not RPCStatusCode.NOT_FOUND:
            raise
        raise missing from None
    if description.workflow_type != PROMOTION_WORKFLOW:
        raise missing
    return RunningPromotion(handle, engine)


async def open_promotions(temporal: TemporalClient) -> list[PromotionState]:
    """Return the promotions that wait, as far as a worker says so."""
    query = f"WorkflowType = '{PROMOTION_WORKFLOW}' AND ExecutionStatus = 'Running'"
    found = [_handle(temporal, one.id) async for one in temporal.list_workflows(query)]
    states = [await RunningPromotion(handle).state() for handle in found]
    return [state for state in states if state is not None]


def _handle(temporal: TemporalClient, name: str) -> WorkflowHandle[Any, PromotionResult]:
    return temporal.get_workflow_handle_for(BertPromotionWorkflow.run, name)
