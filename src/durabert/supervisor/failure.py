"""Which error of durabert an exception, an exit status or a log stands for."""

from __future__ import annotations

import errno
import os
import signal
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from durabert import errors
from durabert.errors import (
    DeviceFault,
    DurabertError,
    OutOfMemory,
    ProcessKilled,
    StoreUnavailable,
    UnexpectedError,
)

STORE_ERRORS: Final = frozenset({
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN,
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH,
})  # fmt: skip
SHOWN_LINES: Final = 8
SHOWN_WIDTH: Final = 200
_MEMORY_TEXTS: Final = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
_DEVICE_TEXTS: Final = ("CUDA error", "cuDNN error")


def classified(error: BaseException) -> DurabertError:
    """Return the error of durabert that ``error`` is or stands for."""
    if isinstance(error, DurabertError):
        # A subclass that only the child's modules define has no name in the parent; its base class has.
        known = next(kind for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        return DurabertError.restored(known.__name__, str(error))
    sentence = "".join(traceback.format_exception_only(error)).strip()
    return _class_of(error, str(error))(sentence)


def _class_of(error: BaseException, text: str) -> type[DurabertError]:
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"MemoryError", "OutOfMemoryError"}:
        return OutOfMemory
    if isinstance(error, OSError):
        return _class_of_errno(error.errno)
    if isinstance(error, RuntimeError):
        return _class_of_text(text)
    return UnexpectedError


def _class_of_errno(number: int | None) -> type[DurabertError]:
    if number == errno.ENOMEM:
        return OutOfMemory
    return StoreUnavailable if number in STORE_ERRORS else UnexpectedError


def _class_of_text(text: str) -> type[DurabertError]:
    if any(part in text for part in _MEMORY_TEXTS):
        return OutOfMemory
    # An assertion that fails on the device is the program's bug (a label out of range); the device is well.
    if "device-side assert" not in text and any(part in text for part in _DEVICE_TEXTS):
        return DeviceFault
    return UnexpectedError


def num_memory_kills() -> int:
    """Return how many processes the kernel has killed for memory so far; 0 if it does not say."""
    try:
        lines = Path("/proc/vmstat").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def ended_without_result(
    status: int, log_lines: Sequence[str], *, memory_killer_struck: bool = False
) -> DurabertError:
    """Return the error of a process that ended by itself and told neither result nor error.

    Args:
        status: As ``os.waitpid`` gives it.
        log_lines: The last lines that the process wrote.
        memory_killer_struck: Whether the kernel has killed for memory while the process lived.
    """
    shown = [line[:SHOWN_WIDTH] for line in log_lines[-SHOWN_LINES:]]
    tail = f"; its last lines: {' | '.join(shown)}" if shown else ""
    if not os.WIFSIGNALED(status):
        return UnexpectedError(
            f"the process ended without a result, exit code {os.WEXITSTATUS(status)}{tail}"
        )
    number = os.WTERMSIG(status)
    sentence = f"the process was killed by {_signal_name(number)}"
    if number == signal.SIGKILL and memory_killer_struck:
        return OutOfMemory("the kernel killed the process because the machine had too little memory")
    if number == signal.SIGKILL:
        return ProcessKilled(f"{sentence}, most often the kernel's out-of-memory killer")
    if _class_of_text("\n".join(log_lines)) is DeviceFault:
        return DeviceFault(sentence + tail)
    return ProcessKilled(sentence + tail)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
