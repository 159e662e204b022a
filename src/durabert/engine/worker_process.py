"""The worker of the host: started while it is wanted, stopped when not, restarted when it dies."""

from __future__ import annotations

import dataclasses
import logging
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from durabert.engine.home import Home
from durabert.engine.processes import how_it_ended, last_lines, only_local, size_of, spawn

DRAIN_SECONDS: Final = 30.0
"""How long a worker may take to hand over its work after SIGTERM; a large checkpoint is committed in it."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 30.0
STEADY_SECONDS: Final = 30.0
"""A worker that has lived this long is taken to be well; importing torch takes most of it on a slow disk."""
POLL_SECONDS: Final = 0.02

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Alive:
    process: subprocess.Popen[bytes]
    since: float
    log_offset: int
    kill_at: float | None = None
    """Set once it was asked to leave."""


class WorkerProcess:
    """At most one worker process, moved towards what is wanted by every ``tend``; never waits."""

    def __init__(self, home: Home, command: Sequence[str], *, address: str) -> None:
        self.failure: str | None = None
        self._home = home
        self._command = command
        self._env = {
            **only_local(os.environ),
            "TEMPORAL_ADDRESS": address,
            "TEMPORAL_NAMESPACE": "default",
            "DURABERT_HOME": str(home.root),
        }
        self._alive: _Alive | None = None
        self._num_failures = 0
        self._next_start = 0.0

    @property
    def pid(self) -> int | None:
        """The process, if there is one that was not asked to leave."""
        leaving = self._alive is None or self._alive.kill_at is not None
        return None if leaving or self._alive is None else self._alive.process.pid

    @property
    def is_steady(self) -> bool:
        """Whether there is one that is taken to be well."""
        alive = self._alive
        return alive is not None and alive.kill_at is None and time.monotonic() - alive.since > STEADY_SECONDS

    def tend(self, *, wanted: bool) -> None:
        """Start, stop, kill or restart the process, whatever brings it closer to what is wanted."""
        if self._alive is None:
            if not wanted:
                self._forget_failures()
            elif time.monotonic() >= self._next_start:
                self._start()
        elif self._alive.process.poll() is not None:
            self._mourn(self._alive)
        elif self._alive.kill_at is not None:
            if time.monotonic() >= self._alive.kill_at:
                self._alive.process.kill()
        elif not wanted:
            self._ask_to_leave(self._alive)
        elif self._num_failures and self.is_steady:
            self._forget_failures()

    def stop(self) -> None:
        """Stop the process and wait until it is gone."""
        while self._alive is not None:
            self.tend(wanted=False)
            time.sleep(POLL_SECONDS)

    def _start(self) -> None:
        offset = size_of(self._home.worker_log)
        try:
            process = spawn(self._command, log=self._home.worker_log, env=self._env, cwd=self._home.root)
        except OSError as error:
            self._fail(f"cannot be started: {error}")
            return
        logger.info("worker %d started", process.pid)
        self._alive = _Alive(process, since=time.monotonic(), log_offset=offset)

    def _ask_to_leave(self, alive: _Alive) -> None:
        alive.process.terminate()
        self._alive = dataclasses.replace(alive, kill_at=time.monotonic() + DRAIN_SECONDS)

    def _mourn(self, alive: _Alive) -> None:
        self._alive = None
        logger.info("worker %d: %s", alive.process.pid, how_it_ended(alive.process.returncode))
        if alive.kill_at is not None:
            return
        if time.monotonic() - alive.since > STEADY_SECONDS:
            self._forget_failures()
        printed = last_lines(self._home.worker_log, since=alive.log_offset)
        self._fail(f"ended with {how_it_ended(alive.process.returncode)}: {printed}")

    def _fail(self, how: str) -> None:
        pause = min(FIRST_PAUSE_SECONDS * 2**self._num_failures, LONGEST_PAUSE_SECONDS)
        self._num_failures += 1
        self._next_start = time.monotonic() + pause
        self.failure = f"the worker {how} (failure {self._num_failures} in a row)"
        logger.warning("%s; next start in %.1f s", self.failure, pause)

    def _forget_failures(self) -> None:
        self.failure = None
        self._num_failures = 0
        self._next_start = 0.0
