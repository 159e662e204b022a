"""Advisory locks on files: the kernel lets go of them when their holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

POLL_SECONDS: Final = 0.02


class Lease:
    """A held lock; closing it, or the end of the process, releases it.

    Python opens files close-on-exec, so no program that is started while it is held keeps it alive, unless
    it is given ``fd`` on purpose. A child that is only forked does share it, until both are gone.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def close(self) -> None:
        """Release the lock; a second time does nothing."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def try_lock(path: Path, *, shared: bool = False) -> Lease | None:
    """Lock a file, made if absent, or return None if another holder is in the way."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return Lease(fd)


def wait_for_lock(path: Path, *, seconds: float, shared: bool = False) -> Lease | None:
    """Lock a file as soon as it can be had, or return None when the time is over."""
    deadline = time.monotonic() + seconds
    while (lease := try_lock(path, shared=shared)) is None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return lease


def is_held(path: Path, *, shared: bool = False) -> bool:
    """Say whether an exclusive lock (``shared``: any lock) is held on a file; never makes the file.

    Looking for an exclusive holder takes a shared lock for a moment: those who look do not see each other.
    """
    if not path.exists():
        return False
    lease = try_lock(path, shared=not shared)
    if lease is None:
        return True
    lease.close()
    return False
