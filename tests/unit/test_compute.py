"""What a process says of itself and its device."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the kernel tells nothing else")
def test_the_peak_memory_of_a_process_is_not_that_of_the_one_that_began_it():
    # 1 GiB; torch takes some 300 MiB.
    code = """
import os, sys
memory = b"x" * 2**30
tell = "from durabert.bert.device import process_peak_memory_mib; print(process_peak_memory_mib())"
os.execv(sys.executable, [sys.executable, "-c", tell])
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert 50 < float(told.stdout) < 900
