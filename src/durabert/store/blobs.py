"""Immutable content in the store, named by its digest and shared by all who need it."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from durabert.errors import ArtifactDamaged
from durabert.store.objects import ObjectMissing, ObjectStore

DIRECTORY: Final = "blobs/sha256"
COLLECTION_GRACE: Final = timedelta(days=1)
"""Garbage collection leaves what is younger alone, as its manifest may still be on its way."""


class Blobs:
    """The blobs of a store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def put(self, data: bytes | memoryview) -> str:
        """Write content unless it is there, and return its digest."""
        digest = hashlib.sha256(data).hexdigest()
        there = self._objects.info(blob_path(digest))
        # An old one may be collected as garbage before what is to name it is written: make it young again.
        is_young = there is not None and datetime.now(UTC) - there.modified <= COLLECTION_GRACE / 2
        if there is None or not is_young or there.size != len(data):
            self._objects.write(blob_path(digest), data)
        return digest

    def get(self, digest: str) -> bytes:
        """Return content, verified.

        Raises:
            ArtifactDamaged: it is missing, or another one.
        """
        try:
            data = self._objects.read(blob_path(digest))
        except ObjectMissing:
            raise self._missing(digest) from None
        self._require(digest, hashlib.sha256(data).hexdigest())
        return data

    def fetch(self, digest: str, target: Path) -> None:
        """Write content, verified, to a file; it need not fit into memory.

        Raises:
            ArtifactDamaged: it is missing, or another one; there is no file.
        """
        found = hashlib.sha256()
        try:
            with target.open("wb") as file:
                for piece in self._objects.pieces(blob_path(digest)):
                    found.update(piece)
                    file.write(piece)
            self._require(digest, found.hexdigest())
        except BaseException as error:
            target.unlink(missing_ok=True)
            if isinstance(error, ObjectMissing):
                raise self._missing(digest) from None
            raise

    def _require(self, digest: str, found: str) -> None:
        if found != digest:
            raise ArtifactDamaged(f"blob {digest} in the store {self._objects.url} has the digest {found}")

    def _missing(self, digest: str) -> ArtifactDamaged:
        return ArtifactDamaged(f"blob {digest} is missing in the store {self._objects.url}")


def blob_path(digest: str) -> str:
    """Return where the blob of a digest is in a store."""
    return f"{DIRECTORY}/{digest[:2]}/{digest}"
