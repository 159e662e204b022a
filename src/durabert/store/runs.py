"""Runs on a local disk: whole or absent, and never overwritten.

Layout below the home directory::

    staging/<run>@<random>/     an attempt at work; locked while its owner lives, swept up after it
    runs/<run>/result.json      appears with one rename of the whole directory: the commit point of a run
    runs/<run>/model/           a Hugging Face model directory
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durabert.errors import RunNotFound, StoreUnavailable
from durabert.specs import FineTuneResult, checked_run

if TYPE_CHECKING:
    from collections.abc import Iterator

RESULT_FILE: Final = "result.json"
MODEL_DIRECTORY: Final = "model"


class RunExists(Exception):  # not for users: the caller decides what it means
    """Another attempt, or another experiment, has published the run already."""


class RunStore:
    """The runs below one home directory."""

    def __init__(self, home: Path) -> None:
        self._runs = home / "runs"
        self._staging = home / "staging"

    def directory(self, run: str) -> Path:
        """Return where a run is, or will be.

        Raises:
            NameInvalid: the name is no safe path segment.
        """
        return self._runs / checked_run(run)

    def model_directory(self, run: str) -> Path:
        """Return the model directory of a finished run.

        Raises:
            RunNotFound: there is no finished run of that name here.
        """
        if self.result(run) is None:
            raise RunNotFound(run)
        return self.directory(run) / MODEL_DIRECTORY

    def result(self, run: str) -> FineTuneResult | None:
        """Return the result of a finished run, or None if there is none here."""
        try:
            document = (self.directory(run) / RESULT_FILE).read_bytes()
        except FileNotFoundError:
            return None
        return FineTuneResult.model_validate_json(document, extra="ignore")

    @contextmanager
    def staging(self, run: str) -> Iterator[Path]:
        """Give an attempt a directory of its own; whatever is left in it at the end is removed.

        Leftovers of attempts whose process is gone are removed first.

        Raises:
            StoreUnavailable: the disk is full or cannot be written.
        """
        self.sweep()
        directory = self._staging / f"{checked_run(run)}@{secrets.token_hex(6)}"
        try:
            directory.mkdir(parents=True)
        except OSError as error:
            raise StoreUnavailable(f"{directory.parent} cannot be written: {error.strerror}") from error
        lock = os.open(directory, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)

    def publish(self, staged: Path, run: str) -> Path:
        """Make a staged directory the run, in one atomic step, and return where it is.

        Raises:
            RunExists: the run is there already; the staged directory is left as it is.
            StoreUnavailable: the disk is full or cannot be written.
        """
        target = self.directory(run)
        try:
            _flush(staged)
            target.parent.mkdir(parents=True, exist_ok=True)
            staged.rename(target)
            _flush_directory(target.parent)
        except OSError as error:
            if error.errno in {errno.ENOTEMPTY, errno.EEXIST}:
                raise RunExists(run) from error
            raise StoreUnavailable(f"{target} cannot be written: {error.strerror}") from error
        return target

    def sweep(self) -> list[str]:
        """Remove what dead attempts left behind and return their names."""
        if not self._staging.is_dir():
            return []
        return [directory.name for directory in self._staging.iterdir() if _removed_if_ownerless(directory)]


def _removed_if_ownerless(directory: Path) -> bool:
    try:
        lock = os.open(directory, os.O_RDONLY)
    except FileNotFoundError:  # its owner was faster
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        shutil.rmtree(directory, ignore_errors=True)
        return True
    finally:
        os.close(lock)


def _flush(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
    _flush_directory(directory)


def _flush_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
