"""What nothing in a store leads to any more, and what is not what its name says."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from durabert.errors import ArtifactDamaged, NameInvalid, StoreInvalid, StoreUnavailable
from durabert.specs import checked_run
from durabert.specs.durability import CURVE_FILE
from durabert.store import blobs
from durabert.store.checkpoints import Checkpoint, FileRef, RunCheckpoints
from durabert.store.evaluations import DIRECTORY, EvaluationStore, StoredEvaluation, manifest_path
from durabert.store.journal import Record
from durabert.store.local import unfinished_files
from durabert.store.objects import PROBES, ObjectInfo, ObjectMissing, ObjectStore
from durabert.store.results import ResultStore
from durabert.store.runs import RESULT_FILE
from durabert.store.snapshots import MANIFEST, SnapshotStore

NUM_READERS: Final = 4
"""Objects read at once, each in pieces."""
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_EVALUATION: Final = re.compile(rf"runs/[^/]+/{DIRECTORY}/([0-9a-f]{{64}})\.json")

Report = Callable[[int, int], None]
"""Is told bytes done and bytes in all."""


@dataclass
class Garbage:
    """What may be deleted, and why other things may not."""

    objects: list[ObjectInfo] = field(default_factory=list)
    unfinished: list[tuple[Path, int]] = field(default_factory=list)
    """Files that killed writers have left in a directory, with bytes."""
    problems: list[str] = field(default_factory=list)
    """Damage for whose sake something is kept, a sentence each."""
    older_than: timedelta = blobs.COLLECTION_GRACE

    @property
    def size(self) -> int:
        """Bytes of all of it."""
        return sum(info.size for info in self.objects) + sum(size for _, size in self.unfinished)


@dataclass(frozen=True)
class Finding:
    """An object, or a part of one, that is damaged or missing."""

    path: str
    problem: str


@dataclass
class Contents:
    """The objects of a store, by what they are."""

    blobs: list[ObjectInfo]
    snapshots: list[str]
    """Ids."""
    runs: dict[str, list[ObjectInfo]]
    """Objects by the name of the run."""
    probes: list[ObjectInfo]

    @classmethod
    def of(cls, objects: ObjectStore) -> Contents:
        """List a store."""
        runs = defaultdict(list)
        # Blobs before what names them: one that is listed and named later is too young to be garbage.
        found = list(objects.list("blobs"))
        for info in objects.list("runs"):
            parts = info.path.split("/")
            # Whatever else lies there was put there by somebody else.
            if len(parts) > 2:
                runs[parts[1]].append(info)
        manifests = (info.path.split("/") for info in objects.list("snapshots"))
        ids = [parts[1] for parts in manifests if len(parts) == 3 and parts[2] == MANIFEST]
        return cls(found, sorted(ids), dict(sorted(runs.items())), list(objects.list(PROBES)))

    def files_of(self, run: str) -> list[ObjectInfo]:
        """Return the files of the checkpoints of a run."""
        directory = f"runs/{run}/files/"
        return [info for info in self.runs[run] if info.path.startswith(directory)]

    def evaluations_of(self, run: str) -> list[str]:
        """Return the ids of the evaluations of a run."""
        return [found[1] for info in self.runs[run] if (found := _EVALUATION.fullmatch(info.path))]


def find_garbage(
    objects: ObjectStore, *, older_than: timedelta = blobs.COLLECTION_GRACE, now: datetime | None = None
) -> Garbage:
    """Find what no snapshot, result or kept checkpoint leads to, and what is old enough.

    Nothing is found of a run that is running, or whose journal is damaged; and no blob while a manifest or a
    result is damaged, since what it named is not known.

    Raises:
        StoreInvalid: less than the usual age is asked for while a run is running.
        StoreUnavailable: the store does not answer.
    """
    before = (now or datetime.now(UTC)) - older_than
    contents = Contents.of(objects)
    found = Garbage(older_than=older_than)
    needed, damage = _needed_blobs(objects, contents)
    found.problems += [f"{problem}; no blob is deleted" for problem in damage]
    if not damage:
        found.objects += [
            info
            for info in contents.blobs
            if (digest := _digest_in(info)) not in needed and info.path == blobs.blob_path(digest)
        ]
    for run in contents.runs:
        try:
            found.objects += _files_without_checkpoint(objects, contents, run, older_than=older_than)
        except (ArtifactDamaged, NameInvalid) as error:
            found.problems.append(f"{error}; nothing of run {run!r} is deleted")
    found.objects = [info for info in [*found.objects, *contents.probes] if info.modified < before]
    if objects.root is not None:
        found.unfinished = [
            (path, size) for path, size, modified in unfinished_files(objects.root) if modified < before
        ]
    return found


def delete(objects: ObjectStore, garbage: Garbage, *, report: Report | None = None) -> None:
    """Delete what was found, unless somebody has written it anew meanwhile."""
    before = datetime.now(UTC) - garbage.older_than
    total, done = garbage.size, 0
    for info in garbage.objects:
        there = objects.info(info.path)
        if there is not None and there.modified < before:
            objects.delete([info.path])
        done += info.size
        if report:
            report(done, total)
    for path, _ in garbage.unfinished:
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be deleted: {error.strerror}") from error


def verify(objects: ObjectStore, *, report: Report | None = None) -> Iterator[Finding]:
    """Read everything, and yield what is not what it should be."""
    contents = Contents.of(objects)
    named = [*contents.blobs, *(info for run in contents.runs for info in contents.files_of(run))]
    yield from _wrong_digests(objects, named, report)
    there = {_digest_in(info) for info in contents.blobs}
    for id_ in contents.snapshots:
        yield from _missing_of_snapshot(objects, id_, there)
    for run in contents.runs:
        yield from _problems_of_run(objects, contents, run, there)


def _needed_blobs(objects: ObjectStore, contents: Contents) -> tuple[set[str], list[str]]:
    needed: set[str] = set()
    damage = []
    for id_ in contents.snapshots:
        try:
            needed.update(_snapshot_files(objects, id_).values())
        except ArtifactDamaged as error:
            damage.append(str(error))
    for run in contents.runs:
        try:
            needed.update(_result_files(objects, run).values())
            for stored in _evaluations_of(objects, contents, run):
                needed.update(stored.files.values())
        except (ArtifactDamaged, NameInvalid) as error:
            damage.append(str(error))
    return needed, damage


def _evaluations_of(objects: ObjectStore, contents: Contents, run: str) -> Iterator[StoredEvaluation]:
    store = EvaluationStore(objects)
    for evaluation in contents.evaluations_of(run):
        stored = store.stored(run, evaluation)
        if stored is not None:
            yield stored


def _snapshot_files(objects: ObjectStore, id_: str) -> dict[str, str]:
    if not _DIGEST.fullmatch(id_):
        raise ArtifactDamaged(f"snapshots/{id_} has no id for a name")
    # Only the manifest is read; nothing is fetched to the cache.
    stored = SnapshotStore(objects, Path()).stored(id_)
    return {name: file.sha256 for name, file in stored.files.items()}


def _result_files(objects: ObjectStore, run: str) -> dict[str, str]:
    stored = ResultStore(objects).result(run)
    return dict(stored.files) if stored else {}


def _files_without_checkpoint(
    objects: ObjectStore, contents: Contents, run: str, *, older_than: timedelta
) -> list[ObjectInfo]:
    checkpoints = RunCheckpoints(objects, checked_run(run))
    record = checkpoints.journal.read()
    files = contents.files_of(run)
    if record.damages:
        damage = record.damages[0]
        raise ArtifactDamaged(f"entry {damage.number} of the journal of run {run!r} {damage.reason}")
    if files and not record.entries:
        raise ArtifactDamaged(f"run {run!r} has files, but no journal")
    if _is_running(record, contents.runs[run]):
        if older_than < blobs.COLLECTION_GRACE:
            hours = blobs.COLLECTION_GRACE / timedelta(hours=1)
            raise StoreInvalid(
                f"run {run!r} has not ended: what is younger than {hours:g} hours may be a part of what is "
                "being written and is not deleted"
            )
        return []
    needed = {ref.sha256 for ref in _needed_files(checkpoints, record)}
    return [info for info in files if _digest_in(info) not in needed]


def _is_running(record: Record, there: Iterable[ObjectInfo]) -> bool:
    if not record.entries or record.entries[-1].kind == "ended":
        return False
    # Between the entry and the object, the files of the model are there and nothing names them.
    has_result = any(info.path.endswith(f"/{RESULT_FILE}") for info in there)
    return record.entries[-1].kind != "result" or not has_result


def _needed_files(checkpoints: RunCheckpoints, record: Record) -> Iterator[FileRef]:
    try:
        kept = checkpoints.kept(record)
    except (KeyError, TypeError) as error:
        raise ArtifactDamaged(f"the journal of run {checkpoints.run!r} lacks {error}") from None
    for checkpoint in kept:
        yield from checkpoint.files
    for entry in record.of_kind("checkpoint"):
        yield from (ref for ref in Checkpoint.of(entry).files if ref.name == CURVE_FILE)


def _wrong_digests(
    objects: ObjectStore, named: Iterable[ObjectInfo], report: Report | None
) -> Iterator[Finding]:
    infos = list(named)
    total, done = sum(info.size for info in infos), 0

    def digest(info: ObjectInfo) -> str | None:
        content = hashlib.sha256()
        try:
            for piece in objects.pieces(info.path):
                content.update(piece)
            return content.hexdigest()
        except ObjectMissing:
            # Retention has deleted it meanwhile; whoever needs it will be told that it is missing.
            return None

    with ThreadPoolExecutor(NUM_READERS) as readers:
        for info, found in zip(infos, readers.map(digest, infos), strict=True):
            done += info.size
            if report:
                report(done, total)
            if found not in {None, _digest_in(info)}:
                yield Finding(info.path, f"has the digest {found}")


def _missing_of_snapshot(objects: ObjectStore, id_: str, there: set[str]) -> Iterator[Finding]:
    path = f"snapshots/{id_}/{MANIFEST}"
    try:
        files = _snapshot_files(objects, id_)
    except ArtifactDamaged as error:
        yield Finding(path, str(error))
        return
    for name, digest in files.items():
        if not _is_there(objects, digest, there):
            yield Finding(path, f"names {name}, whose blob {digest} is missing")


def _problems_of_run(
    objects: ObjectStore, contents: Contents, run: str, there: set[str]
) -> Iterator[Finding]:
    path = f"runs/{run}"
    yield from _problems_of_evaluations(objects, contents, run, there)
    try:
        for name, digest in _result_files(objects, run).items():
            if not _is_there(objects, digest, there):
                yield Finding(f"{path}/result.json", f"names {name}, whose blob {digest} is missing")
        checkpoints = RunCheckpoints(objects, checked_run(run))
        record = checkpoints.journal.read()
        for damage in record.damages:
            yield Finding(f"{checkpoints.journal.directory}/{damage.number:08}.json", damage.reason)
        files = {_digest_in(info) for info in contents.files_of(run)}
        for ref in dict.fromkeys(_needed_files(checkpoints, record)):
            # One that was written after the list was made is looked for by itself.
            if ref.sha256 not in files and objects.info(f"{path}/files/{ref.sha256}") is None:
                yield Finding(f"{path}/files/{ref.sha256}", f"a checkpoint names it as {ref.name}; missing")
    except (ArtifactDamaged, NameInvalid) as error:
        yield Finding(path, str(error))


def _problems_of_evaluations(
    objects: ObjectStore, contents: Contents, run: str, there: set[str]
) -> Iterator[Finding]:
    store = EvaluationStore(objects)
    for evaluation in contents.evaluations_of(run):
        try:
            stored = store.stored(run, evaluation)
        except (ArtifactDamaged, NameInvalid) as error:
            yield Finding(f"runs/{run}/{DIRECTORY}/{evaluation}.json", str(error))
            continue
        for name, digest in stored.files.items() if stored else ():
            if not _is_there(objects, digest, there):
                path = manifest_path(run, evaluation)
                yield Finding(path, f"names {name}, whose blob {digest} is missing")


def _is_there(objects: ObjectStore, digest: str, listed: set[str]) -> bool:
    if digest in listed:
        return True
    # It may have been written after the list was made.
    return bool(_DIGEST.fullmatch(digest)) and objects.info(blobs.blob_path(digest)) is not None


def _digest_in(info: ObjectInfo) -> str:
    return info.path.rpartition("/")[2]
