"""Activities of a batch that answer like the real ones; the name of the run says how."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from durabert.contract import COMMIT_BATCH_INFERENCE, PLAN_BATCH_INFERENCE
from durabert.specs import (
    BatchCommit,
    BatchInferenceRequest,
    BatchInferenceResult,
    BatchPlan,
    InferenceRequest,
    InferenceResult,
    Progress,
)


async def finished_as_it_is_cancelled() -> None:
    """Go on until the activity is cancelled, and be done at that very moment."""
    with contextlib.suppress(asyncio.CancelledError):
        while True:
            activity.heartbeat(Progress(phase="starting"))
            await asyncio.sleep(0.05)


@dataclass
class FakeBatches:
    """The path of the input says how many rows it has: ``1000.csv``."""

    scored: list[int] = field(default_factory=list)
    """First rows of the shards that have ended, in that order."""
    begun: list[int] = field(default_factory=list)
    """First rows of the shards that have begun."""
    running: int = 0
    most_running: int = 0
    left: int = 0
    """Shards whose activity was cancelled and has ended."""
    plans: int = 0
    commits: int = 0
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    """What the first shard of a run called ``straggler`` waits for."""

    @activity.defn(name=PLAN_BATCH_INFERENCE.name)
    async def plan_batch_inference(self, request: BatchInferenceRequest) -> BatchPlan:
        self.plans += 1
        if request.run == "nobody":
            raise ApplicationError("there is no run 'nobody'", type="RunNotFound", non_retryable=True)
        if request.run == "finishing-plan":
            await finished_as_it_is_cancelled()
        rows = int(request.input.path.removesuffix(".csv"))
        finished = self._result("out", rows) if request.run == "finished" else None
        return BatchPlan(
            plan_sha256="1" * 64, snapshot="snapshot:22222222/train", model_sha256="3" * 64, rows=rows,
            shard_rows=request.shard_rows, first_row=30 if request.run == "begun" else 0, result=finished,
        )  # fmt: skip

    async def score(self, request: InferenceRequest) -> InferenceResult:
        assert request.shard is not None
        first = request.shard.first_row
        self.begun.append(first)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._behave(request.run, first)
        except asyncio.CancelledError:
            # As a real process: it is not gone at the moment that it is told to go.
            await asyncio.sleep(0.2)
            self.left += 1
            raise
        finally:
            self.running -= 1
        self.scored.append(first)
        return InferenceResult(
            run=request.run, model_sha256="3" * 64, rows=request.shard.num_rows, seconds=0.1,
            texts_per_second=10.0, peak_memory_mib=1.0, device="cpu", precision="fp32",
        )  # fmt: skip

    async def _behave(self, run: str, first: int) -> None:
        activity.heartbeat(Progress(phase="predicting", step=3, steps=10))
        if run == "broken" and first == 20:
            raise ApplicationError("it is damaged", type="ArtifactDamaged", non_retryable=True)
        if run == "flaky" and activity.info().attempt == 1:
            raise ApplicationError("killed", type="ProcessKilled")
        if run == "straggler" and first == 0:
            await self.may_end.wait()
        if run == "finishing" and first == 0:
            await finished_as_it_is_cancelled()
        while run == "endless" or (run == "broken" and first != 20):
            activity.heartbeat(Progress(phase="predicting", step=3, steps=10))
            await asyncio.sleep(0.05)

    @activity.defn(name=COMMIT_BATCH_INFERENCE.name)
    async def commit_batch_inference(self, request: BatchCommit) -> BatchInferenceResult:
        self.commits += 1
        return self._result(request.output, len(self.scored))

    def _result(self, output: str, rows: int) -> BatchInferenceResult:
        return BatchInferenceResult(
            run="films", model_sha256="3" * 64, snapshot="snapshot:22222222/train", output=output,
            result_sha256="4" * 64, rows=rows, predicted=rows, errors=0, shards=rows,
        )  # fmt: skip
