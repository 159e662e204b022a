"""The activity ``fine_tune_bert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.activities.reporting import RunReporter
from durabert.contract import FINE_TUNE_BERT
from durabert.errors import OutOfMemory
from durabert.specs import FineTuneRequest, FineTuneResult
from durabert.store.runs import RunStore
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class TrainingActivities:
    """Training on this worker's devices, into its home directory and the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(FINE_TUNE_BERT)
    async def fine_tune_bert(self, request: FineTuneRequest) -> FineTuneResult:
        """Train one run in a child process and publish it."""
        halvings = 0
        async with RunReporter.of(request) as reporter:
            while True:
                try:
                    return await self._attempt(request, halvings, reporter)
                except OutOfMemory:
                    # The process is dead, and this worker is not: go on here, in smaller pieces.
                    pieces = request.config.gradient_accumulation * 2**halvings
                    if request.checkpoints is None or pieces >= request.config.batch_size:
                        raise
                    halvings += 1

    async def _attempt(
        self, request: FineTuneRequest, halvings: int, reporter: RunReporter
    ) -> FineTuneResult:
        with RunStore(self._home).staging(request.run) as staging:
            job = Job(
                entry="durabert.activities.training_jobs:train",
                request={
                    "request": request.model_dump(mode="json"),
                    "home": str(self._home),
                    "store": self._store,
                    "staging": str(staging),
                    "execution": _execution(),
                    "attempt": activity.info().attempt,
                    "halvings": halvings,
                },
            )
            result = await run_child(
                job,
                self._slots,
                # Who names a GPU by number counts all that the worker has.
                all_devices=":" in request.config.device,
                resumable=request.checkpoints is not None,
                on_progress=reporter.progressed,
            )
            return FineTuneResult.model_validate(result)


def _execution() -> str:
    info = activity.info()
    return f"{info.workflow_namespace}/{info.workflow_id}/{info.workflow_run_id}"
