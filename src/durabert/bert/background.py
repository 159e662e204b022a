"""A thread that works beside a training and takes only the time in which a core has nothing to do."""

from __future__ import annotations

import contextlib
import ctypes
import os
import platform
import sys
import threading
from typing import Final

NICENESS: Final = 19
SLICE_NANOSECONDS: Final = 10_000_000
"""Longer than that of any usual thread, on any number of cores: https://docs.kernel.org/scheduler/sched-eevdf.html"""
SCHED_SETATTR: Final = {"x86_64": 314, "aarch64": 274}
"""Number of the system call, for which Python has no function; by machine."""


class SchedAttr(ctypes.Structure):
    """``struct sched_attr`` of https://man7.org/linux/man-pages/man2/sched_setattr.2.html."""

    _fields_ = (
        ("size", ctypes.c_uint32),
        ("policy", ctypes.c_uint32),
        ("flags", ctypes.c_uint64),
        ("nice", ctypes.c_int32),
        ("priority", ctypes.c_uint32),
        ("runtime", ctypes.c_uint64),
        ("deadline", ctypes.c_uint64),
        ("period", ctypes.c_uint64),
    )


def yield_to_others() -> None:
    """Let this thread, on Linux, have the least of the processors, and be interrupted at once by any other.

    By its niceness it gets little while others want to work. As a batch it does not interrupt them. Its long
    slice lets a thread that wakes up have the core at once, from Linux 6.12 on; before, that one waits until
    the slice is over, and the other threads of the model wait for that one.
    """
    if sys.platform != "linux":
        return
    thread = threading.get_native_id()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, thread, NICENESS)
        os.sched_setscheduler(thread, os.SCHED_BATCH, os.sched_param(0))
    if number := SCHED_SETATTR.get(platform.machine()):
        wanted = SchedAttr(
            size=ctypes.sizeof(SchedAttr), policy=os.SCHED_BATCH, nice=NICENESS, runtime=SLICE_NANOSECONDS
        )
        # Where it is refused, the rest holds.
        ctypes.CDLL(None).syscall(number, thread, ctypes.byref(wanted), 0)
