"""Snapshots in a store: their files as blobs, and one manifest each, created last, under the id."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from durabert.errors import ArtifactDamaged, SnapshotNotFound, StoreUnavailable
from durabert.store.blobs import Blobs, blob_path
from durabert.store.objects import ObjectExists, ObjectMissing, ObjectStore

MANIFEST: Final = "manifest.json"
SHORTEST_PREFIX: Final = 8
_ID: Final = re.compile(r"[0-9a-f]{64}")
_FILE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True)
class StoredFile:
    """A file of a snapshot."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class StoredSnapshot:
    """A snapshot, as its manifest in the store tells it."""

    id: str
    files: Mapping[str, StoredFile]
    """By name; ``manifest.json``, which says what they are, among them."""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())


class SnapshotStore:
    """The snapshots of a store, and those that were fetched to this machine.

    Args:
        objects: the store.
        cache: directory for fetched snapshots.
    """

    def __init__(self, objects: ObjectStore, cache: Path) -> None:
        self._objects = objects
        self._blobs = Blobs(objects)
        self._cache = cache / "snapshots"

    def commit(self, id: str, directory: Path) -> bool:  # noqa: A002 - what it is
        """Store the files of a directory as a snapshot; return whether it is new.

        The same content is stored once, whoever comes first. Files that are lost or cut short in the store
        are put back if the directory has them.
        """
        if self._objects.info(_path(id)) is not None:
            self._restore(id, directory)
            return False
        files = {}
        for path in sorted(directory.iterdir()):
            data = path.read_bytes()
            files[path.name] = {"sha256": self._blobs.put(data), "size": len(data)}
        manifest = {"format": 1, "id": id, "files": files}
        try:
            self._objects.create(_path(id), json.dumps(manifest, sort_keys=True, indent=1).encode())
        except ObjectExists:
            return False
        return True

    def _restore(self, id: str, directory: Path) -> None:  # noqa: A002
        try:
            stored = self.stored(id)
        except ArtifactDamaged:
            return  # whoever reads it says so
        for name, file in stored.files.items():
            path, there = directory / name, self._objects.info(blob_path(file.sha256))
            if (there is None or there.size != file.size) and path.is_file():
                data = path.read_bytes()
                if hashlib.sha256(data).hexdigest() == file.sha256:
                    self._objects.write(blob_path(file.sha256), data)

    def ids(self) -> list[str]:
        """Return the ids of all snapshots."""
        names = (info.path.split("/") for info in self._objects.list("snapshots"))
        return sorted(parts[1] for parts in names if parts[2:] == [MANIFEST] and _ID.fullmatch(parts[1]))

    def resolve(self, prefix: str) -> str:
        """Return the id that begins with at least eight given digits.

        Raises:
            SnapshotNotFound: none does, or more than one.
        """
        if _ID.fullmatch(prefix):
            self.stored(prefix)
            return prefix
        found = (
            [one for one in self.ids() if one.startswith(prefix)] if len(prefix) >= SHORTEST_PREFIX else []
        )
        if len(found) != 1:
            raise SnapshotNotFound(prefix)
        return found[0]

    def stored(self, id: str) -> StoredSnapshot:  # noqa: A002
        """Return the manifest of a snapshot.

        Raises:
            SnapshotNotFound: there is none of that id.
            ArtifactDamaged: the manifest cannot be believed.
        """
        if not _ID.fullmatch(id):
            raise SnapshotNotFound(id)
        try:
            data = self._objects.read(_path(id))
        except ObjectMissing:
            raise SnapshotNotFound(id) from None
        try:
            return _parsed(id, data)
        except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
            raise ArtifactDamaged(f"the manifest of snapshot {id[:12]} is damaged: {error!s:.120}") from None

    def fetch(self, id: str) -> Path:  # noqa: A002
        """Return a local directory with the files of a snapshot, verified when they were fetched.

        Raises:
            SnapshotNotFound: there is none of that id.
            ArtifactDamaged: a file is missing or not what was stored.
        """
        target = self._cache / id
        stored = self.stored(id)
        if _is_whole(target, stored):
            return target
        partial = self._cache / f".{id}.{secrets.token_hex(6)}"
        try:
            partial.mkdir(parents=True)
            for name in stored.files:
                (partial / name).write_bytes(self.read(stored, name))
            _take_place(partial, target, stored)
        except OSError as error:
            raise StoreUnavailable(f"{self._cache} cannot be written: {error.strerror}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return target

    def verify(self, id: str) -> StoredSnapshot:  # noqa: A002
        """Check every file of a snapshot in the store.

        Raises:
            SnapshotNotFound: there is none of that id.
            ArtifactDamaged: a file is missing or not what was stored.
        """
        stored = self.stored(id)
        for name in stored.files:
            self.read(stored, name)
        return stored

    def read(self, stored: StoredSnapshot, name: str) -> bytes:
        """Return a file of a snapshot.

        Raises:
            ArtifactDamaged: it is missing or not what was stored.
        """
        try:
            data = self._blobs.get(stored.files[name].sha256)
        except ArtifactDamaged as error:
            raise ArtifactDamaged(f"snapshot {stored.id[:12]}, {name}: {error}") from None
        if len(data) != stored.files[name].size:
            expected = stored.files[name].size
            raise ArtifactDamaged(
                f"snapshot {stored.id[:12]}, {name}: it has {len(data)} bytes, but {expected} were expected"
            )
        return data


def _path(id: str) -> str:  # noqa: A002
    return f"snapshots/{id}/{MANIFEST}"


def _parsed(id: str, data: bytes) -> StoredSnapshot:  # noqa: A002
    fields: dict[str, Any] = json.loads(data)
    if fields["format"] != 1:
        raise ValueError(f"its format is {fields['format']!r}, but 1 was expected")
    if fields["id"] != id:
        raise ValueError("it is that of another snapshot")
    files = {}
    for name, file in fields["files"].items():
        # A name from a store becomes a path on this machine.
        if not _FILE.fullmatch(name):
            raise ValueError(f"{name!r:.80} is no name of a file")
        if not isinstance(file["sha256"], str) or not _ID.fullmatch(file["sha256"]):
            raise ValueError(f"{name} has no digest")
        files[name] = StoredFile(file["sha256"], int(file["size"]))
    if MANIFEST not in files:
        raise ValueError(f"it lacks {MANIFEST}")
    return StoredSnapshot(id, files)


def _is_whole(directory: Path, stored: StoredSnapshot) -> bool:
    for name, file in stored.files.items():
        path = directory / name
        if not path.is_file() or path.stat().st_size != file.size:
            return False
        with path.open("rb") as opened:
            if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
                return False
    return True


def _take_place(partial: Path, target: Path, stored: StoredSnapshot) -> None:
    try:
        partial.rename(target)
    except OSError:
        if _is_whole(target, stored):  # somebody else has just fetched it, and may be reading it
            return
        old = target.with_name(f".{target.name}.{secrets.token_hex(6)}.old")
        target.rename(old)
        try:
            partial.rename(target)
        finally:
            shutil.rmtree(old, ignore_errors=True)
