"""The activity ``evaluate_bert``, and the one that plans the evaluations of an experiment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.contract import EVALUATE_BERT, PLAN_EVALUATIONS
from durabert.specs import EvaluationPlan, EvaluationPlanRequest, EvaluationRequest, EvaluationResult
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


EVALUATE: Final = "durabert.activities.evaluation_jobs:evaluate"
PLAN: Final = "durabert.activities.evaluation_planning:plan"


class EvaluationActivities:
    """Evaluations of finished runs of this worker's home directory or of the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(EVALUATE_BERT)
    async def evaluate_bert(self, request: EvaluationRequest) -> EvaluationResult:
        """Evaluate in a child process, unless the store has this evaluation already."""
        job = self._job(EVALUATE, request, attempt=activity.info().attempt)
        all_devices = ":" in request.device
        return EvaluationResult.model_validate(await run_child(job, self._slots, all_devices=all_devices))

    @implements(PLAN_EVALUATIONS)
    async def plan_evaluations(self, request: EvaluationPlanRequest) -> EvaluationPlan:
        """Take a snapshot of each evaluation set and see that it fits, in a child process."""
        return EvaluationPlan.model_validate(await run_child(self._job(PLAN, request), self._slots))

    def _job(self, entry: str, request: EvaluationRequest | EvaluationPlanRequest, **more: int) -> Job:
        return Job(
            entry=entry,
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
                **more,
            },
        )
