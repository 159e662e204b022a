"""Batch inference: an input of any size as shards, a window of them in flight, each committed once."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from durabert.contract import (
        BATCH_INFERENCE_WORKFLOW,
        COMMIT_BATCH_INFERENCE,
        PLAN_BATCH_INFERENCE,
        RUN_BERT_INFERENCE,
    )
    from durabert.specs import (
        BatchCommit,
        BatchInferenceRequest,
        BatchInferenceResult,
        BatchPlan,
        BatchProgress,
        BatchState,
        InferenceRequest,
        RowRange,
        TextsSpec,
    )
    from durabert.workflows.failures import failing_alike
    from durabert.workflows.policies import call, history_is_long, require_not_cancelled
    from durabert.workflows.visibility import batch_details

if TYPE_CHECKING:
    from datetime import datetime


@workflow.defn(name=BATCH_INFERENCE_WORKFLOW)
class BertBatchInferenceWorkflow:
    """Plan, score shard by shard, commit; a history that grows long is continued in a new one."""

    @workflow.init
    def __init__(self, request: BatchInferenceRequest) -> None:
        self._request = request
        self._plan: BatchPlan | None = None
        self._next_row = self._rows_done = self._in_flight = 0
        self._began: datetime | None = None
        self._latest: datetime | None = None
        self._committing = False

    @workflow.run
    async def run(self, request: BatchInferenceRequest) -> BatchInferenceResult:
        """Return what was predicted, once every row is in a committed shard."""
        with failing_alike():
            return await self._predicted(request)

    @workflow.query
    def progress(self) -> BatchProgress:
        """Return rows and shards that are done, the speed, and the time to the end."""
        if self._plan is None or self._began is None:
            return BatchProgress(phase="planning")
        plan, rate = self._plan, self._rows_per_second()
        return BatchProgress(
            phase="committing" if self._committing else "predicting",
            rows=plan.rows,
            rows_done=self._rows_done,
            shards=plan.num_shards(),
            shards_done=plan.num_shards(self._rows_done),
            in_flight=self._in_flight,
            rows_per_second=rate,
            eta_seconds=(plan.rows - self._rows_done) / rate if rate else None,
        )

    @property
    def _known(self) -> BatchState:
        assert self._plan is not None
        assert self._began is not None
        return BatchState(plan=self._plan, next_row=self._next_row, started=self._began)

    async def _predicted(self, request: BatchInferenceRequest) -> BatchInferenceResult:
        self._show()
        if request.state is None:
            plan = await call(
                PLAN_BATCH_INFERENCE, request, activity_id="plan", summary=f"plan {request.input.path}"
            )
            require_not_cancelled()
            if plan.result is not None:
                return plan.result.model_copy(update={"reused": True})
            self._resume(BatchState(plan=plan, next_row=plan.first_row, started=workflow.now()))
        else:
            self._resume(request.state)
        await self._score()
        if self._next_row < self._known.plan.rows:
            workflow.continue_as_new(request.model_copy(update={"state": self._known}))
        return await self._commit()

    def _resume(self, state: BatchState) -> None:
        self._plan, self._began = state.plan, state.started
        self._next_row = self._rows_done = state.next_row
        self._show()

    async def _score(self) -> None:
        """Keep a window of shards in flight until none is left, or the history is long."""
        lanes = [asyncio.create_task(self._lane()) for _ in range(self._request.concurrency)]
        try:
            await asyncio.gather(*lanes)
        except BaseException:
            # One has failed, or all were cancelled: this ends when no process of any of them is left.
            for lane in lanes:
                lane.cancel()
            await workflow.wait(lanes)
            raise

    async def _lane(self) -> None:
        while (shard := self._take()) is not None:
            self._in_flight += 1
            last_row = shard.first_row + shard.num_rows - 1
            rows = f"rows-{shard.first_row}-{last_row}"
            await call(
                RUN_BERT_INFERENCE,
                self._scoring(shard),
                activity_id=rows,
                summary=f"{rows} with {self._request.run}",
            )
            self._in_flight -= 1
            require_not_cancelled()
            self._rows_done += shard.num_rows
            self._latest = workflow.now()
            self._show()

    def _take(self) -> RowRange | None:
        plan = self._known.plan
        if self._next_row >= plan.rows or history_is_long(window=self._request.concurrency):
            return None
        num_rows = min(plan.shard_rows, plan.rows - self._next_row)
        shard = RowRange(first_row=self._next_row, num_rows=num_rows, plan_sha256=plan.plan_sha256)
        self._next_row += num_rows
        return shard

    def _scoring(self, shard: RowRange) -> InferenceRequest:
        request = self._request
        return InferenceRequest(
            run=request.run,
            input=TextsSpec(path=self._known.plan.snapshot),
            output=request.output,
            precision=request.precision,
            device=request.device,
            shard=shard,
        )

    async def _commit(self) -> BatchInferenceResult:
        state = self._known
        self._committing = True
        self._show()
        commit = BatchCommit(output=self._request.output, plan_sha256=state.plan.plan_sha256)
        result = await call(
            COMMIT_BATCH_INFERENCE, commit, activity_id="commit", summary=f"commit {self._request.output}"
        )
        seconds = (workflow.now() - state.started).total_seconds()
        rows = state.plan.rows - state.plan.first_row
        return result.model_copy(
            update={"seconds": seconds, "rows_per_second": rows / seconds if seconds else 0.0}
        )

    def _rows_per_second(self) -> float | None:
        state = self._known
        if self._latest is None:
            return None
        seconds = (self._latest - state.started).total_seconds()
        return (self._rows_done - state.plan.first_row) / seconds if seconds else None

    def _show(self) -> None:
        workflow.set_current_details(batch_details(self._request.output, self.progress()))
