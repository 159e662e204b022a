"""The worker's end of the fork server: start it, hand it jobs, end it."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from durabert.supervisor.forkserver import interpreter_command, serve
from durabert.supervisor.protocol import Job, encoded

FRESH_INTERPRETER: Final = sys.platform == "darwin"
TUNABLES: Final = "GLIBC_TUNABLES"
HUGE_PAGES: Final = "glibc.malloc.hugetlb"
"""With 1, memory is asked for in pages of 2 MiB, with which a training of MiniLM takes 2 to 3 % less time on
two cores. The C library reads it once, when a program begins:
https://sourceware.org/glibc/manual/latest/html_node/Memory-Allocation-Tunables.html"""
SECONDS_TO_LEAVE: Final = 1.0
"""What a fork server has to end its children; one that is still importing does not hear that it should."""


@dataclass(frozen=True)
class Launched:
    """The parent's ends of a job's two connections; both are non-blocking."""

    line: socket.socket
    status: int
    server: subprocess.Popen[bytes]

    def kill_server(self) -> None:
        """End a fork server that does not answer, and on Linux with it every child of it."""
        self.server.kill()

    def close(self) -> None:
        """Hang up: a child that still lives ends."""
        self.line.close()
        os.close(self.status)


@dataclass
class _Connection:
    process: subprocess.Popen[bytes]
    requests: socket.socket
    has_jobs: bool = False
    """Whether it was ever asked for a child."""

    @classmethod
    def opened(cls) -> _Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            command = interpreter_command(
                serve, requests=theirs.fileno(), fresh_interpreter=FRESH_INTERPRETER
            )
            process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,
                env=with_huge_pages(os.environ),
                start_new_session=True,
            )
        return cls(process, ours)

    def send(self, spec: dict[str, Any], *descriptors: int) -> None:
        self.has_jobs = self.has_jobs or bool(descriptors)
        # A file takes a request of any size at once, even while the server is busy importing.
        with _unnamed_file() as file:
            file.write(encoded(spec))
            file.flush()
            socket.send_fds(self.requests, [b"!"], [file.fileno(), *descriptors])

    def close(self) -> None:
        self.requests.close()
        if self.has_jobs:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(SECONDS_TO_LEAVE)
        self.process.kill()
        self.process.wait()


def with_huge_pages(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with huge pages asked for, unless it says something of them itself."""
    told = environment.get(TUNABLES, "")
    if HUGE_PAGES in told:
        return dict(environment)
    return {**environment, TUNABLES: ":".join([*filter(None, [told]), f"{HUGE_PAGES}=1"])}


class Launcher:
    """Keeps at most one fork server, and starts another when it was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection: _Connection | None = None
        self._preload: list[str] = []

    def prepare(self, preload: Sequence[str]) -> None:
        """Start the fork server in the background with these modules imported; again is no change."""
        with self._lock:
            new = [module for module in preload if module not in self._preload]
            self._preload += new
            running = self._running()
            if running is None:
                self._start()
            elif new:
                running.send({"preload": new})

    def launch(self, job: Job) -> Launched:
        """Ask for a child for ``job``; returns at once."""
        ours, theirs = socket.socketpair()
        status_read, status_write = os.pipe()
        ours.setblocking(False)
        os.set_blocking(status_read, False)
        try:
            server = self._send(_spec(job), theirs.fileno(), status_write)
        except BaseException:
            ours.close()
            os.close(status_read)
            raise
        finally:
            theirs.close()
            os.close(status_write)
        return Launched(ours, status_read, server)

    def shut_down(self) -> None:
        """End the fork server and what runs in it; no process is left."""
        with self._lock:
            self._preload = []
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _send(self, spec: dict[str, Any], *descriptors: int) -> subprocess.Popen[bytes]:
        with self._lock:
            connection = self._running() or self._start()
            try:
                connection.send(spec, *descriptors)
            except (BrokenPipeError, ConnectionResetError):
                # It was killed a moment ago.
                connection = self._start()
                connection.send(spec, *descriptors)
        return connection.process

    def _running(self) -> _Connection | None:
        connection = self._connection
        return connection if connection is not None and connection.process.poll() is None else None

    def _start(self) -> _Connection:
        if self._connection is not None:
            self._connection.close()
        connection = self._connection = _Connection.opened()
        if self._preload:
            connection.send({"preload": self._preload})
        return connection


def _unnamed_file() -> IO[bytes]:
    # In memory where that can be had: the environment of a job may hold secrets.
    if sys.platform == "linux":
        return os.fdopen(os.memfd_create("job"), "w+b")
    return tempfile.TemporaryFile()


def _spec(job: Job) -> dict[str, Any]:
    return {
        **dataclasses.asdict(job),
        "log": None if job.log is None else str(job.log.absolute()),
        "environment": dict(os.environ),
        "directory": str(Path.cwd()),
        "path": sys.path,
    }


launcher: Final = Launcher()
atexit.register(launcher.shut_down)


def prepare(preload: Sequence[str]) -> None:
    """Start the fork server in the background with these modules imported; a second time changes nothing."""
    launcher.prepare(preload)


def shut_down() -> None:
    """End the fork server; no process is left."""
    launcher.shut_down()
