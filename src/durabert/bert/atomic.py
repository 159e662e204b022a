"""Files and directories that appear whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from durabert.errors import StoreUnavailable

_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


@contextlib.contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """Give a path beside ``target`` to write a file or a directory to, which takes its place at the end.

    After an error, also one of the caller's, nothing is left and what was at ``target`` is as it was.

    Raises:
        StoreUnavailable: the disk is full.
    """
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        with disk_full(target):
            yield partial
            _sync(partial)
            _replace(partial, target)
    finally:
        _remove(partial)


@contextlib.contextmanager
def disk_full(target: Path) -> Iterator[None]:
    """Turn the errors of a full disk into ``StoreUnavailable``."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in _DISK_FULL or f"(os error {errno.ENOSPC})" in str(error)
        if not full:
            raise
        raise StoreUnavailable(f"the disk is full: cannot write {str(target)!r}") from error


def _sync(path: Path) -> None:
    for file in [path, *path.rglob("*")] if path.is_dir() else [path]:
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(partial: Path, target: Path) -> None:
    if partial.is_dir() and target.exists():
        # No system call replaces a directory that holds files.
        old = partial.with_suffix(".old")
        target.rename(old)
        partial.rename(target)
        _remove(old)
        return
    partial.replace(target)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
