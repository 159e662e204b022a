"""The activity ``export_bert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio import activity

from durabert.activities.boundary import implements, run_child
from durabert.contract import EXPORT_BERT
from durabert.specs import ExportRequest, ExportResult
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class ExportActivities:
    """Exports of finished runs of this worker's home directory or of the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(EXPORT_BERT)
    async def export_bert(self, request: ExportRequest) -> ExportResult:
        """Export in a child process."""
        job = Job(
            entry="durabert.activities.export_jobs:export",
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
                "attempt": activity.info().attempt,
            },
        )
        return ExportResult.model_validate(await run_child(job, self._slots))
