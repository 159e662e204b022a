"""How a process ends that has talked to Temporal.

A thread of Temporal's SDK may still be on its way out of Python after the last call, and more so after one
that was given up. An interpreter that is torn down meanwhile aborts, or the two wait for each other without
end (temporalio 1.35: 3 of 200 commands on a busy machine).
"""

from __future__ import annotations

import atexit
import functools
import os
import sys
import time
from pathlib import Path
from typing import Final, NoReturn

THREADS: Final = Path("/proc/self/task")
"""Of this process, on Linux."""
NAME: Final = "tokio-rt-worker"
"""Of the threads of the SDK."""
SETTLE_SECONDS: Final = 0.01
"""In which a thread leaves if the processor is free."""
LONGEST_SECONDS: Final = 2.0
"""For threads that a program keeps busy until its end."""


@functools.cache
def let_threads_leave_first() -> None:
    """Have this process wait at its end until the threads of the SDK sleep; a second time does nothing."""
    from temporalio import workflow

    # There modules are imported again, with little of Python; outside of it this one was imported before.
    if workflow.unsafe.in_sandbox():
        return
    atexit.register(_until_threads_sleep)


def leave(code: int) -> NoReturn:
    """End this process as ``sys.exit`` does, but without tearing the interpreter down."""
    # Nothing that they do can hinder what follows.
    atexit.unregister(_until_threads_sleep)
    atexit._run_exitfuncs()  # noqa: SLF001 - as multiprocessing does, and there is no other way
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        # Whoever reads has enough.
        code = code or 1
    except OSError as error:
        os.write(2, f"durabert: the output cannot be written: {error.strerror}\n".encode())
        code = code or 1
    os._exit(code)


def _until_threads_sleep() -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while True:
        time.sleep(SETTLE_SECONDS)
        if not _is_one_awake() or time.monotonic() > deadline:
            return


def _is_one_awake() -> bool:
    # Whoever sleeps after this thread has slept wants nothing of the interpreter: it was free.
    return THREADS.is_dir() and any(map(_is_awake, THREADS.iterdir()))


def _is_awake(thread: Path) -> bool:
    try:
        named, _, rest = (thread / "stat").read_text().rpartition(")")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return named.endswith(f"({NAME}") and rest.split()[0] != "S"
