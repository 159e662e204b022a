"""One store of objects behind one small interface: a directory, S3, GCS, Azure or memory."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import LocalStore, from_url

from durabert.errors import ArtifactDamaged, StoreInvalid, StoreUnavailable

STORE_VARIABLE: Final = "DURABERT_STORE"
PATH: Final = re.compile(r"[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*(/[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*)*")
"""What a path in the store may be: no segment begins with a dot."""


class ObjectMissing(Exception):
    """There is no object at that path."""


class ObjectExists(Exception):
    """There is an object at that path already."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object without its content."""

    path: str
    size: int
    """Bytes."""
    modified: datetime
    """UTC."""


class ObjectStore:
    """Objects by path; safe from any thread.

    Every method raises ``StoreUnavailable`` if the store does not answer or its disk is full, and
    ``ArtifactDamaged`` for a path that is not allowed.
    """

    def __init__(self, url: str, store: Any, *, root: Path | None = None) -> None:
        self.url = url
        self._store = store
        self._root = root

    def read(self, path: str) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissing: there is none.
        """
        with self._answers(path):
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                raise ObjectMissing(path) from None

    def write(self, path: str, data: bytes) -> None:
        """Write an object, in place of one that may be there."""
        with self._answers(path):
            obstore.put(self._store, path, data)
        self._flush(path)

    def create(self, path: str, data: bytes) -> None:
        """Write an object where there is none: of two who try, one succeeds.

        Raises:
            ObjectExists: there is one with other content.
        """
        with self._answers(path):
            try:
                obstore.put(self._store, path, data, mode="create")
            except AlreadyExistsError:
                raise ObjectExists(path) from None
        self._flush(path)

    def info(self, path: str) -> ObjectInfo | None:
        """Return size and age of an object, None if there is none."""
        with self._answers(path):
            try:
                found = obstore.head(self._store, path)
            except FileNotFoundError:
                return None
        return ObjectInfo(found["path"], found["size"], found["last_modified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a directory, in no order."""
        with self._answers(prefix):
            for batch in obstore.list(self._store, prefix):
                for found in batch:
                    yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        for path in paths:
            with self._answers(path):
                try:
                    obstore.delete(self._store, path)
                except FileNotFoundError:
                    continue

    def check(self) -> None:
        """Find out at the start whether the store can be read and written.

        Raises:
            StoreInvalid: it cannot; one sentence says why.
        """
        probe = f"probe/{secrets.token_hex(8)}"
        try:
            self.write(probe, b"durabert")
            self.delete([probe])
        except StoreUnavailable as error:
            raise StoreInvalid(f"the store {self.url} cannot be used: {error}") from None

    def _flush(self, path: str) -> None:
        if self._root is None:
            return
        descriptor = os.open(self._root / path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @contextmanager
    def _answers(self, path: str) -> Iterator[None]:
        if not PATH.fullmatch(path):
            raise ArtifactDamaged(f"{path!r:.120} is no path in a store")
        try:
            yield
        except (BaseError, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise StoreUnavailable(f"the store {self.url} does not answer: {reason}") from error


def open_store(url: str | None, *, home: Path) -> ObjectStore:
    """Open the store at a URL or a path; default ``DURABERT_STORE``, else ``<home>/store``.

    Raises:
        StoreInvalid: the URL is of no known kind.
    """
    url = url or os.environ.get(STORE_VARIABLE) or str(home / "store")
    if "://" not in url:
        root = Path(url).expanduser().absolute()
        return ObjectStore(str(root), LocalStore(root, mkdir=True, automatic_cleanup=False), root=root)
    try:
        return ObjectStore(url, from_url(url))
    except BaseError as error:
        raise StoreInvalid(f"the store {url!r} is no URL that can be opened: {error}") from None
