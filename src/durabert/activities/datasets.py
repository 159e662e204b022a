"""The activity ``create_dataset_snapshot``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durabert.activities.boundary import implements, run_child
from durabert.contract import CREATE_DATASET_SNAPSHOT
from durabert.specs import SnapshotRequest, SnapshotResult
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class DatasetActivities:
    """Snapshots of data sets that this worker can read, into the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(CREATE_DATASET_SNAPSHOT)
    async def create_dataset_snapshot(self, request: SnapshotRequest) -> SnapshotResult:
        """Take a snapshot in a child process; the same content is stored once."""
        job = Job(
            entry="durabert.activities.dataset_jobs:create_snapshot",
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
            },
        )
        return SnapshotResult.model_validate(await run_child(job, self._slots))
