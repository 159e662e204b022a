"""One store of objects behind one small interface: a directory, S3, GCS, Azure or memory."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, unquote, urlsplit

from durabert.errors import ArtifactDamaged, DependencyMissing, StoreInvalid, StoreUnavailable
from durabert.faults import reach
from durabert.store.local import make_root, put_file
from durabert.store.location import store_url

PATH: Final = re.compile(r"[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*(/[A-Za-z0-9_@=-][A-Za-z0-9._@=-]*)*", re.ASCII)
"""What a path in the store may be: no segment begins with a dot."""
SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "memory", "file")
CONNECT_LIMIT: Final = timedelta(seconds=5)
READ_LIMIT: Final = timedelta(seconds=10)
"""Without a byte of an answer; a long download that goes on is not cut."""
UPLOAD_LIMIT: Final = timedelta(minutes=5)
"""The same for what is large, as the answer comes after the upload, however slow the line is."""
REQUEST_LIMIT: Final = timedelta(hours=1)
LARGE_BYTES: Final = 2**20
RETRY_LIMIT: Final = timedelta(seconds=10)
"""How long one request is tried again; whoever asks has a retry of its own."""
PROBES: Final = "probe"
"""Directory for objects that only try the store."""
_REASONS: Final = (
    (r"169\.254\.169\.254|token request|metadata\.google", "no credentials were found in the environment"),
    (r"\b40[13] |privileges", "the credentials are refused, or do not allow it"),
    (r"\b404 Not Found|NoSuchBucket", "there is no such bucket"),
    (r"\b(5\d\d [A-Z][A-Za-z ]*)", "it answers {}"),
    (r"error sending request|HTTP error|timed out|onnect", "it does not answer"),
)
"""What to tell of an error; the library's own words are a dump of its types, or a page of a server."""


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
        store: of obstore; None for a directory, which is opened when it is first used.
        uploads: the same store for large uploads, with more patience.
        root: the directory, if it is one.
        with_parents: whether the directories above it may be made, too.
        conditional: whether it is known to create an object only where there is none; None finds out at the
            first creation.
    """

    def __init__(
        self,
        url: str,
        store: Any,
        *,
        uploads: Any = None,
        root: Path | None = None,
        with_parents: bool = False,
        conditional: bool | None = None,
    ) -> None:
        self.url = url
        self.root = root
        self._with_parents = with_parents
        self._store = store
        self._uploads = uploads
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

    def pieces(self, path: str) -> Iterator[memoryview]:
        """Yield the content of an object, which need not fit into memory.

        Raises:
            ObjectMissing: there is none.
        """
        import obstore

        with self._answers(path):
            reach("store.read")
            try:
                found = obstore.get(self._store, path)
            except FileNotFoundError:
                raise ObjectMissing(path) from None
            for piece in found.stream():
                yield memoryview(piece)

    def read_range(self, path: str, offset: int, size: int) -> bytes:
        """Return a part of an object, shorter if the object ends before.

        Raises:
            ObjectMissing: there is no object.
        """
        import obstore
        from obstore.exceptions import GenericError

        if not size:
            return b""
        with self._answers(path):
            reach("store.read")
            try:
                return bytes(obstore.get_range(self._store, path, start=offset, length=size))
            except FileNotFoundError:
                raise ObjectMissing(path) from None
            except GenericError as error:
                if "non-partial response" not in str(error):
                    raise
        # Some servers answer with all of an object, whatever part is asked for.
        return self.read(path)[offset : offset + size]

    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write an object, in place of one that may be there; ``data`` may change after that."""
        # obstore's store in memory would keep what it is given.
        self._put(path, data if self.root is not None else bytes(data), mode="overwrite")

    def create(self, path: str, data: bytes) -> None:
        """Write an object where there is none: of two who try, one succeeds.

        A server that ignores ``If-None-Match`` is found out before the first creation. There, this looks,
        writes, and reads what it has written; of two who do so within the same milliseconds both may be
        told that they have succeeded, and the last one's content stays.

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

    def list(self, prefix: str | None = None) -> Iterator[ObjectInfo]:
        """Yield the objects below a directory, or all of them, in no order."""
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
        probe = f"{PROBES}/{secrets.token_hex(8)}"
        try:
            # Some file systems can be written, but not create a file only where there is none.
            self.create(probe, b"durabert")
            self.read(probe)
            self.delete([probe])
        except (StoreUnavailable, ObjectMissing, ObjectExists) as error:
            said = str(error).removeprefix(f"the store {self.url}: ")
            raise StoreInvalid(f"the store {self.url} cannot be used: {said}") from None

    def is_conditional(self) -> bool:
        """Return whether the store creates an object only where there is none; asks it once."""
        if self._conditional is None:
            self._conditional = self._refuses_a_second()
        return self._conditional

    def _refuses_a_second(self) -> bool:
        probe = f"{PROBES}/{secrets.token_hex(8)}"
        self.write(probe, b"1")
        try:
            self._put(probe, b"2", mode="create")
        except ObjectExists:
            return True
        except StoreUnavailable as error:
            # Some servers know the header and say that they do not implement it.
            if "501" not in str(error.__cause__):
                raise
            return False
        else:
            return False
        finally:
            self.delete([probe])

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

    def _put(self, path: str, data: bytes | memoryview, *, mode: Any) -> None:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with self._answers(path):
            reach("store.write")
            try:
                if self.root is not None:
                    put_file(self.root, path, data, create=mode == "create")
                elif self._uploads is not None and len(data) > LARGE_BYTES:
                    # Who is patient with an upload asks first whether there is anybody.
                    self.info(path)
                    obstore.put(self._uploads, path, data, mode=mode)
                else:
                    obstore.put(self._store, path, data, mode=mode)
            except (AlreadyExistsError, PreconditionError, FileExistsError):
                raise ObjectExists(path) from None

    @contextlib.contextmanager
    def _answers(self, path: str | None) -> Iterator[None]:
        from obstore.exceptions import BaseError

        if path is not None and not PATH.fullmatch(path):
            raise ArtifactDamaged(f"{path!r:.120} is no path in a store")
        try:
            if self.root is not None:
                self._require_directory(self.root)
            yield
        except (BaseError, OSError) as error:
            raise StoreUnavailable(f"the store {self.url}: {_reason(error)}") from error

    def _require_directory(self, root: Path) -> None:
        from obstore.store import LocalStore

        if self._store is None:
            make_root(root, with_parents=self._with_parents)
            self._store = LocalStore(root)
        elif not root.is_dir():
            # Made anew, it would be an empty store, and its runs would begin from the beginning.
            raise FileNotFoundError(errno.ENOENT, "its directory is gone")


def open_store(url: str | None, *, home: Path) -> ObjectStore:
    """Open the store at a URL or a path; default ``DURABERT_STORE``, else ``<home>/store``.

    Credentials come from the usual environment of the service, such as ``AWS_ACCESS_KEY_ID``.

    Raises:
        StoreInvalid: the URL is of no known kind, or its directory cannot be made.
        DependencyMissing: obstore is not installed.
    """
    try:
        from obstore.store import MemoryStore
    except ImportError:
        raise DependencyMissing("what reads and writes artifact stores (obstore)", extra="worker") from None

    url = store_url(url, home=home)
    parts = _parts(url)
    if parts.scheme == "file":
        return _directory(Path(unquote(parts.path)))
    if "://" not in url:
        root = Path(url).expanduser().absolute()
        return _directory(root, with_parents=root.is_relative_to(home.absolute()))
    shown = _without_credentials(parts)
    if parts.scheme == "memory":
        return ObjectStore(shown, MemoryStore(), conditional=True)
    if not parts.netloc:
        raise StoreInvalid(f"the store {shown!r} names no bucket; expected {parts.scheme}://BUCKET/PREFIX")
    prefix = parts.path.strip("/")
    if parts.query or parts.fragment or (prefix and not PATH.fullmatch(prefix)):
        raise StoreInvalid(
            f"the store {shown!r} is not allowed: what follows the bucket should be letters, digits and any "
            "of '/._@=-'"
        )
    return _remote(url, shown)


def _parts(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise StoreInvalid(f"the store's URL cannot be read: {url.partition('://')[0]}://...") from None
    is_url = "://" in url
    if not is_url and parts.scheme in SCHEMES and parts.scheme != "file":
        # Else a directory would be made that is called "s3:bucket".
        raise StoreInvalid(f"the store's URL should begin with {parts.scheme}://")
    if is_url and parts.scheme not in SCHEMES:
        raise StoreInvalid(
            f"the store {_without_credentials(parts)!r} has the scheme {parts.scheme!r}, but should be a "
            "directory or begin with s3://, gs:// or az://"
        )
    if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
        raise StoreInvalid(f"the store {url!r} should be a directory of this machine: file:///PATH")
    return parts


def _without_credentials(parts: SplitResult) -> str:
    user, _, host = parts.netloc.rpartition("@")
    # Of Azure's, the part before the @ is the container.
    is_container = parts.scheme.startswith("abfs") and user and ":" not in user
    return f"{parts.scheme}://{parts.netloc if is_container else host}{parts.path}"


def _remote(url: str, shown: str) -> ObjectStore:
    from obstore.exceptions import BaseError
    from obstore.store import from_url

    try:
        quick, patient = (
            from_url(url, client_options=_client(limit), retry_config=_retry())
            for limit in (READ_LIMIT, UPLOAD_LIMIT)
        )
        return ObjectStore(shown, quick, uploads=patient)
    except (BaseError, ValueError) as error:
        raise StoreInvalid(f"the store {shown!r} cannot be opened: {_reason(error)}") from None


def _directory(root: Path, *, with_parents: bool = False) -> ObjectStore:
    try:
        make_root(root, with_parents=with_parents)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise StoreInvalid(f"the store {root} is no directory that can be used: {_reason(error)}") from None
    except OSError:
        # What is mounted there may come back; until then whoever uses the store is told so.
        pass
    return ObjectStore(str(root), None, root=root, with_parents=with_parents, conditional=True)


def _client(read_limit: timedelta) -> Any:
    plain = any(
        os.environ.get(name, "").startswith("http://")
        for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT", "AZURE_ENDPOINT")
    )
    return {
        "allow_http": plain,
        "connect_timeout": CONNECT_LIMIT,
        "read_timeout": read_limit,
        "timeout": REQUEST_LIMIT,
    }


def _retry() -> Any:
    return {"max_retries": 3, "retry_timeout": RETRY_LIMIT}


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror
    text = str(error)
    for pattern, reason in _REASONS:
        if found := re.search(pattern, text):
            return reason.format(*found.groups())
    line = text.partition("\n")[0].partition(": <")[0].strip().rstrip(".:")
    return line[:200] or type(error).__name__
