"""Activities that plan and evaluate at once; the data of the set says how."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from durabert.contract import EVALUATE_BERT, PLAN_EVALUATIONS
from durabert.specs import (
    EvaluationPlan,
    EvaluationPlanRequest,
    EvaluationRequest,
    EvaluationResult,
    PlannedEvaluation,
    Progress,
)


def evaluation_of(request: EvaluationRequest) -> EvaluationResult:
    return EvaluationResult(
        evaluation="e" * 64, run=request.run, model_sha256="0" * 64, data=request.data.source,
        snapshot=request.snapshot or "6" * 64, split=request.split or "test", rows=20, task="binary",
        metric="accuracy", metrics={"accuracy": 0.7}, intervals={"accuracy": (0.6, 0.8)},
        confidence=request.confidence, calibration_error=0.1, errors=6, seconds=0.1, device="cpu",
        precision="fp32",
    )  # fmt: skip


@dataclass
class FakeEvaluations:
    """Answers like the real ones."""

    plans: list[EvaluationPlanRequest] = field(default_factory=list)
    requests: list[EvaluationRequest] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """Of the runs and evaluations that have ended."""

    @activity.defn(name=PLAN_EVALUATIONS.name)
    async def plan_evaluations(self, request: EvaluationPlanRequest) -> EvaluationPlan:
        self.plans.append(request)
        sets = []
        for number, one in enumerate(request.sets):
            data = one.data or request.data
            if data.source == "unfit.csv":
                raise ApplicationError(
                    "test: line 2 has other labels", type="LabelsInvalid", non_retryable=True
                )
            sets.append(
                PlannedEvaluation(data=data, snapshot=f"{number}" * 64, split=one.split or "test", rows=20)
            )
        return EvaluationPlan(sets=sets)

    @activity.defn(name=EVALUATE_BERT.name)
    async def evaluate_bert(self, request: EvaluationRequest) -> EvaluationResult:
        self.requests.append(request)
        activity.heartbeat(Progress(phase="evaluating"))
        if request.data.source == "broken.csv":
            raise ApplicationError("a column is gone", type="ColumnMissing", non_retryable=True)
        if request.run == "odd-champion":
            raise ApplicationError("it has other labels", type="LabelsInvalid", non_retryable=True)
        if request.data.source == "flaky.csv" and activity.info().attempt == 1:
            raise ApplicationError("killed", type="ProcessKilled")
        while request.data.source == "endless.csv":
            activity.heartbeat(Progress(phase="evaluating"))
            await asyncio.sleep(0.05)
        self.order.append(f"{request.run} on {request.data.source}")
        return evaluation_of(request)
