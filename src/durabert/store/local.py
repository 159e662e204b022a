"""Objects of a store that is a directory: on the disk before they are seen, or not there."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import secrets
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

DIRECT_BYTES: Final = 2**20
"""Size from which content does not go through the kernel's cache."""
_STRIDE: Final = 2**22
"""Bytes that are copied and written at once where they must be copied."""
_BLOCK: Final = 4096
"""Such writes are of whole blocks, from memory that begins where a page does."""
_UNFINISHED: Final = re.compile(r".+#[0-9]+")
"""Names that obstore does not list, and that no path of a store has."""


def make_root(root: Path, *, with_parents: bool) -> None:
    """Make the directory of a store unless it is there.

    Raises:
        OSError: it cannot be made; the message is one for the user.
    """
    try:
        root.mkdir(parents=with_parents, exist_ok=True)
    except FileNotFoundError:
        raise FileNotFoundError(errno.ENOENT, f"the directory {root.parent} is missing") from None


def put_file(root: Path, path: str, data: bytes | memoryview, *, create: bool) -> None:
    """Write an object so that after a power cut it is there as a whole, or not at all.

    obstore's own writing does not wait for the disk before it gives the file its name.

    Raises:
        FileExistsError: it is to be created, and there is one.
    """
    target = root / path
    _make_directories(root, target.parent)
    partial = target.with_name(f"{target.name}#{secrets.randbits(60)}")
    try:
        with partial.open("xb") as file:
            done = _write_directly(file.fileno(), data) if len(data) >= DIRECT_BYTES else 0
            file.seek(done)
            file.write(memoryview(data)[done:])
            file.flush()
            os.fsync(file.fileno())
        if create:
            os.link(partial, target)
        else:
            partial.replace(target)
        _flush(target.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def unfinished_files(root: Path) -> Iterator[tuple[Path, int, datetime]]:
    """Yield what killed writers have left in a store, with bytes and time of the last change."""
    for path in root.rglob("*#*"):
        if _UNFINISHED.fullmatch(path.name):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                yield path, status.st_size, datetime.fromtimestamp(status.st_mtime, UTC)


def _write_directly(descriptor: int, data: bytes | memoryview) -> int:
    """Write the whole blocks of ``data`` past the kernel's cache; return how many bytes that were.

    Nobody reads a checkpoint soon, and fresh pages for its content may cost ten times as much as writing it.
    """
    if sys.platform != "linux":
        return 0
    import fcntl

    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    done, end = 0, len(data) // _BLOCK * _BLOCK
    content = memoryview(data)
    buffer = None if _begins_a_block(content) else memoryview(mmap.mmap(-1, _STRIDE))
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_DIRECT)
        while done < end and done % _BLOCK == 0:
            block = content[done:end]
            if buffer is not None:
                block = buffer[: len(block)]
                block[:] = content[done : done + len(block)]
            done += os.pwrite(descriptor, block, done)
    except OSError as error:
        # Not every file system can; the rest goes the usual way.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        fcntl.fcntl(descriptor, fcntl.F_SETFL, flags)
    return done


def _begins_a_block(content: memoryview) -> bool:
    # ctypes cannot look at memory that may not be written to.
    return not content.readonly and ctypes.addressof(ctypes.c_char.from_buffer(content)) % _BLOCK == 0


def _make_directories(root: Path, directory: Path) -> None:
    if directory.is_dir():
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        # Of the object itself it would mean something else.
        raise NotADirectoryError(errno.ENOTDIR, "Not a directory", str(directory)) from error
    while directory != root:
        directory = directory.parent
        _flush(directory)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems know no such call for a directory.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(descriptor)
