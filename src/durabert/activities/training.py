"""The activity ``fine_tune_bert``."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.activities.devices import Places
from durabert.activities.reporting import RunReporter
from durabert.contract import FINE_TUNE_BERT
from durabert.errors import OutOfMemory
from durabert.specs import FineTuneRequest, FineTuneResult
from durabert.store.runs import RunStore
from durabert.supervisor import Job

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


ALONE: Final = "durabert.activities.training_jobs:train"
TOGETHER: Final = "durabert.activities.rank_jobs:train"
"""What the child runs, in one process or in several."""


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
                    processes = Places.of(request.config, self._slots.gpus).processes
                    pieces = max(request.config.gradient_accumulation, processes) * 2**halvings
                    if request.checkpoints is None or pieces >= request.config.batch_size:
                        raise
                    halvings += 1

    async def _attempt(
        self, request: FineTuneRequest, halvings: int, reporter: RunReporter
    ) -> FineTuneResult:
        places = Places.of(request.config, self._slots.gpus)
        with RunStore(self._home).staging(request.run) as staging, _meeting(places) as meeting:
            job = Job(
                entry=ALONE if places.processes == 1 else TOGETHER,
                request={
                    "request": request.model_dump(mode="json"),
                    "home": str(self._home),
                    "store": self._store,
                    "staging": str(staging),
                    "execution": _execution(),
                    "attempt": activity.info().attempt,
                    "halvings": halvings,
                    "num_processes": places.processes,
                    "meeting": meeting,
                },
            )
            result = await run_child(
                job,
                self._slots,
                num_devices=places.devices,
                # Who names a GPU by number counts all that the worker has.
                all_devices=":" in request.config.device,
                resumable=request.checkpoints is not None,
                on_progress=reporter.progressed,
            )
            return FineTuneResult.model_validate(result)


@contextmanager
def _meeting(places: Places) -> Iterator[str | None]:
    """Give the processes of a run a directory by which they find each other; one process needs none."""
    if places.processes == 1:
        yield None
        return
    # Not below the home: the path of a socket is short. Removed here, however the processes end.
    with tempfile.TemporaryDirectory(prefix="durabert-", ignore_cleanup_errors=True) as directory:
        yield directory


def _execution() -> str:
    info = activity.info()
    return f"{info.workflow_namespace}/{info.workflow_id}/{info.workflow_run_id}"
