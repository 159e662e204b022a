"""The activity ``run_bert_inference``, and those that begin and end a batch of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.contract import COMMIT_BATCH_INFERENCE, PLAN_BATCH_INFERENCE, RUN_BERT_INFERENCE
from durabert.specs import (
    BatchCommit,
    BatchInferenceRequest,
    BatchInferenceResult,
    BatchPlan,
    InferenceRequest,
    InferenceResult,
)
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots

PREDICT: Final = "durabert.activities.inference_jobs:predict"
SCORE_SHARD: Final = "durabert.activities.batch_jobs:score"


class InferenceActivities:
    """Prediction with finished runs of this worker's home directory or of the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(RUN_BERT_INFERENCE)
    async def run_bert_inference(self, request: InferenceRequest) -> InferenceResult:
        """Predict in a child process, on all that is asked for or on one shard of a batch."""
        job = Job(
            entry=PREDICT if request.shard is None else SCORE_SHARD,
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
                "attempt": activity.info().attempt,
            },
        )
        all_devices = ":" in request.device
        return InferenceResult.model_validate(await run_child(job, self._slots, all_devices=all_devices))

    @implements(PLAN_BATCH_INFERENCE)
    async def plan_batch_inference(self, request: BatchInferenceRequest) -> BatchPlan:
        """Take a snapshot of the input and claim the output, in a child process."""
        answer = await self._run("plan", request, store=self._store)
        return BatchPlan.model_validate(answer)

    @implements(COMMIT_BATCH_INFERENCE)
    async def commit_batch_inference(self, request: BatchCommit) -> BatchInferenceResult:
        """Name every shard in the one file that makes the batch finished, in a child process."""
        return BatchInferenceResult.model_validate(await self._run("commit", request))

    async def _run(
        self, entry: str, request: BatchInferenceRequest | BatchCommit, **more: str
    ) -> dict[str, Any]:
        job = Job(
            entry=f"durabert.activities.batch_jobs:{entry}",
            request={"request": request.model_dump(mode="json"), "home": str(self._home), **more},
        )
        return await run_child(job, self._slots)
