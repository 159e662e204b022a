"""The parent's side: one job, watched until its process is gone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from durabert.errors import DurabertError, OutOfMemory, ProcessKilled, ProcessStalled
from durabert.supervisor.failure import classified, ended_without_result, num_memory_kills
from durabert.supervisor.forkserver import ON_LINUX, kill_group
from durabert.supervisor.launcher import Launched, launcher
from durabert.supervisor.protocol import Event, Job, Lines

START_LIMIT: Final = timedelta(seconds=120)
"""For the fork server to answer; the first job waits for its imports, and those may come over a network."""
POLL: Final = timedelta(milliseconds=10)
RECEIVE_BYTES: Final = 262_144
TAIL_BYTES: Final = 16_384


async def supervise(
    job: Job, *, on_event: Callable[[Event], None], grace: timedelta, stall: timedelta
) -> dict[str, Any]:
    """Run a job in a child process and return its function's result.

    When this returns or raises, the process is gone. Cancelled, it asks the process to leave (SIGTERM) and
    waits; further cancellations do not shorten that.

    Args:
        job: What to run.
        on_event: Called in the event loop for each event, in order.
        grace: How long a cancelled job may take to leave before it is killed.
        stall: How long a job may say nothing before it is killed.

    Raises:
        DurabertError: The job failed, and how: as its function raised it, or by the way its process ended.
    """
    watch = _Watch(job, on_event=on_event, stall=stall)
    try:
        await asyncio.wait([watch.gone])
    except asyncio.CancelledError:
        watch.stop(grace)
        while not watch.gone.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([watch.gone])
        raise
    finally:
        watch.close()
    return watch.result()


class _Watch:
    """What is known of one child. All methods run in the event loop."""

    def __init__(self, job: Job, *, on_event: Callable[[Event], None], stall: timedelta) -> None:
        self._loop = asyncio.get_running_loop()
        self.gone: asyncio.Future[None] = self._loop.create_future()
        self._job = job
        self._on_event = on_event
        self._stall = stall
        self._pid: int | None = None
        self._exit_status: int | None = None
        self._ending: dict[str, Any] = {}
        self._error: Exception | None = None
        self._stopping = False
        self._log_start = _size(job.log)
        self._memory_kills = num_memory_kills()
        self._line_messages, self._status_messages = Lines(), Lines()
        self._last_heard = self._loop.time()
        self._launched = _launched(job)
        self._timer = self._loop.call_later(START_LIMIT.total_seconds(), self._never_started)
        self._loop.add_reader(self._launched.status, self._read_status)

    def stop(self, grace: timedelta) -> None:
        """Ask the process to leave, and see to it that it does."""
        if self.gone.done():
            return
        self._stopping = True
        self._timer.cancel()
        if self._pid is None:
            # Nothing has begun: a child that comes up now finds the line closed and ends.
            self._launched.line.shutdown(socket.SHUT_WR)
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        self._timer = self._loop.call_later(grace.total_seconds(), self._kill)

    def close(self) -> None:
        """Let go of the process; one that still lives, as when the event loop is torn down, ends by that."""
        self._timer.cancel()
        self._loop.remove_reader(self._launched.line)
        self._loop.remove_reader(self._launched.status)
        self._launched.close()

    def result(self) -> dict[str, Any]:
        """Return what the function returned, or raise what ended it."""
        if self._error is not None:
            raise self._error
        if "done" in self._ending:
            done: dict[str, Any] = self._ending["done"]
            return done
        if "failed" in self._ending:
            raise _failure(self._ending)
        if self._exit_status is None:
            raise ProcessKilled("the fork server ended, and the process with it")
        raise ended_without_result(
            self._exit_status,
            _tail(self._job.log, start=self._log_start),
            memory_killer_struck=num_memory_kills() > self._memory_kills,
        )

    def _read_line(self) -> None:
        try:
            data = self._launched.line.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        if not data:
            self._loop.remove_reader(self._launched.line)
            return
        self._heard()
        self._take_all(data)

    def _take_all(self, data: bytes) -> None:
        for message in self._line_messages.feed(data):
            self._take(message)

    def _take(self, message: dict[str, Any]) -> None:
        if "event" not in message:
            self._ending = message
            return
        try:
            self._on_event(Event(message["event"], message["body"]))
        except Exception as error:
            # Raised by supervise when the process is gone.
            self._give_up(error)

    def _read_status(self) -> None:
        data = os.read(self._launched.status, RECEIVE_BYTES)
        if not data:
            self._lost_server()
            return
        for message in self._status_messages.feed(data):
            if "pid" in message:
                self._started(message["pid"])
            else:
                self._ended(message)

    def _started(self, pid: int) -> None:
        self._pid = pid
        # Not before: a listener that fails has the process killed, and for that it must have a name.
        self._loop.add_reader(self._launched.line, self._read_line)
        if not self._stopping:
            self._timer.cancel()
            self._heard()
            self._check_silence()

    def _heard(self) -> None:
        self._last_heard = self._loop.time()

    def _check_silence(self) -> None:
        left = self._last_heard + self._stall.total_seconds() - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._check_silence)
        else:
            seconds = self._stall.total_seconds()
            self._give_up(ProcessStalled(f"the process reported nothing for {seconds:g} s and was killed"))

    def _never_started(self) -> None:
        seconds = START_LIMIT.total_seconds()
        self._give_up(ProcessStalled(f"the fork server started no process within {seconds:g} s"))

    def _give_up(self, error: Exception) -> None:
        if self._error is None:
            self._error = error
        self._timer.cancel()
        self._kill()

    def _kill(self) -> None:
        if self._exit_status is not None:
            return
        if self._pid is None:
            # It may be about to fork. Without it there is certainty.
            self._launched.kill_server()
        else:
            _kill(self._pid)

    def _ended(self, message: dict[str, Any]) -> None:
        self._loop.remove_reader(self._launched.status)
        if "refused" in message:
            self._error = OutOfMemory(message["refused"])
        else:
            self._exit_status = message["exit"]
        self._finish()

    def _lost_server(self) -> None:
        self._loop.remove_reader(self._launched.status)
        # A child that the server had no time to tell of ends by this.
        self._launched.line.shutdown(socket.SHUT_WR)
        if self._pid is not None:
            _kill(self._pid)
        self._await_end()

    def _await_end(self) -> None:
        hung_up = self._take_rest()
        gone = hung_up if self._pid is None else not _is_running(self._pid)
        if gone:
            self._finish()
        else:
            self._loop.call_later(POLL.total_seconds(), self._await_end)

    def _finish(self) -> None:
        self._timer.cancel()
        # The process is gone: all that it sent has arrived.
        self._take_rest()
        self.gone.set_result(None)

    def _take_rest(self) -> bool:
        """Take all that has arrived, and return whether nobody is left who could send more."""
        try:
            while data := self._launched.line.recv(RECEIVE_BYTES):
                self._take_all(data)
        except BlockingIOError:
            return False
        except ConnectionError:
            pass
        return True


def _launched(job: Job) -> Launched:
    try:
        return launcher.launch(job)
    except OSError as error:
        raise classified(error) from error


def _failure(ending: dict[str, Any]) -> DurabertError:
    error = DurabertError.restored(ending["failed"], ending["message"])
    if ending["stopped"]:
        return ProcessKilled(f"the process was asked to stop from outside (SIGTERM) and ended with: {error}")
    return error


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    kill_group(pid)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] if ON_LINUX else ""
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"


def _size(log: Path | None) -> int:
    return log.stat().st_size if log is not None and log.exists() else 0


def _tail(log: Path | None, *, start: int) -> list[str]:
    if log is None or not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(max(start, file.seek(0, os.SEEK_END) - TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return [line.strip() for line in lines if line.strip()]
