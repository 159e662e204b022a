"""Promote the model of a finished run: gates, then, if wanted, a person, then the registry."""

from __future__ import annotations

from datetime import datetime, timedelta

from temporalio import workflow
from temporalio.exceptions import ApplicationError

with workflow.unsafe.imports_passed_through():
    from durabert.contract import (
        APPROVE_UPDATE,
        CHECK_PROMOTION,
        PROMOTION_WORKFLOW,
        REGISTER_VERSION,
        REJECT_UPDATE,
    )
    from durabert.specs.registry import (
        ApprovalPolicy,
        Decision,
        DecisionRecord,
        PromotionCheck,
        PromotionRequest,
        PromotionResult,
        PromotionState,
        PromotionStatus,
        RegistryRequest,
        RegistryVersion,
    )
    from durabert.workflows.failures import failing_alike
    from durabert.workflows.policies import call, require_not_cancelled


@workflow.defn(name=PROMOTION_WORKFLOW)
class BertPromotionWorkflow:
    """Let an alias name the model of a finished run, if gates and people agree."""

    @workflow.init
    def __init__(self, request: PromotionRequest) -> None:
        self._state = PromotionState(request=request, phase="checking")
        self._expires: datetime | None = None

    @workflow.run
    async def run(self, request: PromotionRequest) -> PromotionResult:
        """Return what has become of it; refused, rejected and expired are results and no failures.

        Raises:
            ApplicationError: the run is not there or cannot be read, or the registry cannot be written.
        """
        with failing_alike():
            return await self._promoted(request)

    async def _promoted(self, request: PromotionRequest) -> PromotionResult:
        check = await call(CHECK_PROMOTION, request, activity_id="check", summary=f"gates of {request.run}")
        require_not_cancelled()
        self._turn(gates=check.gates)
        if not all(gate.passed for gate in check.gates):
            return self._ended("refused", check)
        if request.approval is not None:
            await self._decided(request.approval)
            decision = self._state.decision
            if decision is None:
                return self._ended("expired", check)
            if not decision.approved:
                return self._ended("rejected", check)
        self._turn(phase="registering")
        version = await call(
            REGISTER_VERSION,
            RegistryRequest(
                promotion=request, check=check, decision=self._state.decision, execution=_execution()
            ),
            activity_id="register",
            summary=f"{request.target()} names {request.run}",
        )
        return self._ended("promoted", check, version)

    async def _decided(self, policy: ApprovalPolicy) -> None:
        """Wait until somebody has decided, remind of it, and give up in the end."""
        self._expires = expires = workflow.now() + timedelta(seconds=policy.expire_after_seconds)
        self._turn(
            phase="waiting",
            waiting_since=workflow.now().isoformat(timespec="seconds"),
            expires=expires.isoformat(timespec="seconds"),
        )
        while self._state.decision is None and (left := expires - workflow.now()) > timedelta(0):
            pause = min(left, timedelta(seconds=policy.remind_after_seconds))
            try:
                await workflow.wait_condition(self._is_decided, timeout=pause)
            except TimeoutError:
                if workflow.now() < expires:
                    self._turn(reminders=self._state.reminders + 1)

    def _is_decided(self) -> bool:
        return self._state.decision is not None

    @workflow.query
    def state(self) -> PromotionState:
        """Return what the gates say, and whether it waits for a person, and until when."""
        return self._state

    @workflow.update(name=APPROVE_UPDATE)
    def approve(self, decision: Decision) -> PromotionState:
        """Let it go on."""
        return self._decide(decision, approved=True)

    @workflow.update(name=REJECT_UPDATE)
    def reject(self, decision: Decision) -> PromotionState:
        """End it."""
        return self._decide(decision, approved=False)

    @approve.validator
    def _may_approve(self, decision: Decision) -> None:
        self._require_open(decision)

    @reject.validator
    def _may_reject(self, decision: Decision) -> None:
        self._require_open(decision)

    def _require_open(self, decision: Decision) -> None:
        """Refuse a decision without a reason, too early or too late."""
        target, taken = self._state.request.target(), self._state.decision
        if not decision.reason.strip():
            raise ApplicationError("a decision needs a reason; give --reason TEXT", type="SpecInvalid")
        if taken is not None:
            verb = "approved" if taken.approved else "rejected"
            raise ApplicationError(
                f"the promotion to {target} was {verb} by {taken.by} already", type="PromotionNotOpen"
            )
        if self._expires is not None and workflow.now() >= self._expires:
            # Its timer may be late.
            raise ApplicationError(
                f"no promotion to {target} waits for a decision: it expired at {self._state.expires}, nobody "
                "had decided; promote again",
                type="PromotionNotOpen",
            )
        if self._state.phase != "waiting":
            raise ApplicationError(
                f"the promotion to {target} does not wait for a decision, it is {self._state.phase}",
                type="PromotionNotOpen",
            )

    def _decide(self, decision: Decision, *, approved: bool) -> PromotionState:
        at = workflow.now().isoformat(timespec="seconds")
        record = DecisionRecord(approved=approved, by=decision.by, reason=decision.reason.strip(), at=at)
        self._turn(decision=record)
        return self._state

    def _ended(
        self, status: PromotionStatus, check: PromotionCheck, version: RegistryVersion | None = None
    ) -> PromotionResult:
        request = self._state.request
        self._turn(phase="ended")
        return PromotionResult(
            status=status,
            run=request.run,
            name=request.name,
            alias=request.alias,
            version=None if version is None else version.version,
            before=check.champion,
            gates=check.gates,
            decision=self._state.decision,
            reminders=self._state.reminders,
            at=workflow.now().isoformat(timespec="seconds"),
        )

    def _turn(self, **told: object) -> None:
        self._state = self._state.model_copy(update=told)
        workflow.set_current_details(promotion_details(self._state))


def promotion_details(state: PromotionState) -> str:
    """Return what Temporal Web shows of a promotion."""
    request = state.request
    lines = [f"{request.run} to {request.target()}, asked for by {request.requested_by}: {state.phase}", ""]
    lines += [
        f"- {'passed' if gate.passed else 'REFUSED'}: {gate.gate}, {gate.detail}" for gate in state.gates
    ]
    if state.phase == "waiting":
        lines += ["", f"Somebody should decide before {state.expires}: `durabert approve {request.target()}`"]
        lines += [f"Reminder {state.reminders}."] if state.reminders else []
    return "\n".join(lines)


def _execution() -> str:
    info = workflow.info()
    return f"{info.namespace}/{info.workflow_id}/{info.run_id}"
