"""A process ends, with all that it has said, whatever the threads of the SDK are at."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

STUCK = """
import atexit, sys
from durabert.leaving import leave

class Stuck:
    def __del__(self):
        # As a runtime that waits for its threads.
        sys.stderr.write("torn down")

stuck = Stuck()
atexit.register(sys.stdout.write, " and the last word")
sys.stdout.write("said")
"""
BUSY = """
import ctypes, os, threading, time
from durabert.leaving import let_threads_leave_first

def work():
    ctypes.CDLL(None).prctl(15, b"{name}")
    named.set()
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        pass
    os.write(1, b"left")

{begin}
named = threading.Event()
threading.Thread(target=work, daemon=True).start()
named.wait()
"""


def python(script: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}, text=True, timeout=60,
        check=False, env={**os.environ, "PYTHONUNBUFFERED": ""},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("ending", "code", "torn_down"), [("leave(3)", 3, ""), ("sys.exit(3)", 3, "torn down")]
)
def test_a_command_says_all_and_tears_nothing_down(ending, code, torn_down):
    done = python(STUCK + ending)

    assert (done.returncode, done.stdout, done.stderr) == (code, "said and the last word", torn_down)


def test_the_command_line_leaves_so():
    [command] = metadata.entry_points(group="console_scripts", name="durabert")
    module, _, function = command.value.partition(":")

    done = python(
        STUCK + f"import {module}\nsys.argv = ['durabert', 'no-such-command']\n{module}.{function}()"
    )

    assert (done.returncode, done.stdout) == (2, "said and the last word")
    assert done.stderr.startswith("durabert: no such command 'no-such-command'")
    assert "torn down" not in done.stderr


def test_nobody_who_reads_keeps_a_command_from_leaving():
    reader, writer = os.pipe()
    os.close(reader)
    done = python(STUCK + "sys.stderr.write('unread')\nleave(3)", stdout=writer, stderr=writer)
    os.close(writer)

    assert done.returncode == 3


def test_what_cannot_be_printed_is_told():
    with open("/dev/full", "w") as full:  # noqa: PTH123 - not a file to read
        done = python(STUCK + "leave(0)", stdout=full)

    assert done.returncode == 1
    assert done.stderr == "durabert: the output cannot be written: No space left on device\n"


@pytest.mark.skipif(sys.platform != "linux", reason="the threads of a process are listed on Linux")
@pytest.mark.parametrize(
    ("begin", "name", "waited_for"),
    [
        ("let_threads_leave_first()", "tokio-rt-worker", "left"),
        ("let_threads_leave_first(); let_threads_leave_first()", "tokio-rt-worker", "left"),
        ("let_threads_leave_first()", "of-somebody-else", ""),
        ("from durabert.wire import data_converter", "tokio-rt-worker", "left"),
        ("", "tokio-rt-worker", ""),
    ],
)
def test_a_program_that_talks_to_temporal_waits_for_threads_of_the_sdk_alone(begin, name, waited_for):
    done = python(BUSY.replace("{begin}", begin).replace("{name}", name))

    assert (done.returncode, done.stdout, done.stderr) == (0, waited_for, "")


OWN_WORKFLOW = """
from temporalio import workflow
from durabert.wire import data_converter

@workflow.defn
class Own:
    @workflow.run
    async def run(self) -> None:
        pass
"""
SANDBOXED = """
import asyncio
from own import Own
from temporalio import workflow
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner

async def main():
    definition = workflow._Definition.must_from_class(Own)
    SandboxedWorkflowRunner().prepare_workflow(definition)

asyncio.run(main())
"""


def test_a_module_of_a_workflow_that_wants_the_converter_is_imported_in_its_sandbox(tmp_path, monkeypatch):
    (tmp_path / "own.py").write_text(OWN_WORKFLOW)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    done = python(SANDBOXED)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
