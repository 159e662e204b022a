"""The activity ``fine_tune_bert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.contract import FINE_TUNE_BERT
from durabert.specs import FineTuneRequest, FineTuneResult
from durabert.store import RunStore
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class TrainingActivities:
    """Training on this worker's devices, into its home directory."""

    def __init__(self, home: Path, slots: DeviceSlots) -> None:
        self._home = home
        self._slots = slots

    @implements(FINE_TUNE_BERT)
    async def fine_tune_bert(self, request: FineTuneRequest) -> FineTuneResult:
        """Train one run in a child process and publish it."""
        with RunStore(self._home).staging(request.run) as staging:
            job = Job(
                entry="durabert.activities.jobs:train",
                request={
                    "request": request.model_dump(mode="json"),
                    "home": str(self._home),
                    "staging": str(staging),
                    "attempt": activity.info().attempt,
                },
            )
            # Who names a GPU by number counts all that the worker has.
            all_devices = ":" in request.config.device
            return FineTuneResult.model_validate(await run_child(job, self._slots, all_devices=all_devices))
