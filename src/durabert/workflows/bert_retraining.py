"""Train a model again, as a schedule wants it: on data that have changed, and held against the champion."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from temporalio import workflow
from temporalio.common import SearchAttributeKey, WorkflowIDReusePolicy
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ChildWorkflowHandle, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from durabert.contract import (
        CHECK_PROMOTION,
        CHECKPOINTED_WORKFLOW,
        CREATE_DATASET_SNAPSHOT,
        EVAL_WORKFLOW,
        EVALUATE_BERT,
        FIND_CHAMPION,
        PROMOTION_WORKFLOW,
        RETRAINING_WORKFLOW,
        SPEC_DIGEST_MEMO,
        STARTED_BY_MEMO,
        evaluation_id,
    )
    from durabert.specs import (
        EvaluationOptions,
        EvaluationRequest,
        EvaluationResult,
        ExperimentResult,
        ExperimentSpec,
        FineTuneResult,
        RunOutcome,
        SnapshotRequest,
        SnapshotResult,
    )
    from durabert.specs.registry import GateResult, ModelRef, PromotionRequest, PromotionResult
    from durabert.specs.retraining import (
        Champion,
        RetrainingPhase,
        RetrainingPromotion,
        RetrainingRequest,
        RetrainingResult,
        RetrainingState,
        RetrainingStatus,
        Standing,
    )
    from durabert.workflows.failures import error_info, failing_alike
    from durabert.workflows.policies import call, cancel_requested, require_not_cancelled
    from durabert.workflows.visibility import EXPERIMENT, search_attributes

SCHEDULED_START: Final = SearchAttributeKey.for_datetime("TemporalScheduledStartTime")
"""Temporal's own: when a schedule wanted this execution."""


@workflow.defn(name=RETRAINING_WORKFLOW)
class BertRetrainingWorkflow:
    """One firing of a schedule."""

    @workflow.init
    def __init__(self, request: RetrainingRequest) -> None:
        self._request = request
        self._fired = fired_at()
        self._state = RetrainingState(phase="snapshot")
        self._snapshot = ""
        self._standings: list[Standing] = []
        self._champion = Champion()

    @workflow.run
    async def run(self, request: RetrainingRequest) -> RetrainingResult:
        """Return what has become of it; skipped, refused and left are results and no failures.

        Raises:
            ApplicationError: the data cannot be read, or the run or an evaluation of it failed.
        """
        with failing_alike():
            result = await self._retrained(request)
        self._turn("ended")
        workflow.set_current_details(f"{result.status}: {result.reason}")
        return result

    @workflow.query
    def state(self) -> RetrainingState:
        """Return what goes on, and the run, once it is known."""
        return self._state

    async def _retrained(self, request: RetrainingRequest) -> RetrainingResult:
        data = request.experiment.data
        snapshot = await call(
            CREATE_DATASET_SNAPSHOT,
            SnapshotRequest(data=data),
            activity_id="snapshot",
            summary=f"snapshot of {data.source}",
        )
        require_not_cancelled()
        self._snapshot = snapshot.snapshot
        last = self._last()
        if last is not None:
            return self._skipped(last)
        outcome = await self._trained(request.on(snapshot.snapshot, fired=self._fired), snapshot)
        require_not_cancelled()
        run = self._measured(outcome)
        if request.promotion is None:
            return self._ended(run, "trained", f"run {run.run} is trained; the schedule promotes nothing")
        return await self._promoted(request.promotion, run, outcome)

    def _last(self) -> RetrainingResult | None:
        """Return the last firing that succeeded, if it trained what this one would."""
        last = workflow.get_last_completion_result(RetrainingResult)
        if last is None:
            return None
        same = (last.snapshot, last.spec_sha256) == (self._snapshot, self._request.spec_sha256)
        return last if same else None

    def _skipped(self, last: RetrainingResult) -> RetrainingResult:
        reason = f"the data have not changed since run {last.run}, snapshot {self._snapshot[:12]}"
        return RetrainingResult(
            schedule=self._request.experiment.name,
            fired=_told(self._fired),
            status="skipped",
            reason=reason,
            snapshot=self._snapshot,
            spec_sha256=self._request.spec_sha256,
            run=last.run,
            model_sha256=last.model_sha256,
        )

    async def _trained(self, spec: ExperimentSpec, snapshot: SnapshotResult) -> RunOutcome:
        """Train, as an experiment of its own that every command knows.

        Raises:
            ApplicationError: it failed, was cancelled by itself, or goes on in another firing.
        """
        # A data set without rows to evaluate on is no mistake here: training holds some of them out.
        has_rows = spec.evaluations or {"test", "validation"} & snapshot.rows.keys()
        searchable = workflow.info().typed_search_attributes.get(EXPERIMENT) is not None
        told = self._request.experiment.model_copy(update={"name": spec.name})
        try:
            experiment = await workflow.start_child_workflow(
                EVAL_WORKFLOW if has_rows else CHECKPOINTED_WORKFLOW,
                spec,
                result_type=ExperimentResult,
                id=spec.name,
                # A firing that is done once more finds its run in the store.
                id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
                # Whoever terminates a firing frees the device, and keeps the checkpoint.
                parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
                memo={SPEC_DIGEST_MEMO: spec.digest(), STARTED_BY_MEMO: self._asked_by()},
                search_attributes=search_attributes(told) if searchable else None,
                static_summary=f"retrain {self._request.experiment.name} on {told.data.source}"[:200],
            )
            # From now on every command finds it.
            self._turn("training", run=spec.name)
            result: ExperimentResult = await experiment
        except WorkflowAlreadyStartedError:
            raise _failed(
                "NameInUse", f"run {spec.name!r} is trained by another firing at this moment"
            ) from None
        except ChildWorkflowError as error:
            if cancel_requested():
                raise
            raise _failure_of(spec.name, error) from error
        [outcome] = result.outcomes
        if outcome.result is None or outcome.status != "completed":
            raise _failed("RunCancelled", f"run {spec.name!r} was cancelled")
        return outcome

    def _measured(self, outcome: RunOutcome) -> FineTuneResult:
        """Take note of the evaluations.

        Raises:
            ApplicationError: one has failed, so that nothing can be said of the model.
        """
        assert outcome.result is not None
        for one in outcome.evaluations:
            if one.result is None:
                info = one.error
                said = f": {info.message}" if info else ""
                raise _failed(
                    info.type if info else "UnexpectedError",
                    f"run {outcome.run!r} was not evaluated on set {one.name}{said}",
                )
            self._standings.append(_standing(one.name, one.result))
        return outcome.result

    async def _promoted(
        self, promotion: RetrainingPromotion, run: FineTuneResult, outcome: RunOutcome
    ) -> RetrainingResult:
        self._turn("champion")
        ref = ModelRef(name=promotion.name, alias=promotion.alias)
        self._champion = await call(
            FIND_CHAMPION, ref, activity_id="champion", summary=f"what {promotion.target()} names"
        )
        require_not_cancelled()
        target, champion = promotion.target(), self._champion
        if champion.model_sha256 == run.model_sha256:
            return self._ended(run, "left", f"{target} names these weights already, as run {champion.run}")
        if champion.run is not None:
            problem = await self._evaluated(champion.run, outcome)
            if problem is not None:
                return self._ended(
                    run,
                    "left",
                    f"the champion, run {champion.run}, cannot be evaluated on the same rows: {problem}",
                )
        require_not_cancelled()
        self._turn("promotion")
        return await self._asked(promotion.request(run.run, requested_by=self._asked_by()), run)

    async def _evaluated(self, champion: str, outcome: RunOutcome) -> str | None:
        """Evaluate the champion on what the new model was evaluated on; return what is in the way."""
        spec = self._request.on(self._snapshot, fired=self._fired)
        sets = dict(spec.evaluation_sets())
        for number, one in enumerate(outcome.evaluations):
            require_not_cancelled()
            assert one.result is not None
            options = sets[one.name].model_dump(include=set(EvaluationOptions.model_fields) - {"split"})
            request = EvaluationRequest(
                run=champion,
                data=sets[one.name].data or spec.data,
                snapshot=one.result.snapshot,
                split=one.result.split,
                **options,
            )
            try:
                result = await call(
                    EVALUATE_BERT,
                    request,
                    activity_id=evaluation_id(champion, one.name),
                    summary=f"evaluate the champion {champion} on {one.result.data} {one.result.split}",
                )
            except ActivityError as error:
                if is_cancelled_exception(error):
                    raise
                return error_info(error).message
            known = self._standings[number]
            value = result.metrics.get(known.metric)
            self._standings[number] = known.model_copy(update={"champion": value})
        return None

    async def _asked(self, request: PromotionRequest, run: FineTuneResult) -> RetrainingResult:
        """Promote through the gates, or leave the question open for a person and end."""
        if request.approval is not None:
            summary = f"gates of {run.run}"[:200]
            check = await call(CHECK_PROMOTION, request, activity_id="check", summary=summary)
            require_not_cancelled()
            if not all(gate.passed for gate in check.gates):
                # Nobody is to be asked about a model that a gate refuses.
                return self._ended(run, "refused", _refusal(run.run, check.gates), gates=check.gates)
        promotion = await _begun(request)
        if promotion is None:
            return self._pending(request, run)
        if request.approval is not None:
            # It may wait for days, and the next firing is not to wait for it.
            reason = f"run {run.run} waits for approval: durabert approve {request.target()} --reason TEXT"
            return self._ended(run, "waiting", reason, gates=check.gates)
        try:
            result = await promotion
        except ChildWorkflowError as error:
            if cancel_requested():
                raise
            raise _failure_of(request.run, error) from error
        if result.status != "promoted":
            return self._ended(run, "refused", _refusal(run.run, result.gates), gates=result.gates)
        reason = f"{request.target()} is version {result.version}, run {run.run}"
        return self._ended(run, "promoted", reason, gates=result.gates, version=result.version)

    def _pending(self, request: PromotionRequest, run: FineTuneResult) -> RetrainingResult:
        target = request.target()
        then = f"durabert promote {run.run} --to {target}"
        reason = f"another promotion to {target} is open; decide on it, then: {then}"
        return self._ended(run, "left", reason)

    def _ended(
        self,
        run: FineTuneResult,
        status: RetrainingStatus,
        reason: str,
        *,
        gates: Sequence[GateResult] = (),
        version: int | None = None,
    ) -> RetrainingResult:
        return RetrainingResult(
            schedule=self._request.experiment.name,
            fired=_told(self._fired),
            status=status,
            reason=reason,
            snapshot=self._snapshot,
            spec_sha256=self._request.spec_sha256,
            run=run.run,
            model_sha256=run.model_sha256,
            reused_from=run.reused_from,
            standings=self._standings,
            champion=self._champion.run,
            version=version,
            gates=list(gates),
        )

    def _asked_by(self) -> str:
        return f"schedule {self._request.experiment.name} of {self._request.started_by}"

    def _turn(self, phase: RetrainingPhase, *, run: str | None = None) -> None:
        self._state = RetrainingState(phase=phase, run=run or self._state.run)
        workflow.set_current_details(f"{phase}, run {self._state.run}")


async def _begun(request: PromotionRequest) -> ChildWorkflowHandle[Any, PromotionResult] | None:
    """Start a promotion, which outlives this firing; none: another one to the alias is open."""
    try:
        return await workflow.start_child_workflow(
            PROMOTION_WORKFLOW,
            request,
            result_type=PromotionResult,
            id=request.workflow_id(),
            id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
            parent_close_policy=ParentClosePolicy.ABANDON,
            memo={STARTED_BY_MEMO: request.requested_by},
            static_summary=f"promote {request.run} to {request.target()}"[:200],
        )
    except WorkflowAlreadyStartedError:
        return None


def fired_at() -> datetime:
    """Return when the schedule wanted this execution; without a schedule, when it was started."""
    info = workflow.info()
    return (info.typed_search_attributes.get(SCHEDULED_START) or info.workflow_start_time).astimezone(UTC)


def _standing(name: str, result: EvaluationResult) -> Standing:
    return Standing(
        name=name,
        rows=result.rows,
        metric=result.metric,
        value=result.metrics[result.metric],
        interval=result.intervals[result.metric],
    )


def _refusal(run: str, gates: Sequence[GateResult]) -> str:
    refused = "; ".join(f"{gate.gate}: {gate.detail}" for gate in gates if not gate.passed)
    return f"a gate refused run {run}: {refused}"[:1000]


def _failure_of(name: str, error: ChildWorkflowError) -> ApplicationError:
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return _failed(cause.type or "UnexpectedError", cause.message)
    if is_cancelled_exception(error):
        return _failed("RunCancelled", f"run {name!r} was cancelled")
    return _failed("UnexpectedError", f"run {name!r}: {cause or error}")


def _failed(kind: str, message: str) -> ApplicationError:
    return ApplicationError(message, type=kind, non_retryable=True)


def _told(when: datetime) -> str:
    return when.isoformat(timespec="seconds")
