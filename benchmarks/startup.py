"""How long the command line and the engine take to be there."""

from __future__ import annotations

import subprocess
import tempfile
import time
from pathlib import Path

from tests.shell import DURABERT

from benchmarks.figures import summary
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine


def measure() -> dict[str, object]:
    """Seconds of ``durabert --help``, of a new engine, of one on an old database, and of joining it."""
    help_seconds = [
        _seconds(lambda: subprocess.run([DURABERT, "--help"], capture_output=True, check=True))
        for _ in range(10)
    ]
    new, again, join = [], [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as directory:
            new.append(_timed_start(directory))
            again.append(_timed_start(directory))
            engine = _attach(directory)
            join.append(_seconds(lambda: _attach(directory).close()))
            engine.close()
            _gone(engine.info.host_pid)
    return {
        "help_seconds": summary(help_seconds),
        "new_engine_seconds": summary(new),
        "known_engine_seconds": summary(again),
        "join_engine_seconds": summary(join),
    }


def _timed_start(directory: str) -> float:
    began = time.perf_counter()
    engine = _attach(directory)
    seconds = time.perf_counter() - began
    engine.close()
    # Until it has gone, the next command would join it.
    _gone(engine.info.host_pid)
    return seconds


def _attach(directory: str) -> Engine:
    return Engine.attach(Path(directory), worker=False, search_attributes=SEARCH_ATTRIBUTES)


def _seconds(work) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _gone(pid: int) -> None:
    while Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
