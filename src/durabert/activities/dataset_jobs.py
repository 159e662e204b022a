"""What takes snapshots inside the child process: data and store put together. No Temporal here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.jobs import reporter, stoppable
from durabert.bert.progress import Reporter
from durabert.bert.snapshots import Snapshot, build_snapshot, read_snapshot
from durabert.specs import DataSpec, SnapshotRequest, SnapshotResult, Wire
from durabert.specs.data import SNAPSHOT_PREFIX
from durabert.store.objects import ObjectStore, open_store
from durabert.store.runs import RunStore
from durabert.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class SnapshotJob(Wire):
    """Everything the child needs to take a snapshot."""

    request: SnapshotRequest
    """What the workflow asked for."""
    home: Path
    """The worker's home directory."""
    store: str
    """URL or path of the artifact store."""


@stoppable()
def create_snapshot(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Take a snapshot, or find the one that the request names."""
    job = SnapshotJob.model_validate(payload)
    progress = Reporter(reporter(channel), channel.stop_requested)
    objects = open_store(job.store, home=job.home)
    result = take_snapshot(job.request.data, objects, job.home, progress)
    return result.model_dump(mode="json")


def take_snapshot(spec: DataSpec, objects: ObjectStore, home: Path, progress: Reporter) -> SnapshotResult:
    """Store the snapshot of a data set.

    Raises:
        UserError: the data is not there or cannot be read, or there is no such snapshot.
    """
    progress.phase("taking a snapshot")
    snapshots = SnapshotStore(objects, home / "cache")
    if spec.source.startswith(SNAPSHOT_PREFIX):
        found = snapshots.resolve(spec.source.removeprefix(SNAPSHOT_PREFIX))
        return _result(read_snapshot(snapshots.fetch(found)), created=False)
    with RunStore(home).staging("snapshot") as directory:
        snapshot = build_snapshot(spec, directory, on_progress=lambda rows: progress.tick(step=rows))
        progress.tick()
        return _result(snapshot, created=snapshots.commit(snapshot.id, directory))


def _result(snapshot: Snapshot, *, created: bool) -> SnapshotResult:
    return SnapshotResult(
        snapshot=snapshot.id,
        name=snapshot.name,
        rows=snapshot.rows,
        columns=list(snapshot.columns),
        created=created,
        notices=list(snapshot.notices),
    )
