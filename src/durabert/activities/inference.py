"""The activity ``run_bert_inference``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.contract import RUN_BERT_INFERENCE
from durabert.specs import InferenceRequest, InferenceResult
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class InferenceActivities:
    """Prediction with finished runs of this worker's home directory or of the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(RUN_BERT_INFERENCE)
    async def run_bert_inference(self, request: InferenceRequest) -> InferenceResult:
        """Predict in a child process."""
        job = Job(
            entry="durabert.activities.jobs:predict",
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
                "attempt": activity.info().attempt,
            },
        )
        all_devices = ":" in request.device
        return InferenceResult.model_validate(await run_child(job, self._slots, all_devices=all_devices))
