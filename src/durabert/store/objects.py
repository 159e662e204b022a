"""One store of objects behind one small interface: a directory, S3, GCS, Azure or memory."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from durabert.errors import ArtifactDamaged, DependencyMissing, StoreInvalid, StoreUnavailable
from durabert.faults import reach
from durabert.store.location import store_url

PATH: Final = re.compile(r"[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*(/[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*)*", re.ASCII)
"""What a path in the store may be: no segment begins with a dot."""
SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory", "file")
CONNECT_LIMIT: Final = timedelta(seconds=5)
READ_LIMIT: Final = timedelta(seconds=10)
"""Without a byte; a long transfer that goes on is not cut."""
RETRY_LIMIT: Final = timedelta(seconds=10)
"""How long one request is tried again; whoever asks has a retry of its own."""
_DISK_FULL: Final = ("os error 28", "os error 122", "No space left")
_PROBES: Final = "probe"


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

    Args:
        url: how messages call it; without credentials.
        store: of obstore.
        root: the directory, if it is one.
        conditional: whether it is known to create an object only where there is none; None finds out at the
            first creation.
    """

    def __init__(
        self, url: str, store: Any, *, root: Path | None = None, conditional: bool | None = None
    ) -> None:
        self.url = url
        self._store = store
        self._root = root
        self._conditional = conditional

    def read(self, path: str) -> bytes:
        """Return the content of an object.

        Raises:
            ObjectMissing: there is none.
        """
        import obstore

        with self._answers(path):
            reach("store.read")
            try:
                return bytes(obstore.get(self._store, path).bytes())
            except FileNotFoundError:
                raise ObjectMissing(path) from None

    def write(self, path: str, data: bytes) -> None:
        """Write an object, in place of one that may be there."""
        self._put(path, data, mode="overwrite")

    def create(self, path: str, data: bytes) -> None:
        """Write an object where there is none: of two who try, one succeeds.

        On a server that knows no conditional writes, two who try within the same milliseconds may both
        succeed, of which the last one stays.

        Raises:
            ObjectExists: there is one with other content.
        """
        if not self.is_conditional():
            self._create_by_looking(path, data)
            return
        try:
            self._put(path, data, mode="create")
        except ObjectExists:
            # A request whose answer was lost has been sent again, by the library or by the caller.
            if self._there(path) != data:
                raise

    def info(self, path: str) -> ObjectInfo | None:
        """Return size and age of an object, None if there is none."""
        import obstore

        with self._answers(path):
            try:
                found = obstore.head(self._store, path)
            except FileNotFoundError:
                return None
        return ObjectInfo(found["path"], found["size"], found["last_modified"])

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects below a directory, in no order."""
        import obstore

        with self._answers(prefix):
            for batch in obstore.list(self._store, prefix):
                for found in batch:
                    yield ObjectInfo(found["path"], found["size"], found["last_modified"])

    def delete(self, paths: Iterable[str]) -> None:
        """Delete objects; one that is not there is no error."""
        import obstore

        for path in paths:
            with self._answers(path), contextlib.suppress(FileNotFoundError):
                obstore.delete(self._store, path)

    def check(self) -> None:
        """Find out at the start whether the store can be read and written.

        Raises:
            StoreInvalid: it cannot; one sentence says why.
        """
        probe = f"{_PROBES}/{secrets.token_hex(8)}"
        try:
            self.write(probe, b"durabert")
            self.read(probe)
            self.delete([probe])
        except (StoreUnavailable, ObjectMissing) as error:
            raise StoreInvalid(f"the store {self.url} cannot be used: {error}") from None

    def is_conditional(self) -> bool:
        """Return whether the store creates an object only where there is none; asks it once."""
        if self._conditional is None:
            probe = f"{_PROBES}/{secrets.token_hex(8)}"
            self._put(probe, b"1", mode="create")
            try:
                self._put(probe, b"2", mode="create")
            except ObjectExists:
                self._conditional = True
            else:
                self._conditional = False
            self.delete([probe])
        return self._conditional

    def _create_by_looking(self, path: str, data: bytes) -> None:
        there = self._there(path)
        if there is None:
            self._put(path, data, mode="overwrite")
            there = self._there(path)
        if there != data:
            raise ObjectExists(path)

    def _there(self, path: str) -> bytes | None:
        try:
            return self.read(path)
        except ObjectMissing:
            return None

    def _put(self, path: str, data: bytes, *, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._answers(path):
            reach("store.write")
            try:
                obstore.put(self._store, path, data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                raise ObjectExists(path) from None
            if self._root is not None:
                _flush(self._root / path)
                _flush((self._root / path).parent)

    @contextlib.contextmanager
    def _answers(self, path: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        if not PATH.fullmatch(path):
            raise ArtifactDamaged(f"{path!r:.120} is no path in a store")
        try:
            yield
        except (BaseError, OSError) as error:
            raise StoreUnavailable(f"{_reason(error)} (store {self.url})") from error


def open_store(url: str | None, *, home: Path) -> ObjectStore:
    """Open the store at a URL or a path; default ``DURABERT_STORE``, else ``<home>/store``.

    Credentials come from the usual environment of the service, such as ``AWS_ACCESS_KEY_ID``.

    Raises:
        StoreInvalid: the URL is of no known kind, or its directory cannot be made.
        DependencyMissing: obstore is not installed.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import MemoryStore, from_url
    except ImportError:
        raise DependencyMissing("what reads and writes artifact stores (obstore)", extra="worker") from None

    url = store_url(url, home=home)
    parts = urlsplit(url)
    if "://" not in url or parts.scheme == "file":
        return _directory(Path(parts.path if parts.scheme == "file" else url).expanduser().absolute())
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in SCHEMES:
        raise StoreInvalid(
            f"the store {shown!r} has the scheme {parts.scheme!r}, but should be a directory or begin with "
            "s3://, gs:// or az://"
        )
    if parts.scheme == "memory":
        return ObjectStore(shown, MemoryStore(), conditional=True)
    if not parts.netloc:
        raise StoreInvalid(f"the store {shown!r} names no bucket; expected {parts.scheme}://BUCKET/PREFIX")
    try:
        return ObjectStore(shown, from_url(url, client_options=_client(), retry_config=_retry()))
    except (BaseError, ValueError) as error:
        raise StoreInvalid(f"the store {shown!r} cannot be opened: {_reason(error)}") from None


def _directory(root: Path) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import LocalStore

    try:
        root.mkdir(parents=True, exist_ok=True)
        return ObjectStore(str(root), LocalStore(root), root=root, conditional=True)
    except (BaseError, OSError) as error:
        raise StoreInvalid(f"the store {root} is no directory that can be used: {_reason(error)}") from None


def _client() -> Any:
    plain = any(
        os.environ.get(name, "").startswith("http://")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_ENDPOINT")
    )
    return {"allow_http": plain, "connect_timeout": CONNECT_LIMIT, "read_timeout": READ_LIMIT}


def _retry() -> Any:
    return {"max_retries": 3, "retry_timeout": RETRY_LIMIT}


def _reason(error: BaseException) -> str:
    text = str(error)
    if any(sign in text for sign in _DISK_FULL):
        return "the disk is full"
    # The rest is a dump of the library's own types, or the page that a server sent.
    line = text.partition("\n")[0].partition(": <")[0].strip().rstrip(".:")
    return line[:300] or type(error).__name__


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
