"""What takes snapshots inside the child process: data and store put together. No Temporal here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.jobs import ChildJob, progress_to, stoppable
from durabert.bert.progress import Reporter
from durabert.bert.records import RecordSource
from durabert.bert.snapshots import Snapshot, build_snapshot, open_snapshot, read_snapshot
from durabert.errors import DataInvalid
from durabert.specs import DataSpec, SnapshotRequest, SnapshotResult
from durabert.specs.data import SNAPSHOT_PREFIX
from durabert.store.objects import ObjectStore
from durabert.store.runs import RunStore
from durabert.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class SnapshotJob(ChildJob):
    """Everything the child needs to take a snapshot."""

    request: SnapshotRequest
    """What the workflow asked for."""


@stoppable()
def create_snapshot(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Take a snapshot, or find the one that the request names."""
    job = SnapshotJob.model_validate(payload)
    result = take_snapshot(job.request.data, job.objects(), job.home, progress_to(channel))
    return result.model_dump(mode="json")


def take_snapshot(
    spec: DataSpec, objects: ObjectStore, home: Path, progress: Reporter, *, labelled: bool = True
) -> SnapshotResult:
    """Store the snapshot of a data set.

    A source that is a snapshot is that one, or a new one if files are named in the place of its splits.

    Args:
        spec: where the rows are.
        objects: the store.
        home: the worker's home directory.
        progress: told of the rows.
        labelled: it is to be trained on, so that it must have texts and labels.

    Raises:
        UserError: the data is not there or cannot be read, or there is no such snapshot.
    """
    progress.phase("taking a snapshot")
    snapshots = SnapshotStore(objects, home / "cache")
    base = None
    if spec.source.startswith(SNAPSHOT_PREFIX):
        base = snapshots.fetch(snapshots.resolve(spec.source.removeprefix(SNAPSHOT_PREFIX)))
        if spec.validation is None and spec.test is None:
            return _result(read_snapshot(base), created=False)
    with RunStore(home).staging("snapshot") as directory:
        snapshot = build_snapshot(
            spec,
            directory,
            base=base,
            labelled=labelled,
            on_progress=lambda rows: progress.tick(step=rows),
        )
        progress.tick()
        return _result(snapshot, created=snapshots.commit(snapshot.id, directory))


def snapshot_directory(
    spec: DataSpec, snapshot: str | None, objects: ObjectStore, home: Path, progress: Reporter
) -> Path | None:
    """Return the directory of the snapshot that a training reads, None if it reads the source itself.

    Args:
        spec: its source may be ``snapshot:ID``.
        snapshot: id of the snapshot that was taken before; none: there was none.
        objects: the store.
        home: the worker's home directory.
        progress: told of a snapshot that is taken, for files that ``spec`` names beside ``snapshot:ID``.

    Raises:
        SnapshotNotFound: there is no such snapshot.
        ArtifactDamaged: a file of it is missing or not what was stored.
    """
    if snapshot is None and spec.source.startswith(SNAPSHOT_PREFIX):
        snapshot = take_snapshot(spec, objects, home, progress).snapshot
    return None if snapshot is None else SnapshotStore(objects, home / "cache").fetch(snapshot)


def snapshot_split(path: str, objects: ObjectStore, home: Path) -> RecordSource | None:
    """Return the rows that ``snapshot:ID/SPLIT`` names, None for the path of a file.

    Raises:
        SnapshotNotFound: there is no such snapshot.
        DataInvalid: it has no such split.
        ArtifactDamaged: a file of it is missing or not what was stored.
    """
    if not path.startswith(SNAPSHOT_PREFIX):
        return None
    prefix, split = split_name(path)
    snapshots = SnapshotStore(objects, home / "cache")
    splits = open_snapshot(snapshots.fetch(snapshots.resolve(prefix))).splits()
    require_split(path, split, splits)
    return splits[split]


def split_name(path: str) -> tuple[str, str]:
    """Return the id, or its first digits, and the split of ``snapshot:ID/SPLIT``."""
    prefix, _, split = path.removeprefix(SNAPSHOT_PREFIX).partition("/")
    return prefix, split


def require_split(path: str, split: str, splits: Iterable[str]) -> None:
    """Refuse the name of a split that is none of ``splits``.

    Raises:
        DataInvalid: it is none.
    """
    splits = sorted(splits)
    if split not in splits:
        names = ", ".join(map(repr, splits))
        raise DataInvalid(
            f"{path!r} names no split of the snapshot; expected snapshot:ID/SPLIT, one of {names}"
        )


def _result(snapshot: Snapshot, *, created: bool) -> SnapshotResult:
    return SnapshotResult(
        snapshot=snapshot.id,
        name=snapshot.name,
        rows=snapshot.rows,
        columns=list(snapshot.columns),
        created=created,
        notices=list(snapshot.notices),
    )
