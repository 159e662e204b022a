"""What a thread that works beside a training asks of the kernel."""

from __future__ import annotations

import ctypes
import os
import platform
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from durabert.bert.background import NICENESS, SLICE_NANOSECONDS, SchedAttr, yield_to_others

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there a thread has its own priority")
SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}
KERNEL = tuple(int(part) for part in re.findall(r"\d+", platform.release())[:2])


def asked_for() -> SchedAttr:
    found = SchedAttr()
    thread = threading.get_native_id()
    number = SCHED_GETATTR[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, thread, ctypes.byref(found), ctypes.sizeof(found), 0) == 0
    return found


def test_it_yields_to_all_others_and_leaves_them_as_they_are():
    before = asked_for()
    with ThreadPoolExecutor(1, initializer=yield_to_others) as background:
        own = background.submit(asked_for).result()

    assert own.policy == os.SCHED_BATCH
    assert own.nice == NICENESS
    assert bytes(asked_for()) == bytes(before)


@pytest.mark.skipif(KERNEL < (6, 12), reason="an older kernel has no slice of a thread's own")
def test_its_slice_is_longer_than_that_of_others():
    with ThreadPoolExecutor(1, initializer=yield_to_others) as background:
        own = background.submit(asked_for).result()

    assert asked_for().runtime < own.runtime == SLICE_NANOSECONDS


def test_on_a_machine_whose_call_is_not_known_it_still_yields(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with ThreadPoolExecutor(1, initializer=yield_to_others) as background:
        priority = background.submit(lambda: os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    assert priority.result() == NICENESS
