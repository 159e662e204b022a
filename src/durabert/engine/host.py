"""The host process, ``python -m durabert.engine.host``: runs server and worker until nobody needs them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import json
import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Final

from durabert.engine.home import EngineInfo, home_unusable
from durabert.engine.leases import Lease, is_held, try_lock
from durabert.engine.server import Server
from durabert.engine.settings import Settings
from durabert.engine.worker_process import WorkerProcess
from durabert.errors import DurabertError, EngineUnavailable
from durabert.version import __version__

POLL_SECONDS: Final = 0.25
CALM_POLL_SECONDS: Final = 1.0
"""While the worker that is wanted is there, and what it trains needs the processor more than this does."""
STEADY_POLL_SECONDS: Final = 30.0
"""Once it has been there for long. The end of a child wakes the host, as does a command that lets go of it;
only that a command was killed is noticed so late."""
LINGER_SECONDS: Final = 0.5
"""Between the last lease and leaving, so that the commands of a script share one engine."""
MAX_SERVER_RESTARTS: Final = 3
SERVER_STEADY_SECONDS: Final = 60.0

logger = logging.getLogger(__name__)


class Host:
    """One life of an engine, under ``host.lock``, which it is given."""

    def __init__(self, settings: Settings, lock: Lease) -> None:
        self._settings = settings
        self._home = settings.home
        self._lock = lock
        self._started = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
        self._server: Server
        self._worker: WorkerProcess
        self._server_since = 0.0
        self._num_restarts = 0
        self._written: EngineInfo | None = None
        self._stop_requested = False

    def run(self, on_ready: Callable[[], None]) -> None:
        """Start the server, say so, and serve until no command holds a lease or a signal says stop.

        Raises:
            EngineUnavailable: the server did not come up; nothing is left behind.
        """
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._request_stop)
        # Unwound from the last to the first, whatever fails on the way: nobody comes while worker and server
        # go, and no other host while they are there.
        with contextlib.ExitStack() as ending:
            ending.enter_context(self._lock)
            ending.callback(logger.info, "engine ended")
            signals = ending.enter_context(_signals())
            self._server = self._start_server(self._settings)
            ending.callback(self._stop_server)
            self._worker = WorkerProcess(
                self._home, self._settings.worker_command, address=self._server.address
            )
            ending.callback(self._worker.stop)
            ending.callback(self._home.info_file.unlink, missing_ok=True)
            self._publish()
            on_ready()
            self._serve(signals)

    def _request_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop_requested = True

    def _start_server(self, settings: Settings) -> Server:
        server = Server.start(settings)
        self._server_since = time.monotonic()
        logger.info("server %d started at %s, %s", server.process.pid, server.address, server.ui)
        return server

    def _stop_server(self) -> None:
        # The one that is there by then.
        self._server.stop()

    def _publish(self) -> None:
        info = EngineInfo(
            address=self._server.address,
            ui=self._server.ui,
            http=self._server.http_address,
            host_pid=os.getpid(),
            server_pid=self._server.process.pid,
            worker_pid=self._worker.pid,
            worker_failure=self._worker.failure,
            version=__version__,
            started=self._started,
        )
        if info != self._written:
            self._home.write_info(info)
            self._written = info

    def _serve(self, signals: socket.socket) -> None:
        needed_at, was_needed = time.monotonic(), False
        while not self._stop_requested:
            is_needed = is_held(self._home.server_lease, shared=True)
            if is_needed or was_needed:
                needed_at, was_needed = time.monotonic(), is_needed
            elif time.monotonic() - needed_at > LINGER_SECONDS and self._withdrawn():
                return
            if self._server.process.poll() is not None:
                self._restart_server()
            wanted = is_held(self._home.worker_lease, shared=True)
            self._worker.tend(wanted=wanted)
            self._publish_if_possible()
            if select.select([signals], [], [], self._pause(wanted=wanted))[0]:
                signals.recv(4096)

    def _pause(self, *, wanted: bool) -> float:
        if not wanted or self._worker.pid is None:
            return POLL_SECONDS
        return STEADY_POLL_SECONDS if self._worker.is_steady else CALM_POLL_SECONDS

    def _withdrawn(self) -> bool:
        # Commands lock their lease before they read engine.json: either one is in the way here, or it will
        # find the file gone.
        exclusive = try_lock(self._home.server_lease)
        if exclusive is None:
            return False
        with exclusive:
            self._home.info_file.unlink(missing_ok=True)
        return True

    def _restart_server(self) -> None:
        # At the same address: clients and worker reconnect by themselves.
        if time.monotonic() - self._server_since > SERVER_STEADY_SECONDS:
            self._num_restarts = 0
        self._num_restarts += 1
        logger.warning("the server ended with code %s", self._server.process.returncode)
        if self._num_restarts > MAX_SERVER_RESTARTS:
            raise EngineUnavailable(f"the Temporal server died {self._num_restarts} times in a row")
        dead = self._server
        dead.stop()
        told = dataclasses.replace(self._settings, port=dead.ports.grpc, ui_port=dead.ports.ui)
        self._server = self._start_server(told)

    def _publish_if_possible(self) -> None:
        try:
            self._publish()
        except OSError as error:
            # A full disk is no reason to end the runs that do not need it.
            logger.warning("engine.json is out of date: %s", error)


@contextlib.contextmanager
def _signals() -> Iterator[socket.socket]:
    """Give a socket on which a byte arrives with each handled signal; a child's end is one."""
    heard, told = socket.socketpair()
    with heard, told:
        told.setblocking(False)
        before = signal.set_wakeup_fd(told.fileno(), warn_on_full_buffer=False)
        of_child = signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        try:
            yield heard
        finally:
            signal.signal(signal.SIGCHLD, of_child)
            signal.set_wakeup_fd(before)


def main(arguments: Sequence[str] | None = None) -> None:
    """Leave the command that started this process behind, then run a host.

    Args:
        arguments: ``--settings`` as from ``Settings.as_json``; ``--report-fd``, where to write how the
            start went; ``--lock-fd``, the locked ``host.lock``.
    """
    parser = argparse.ArgumentParser(prog="python -m durabert.engine.host")
    parser.add_argument("--settings", type=Settings.parse, required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--lock-fd", type=int, required=True)
    options = parser.parse_args(arguments)
    if os.fork():
        # The command waits for this process only; whoever adopts the host reaps it.
        os._exit(0)
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr, format=f"%(asctime)s host {os.getpid()}: %(message)s"
    )
    for fd in (options.report_fd, options.lock_fd):
        os.set_inheritable(fd, False)
    try:
        Host(options.settings, Lease(options.lock_fd)).run(lambda: _report(options.report_fd, {}))
    except DurabertError as error:
        _fail(options.report_fd, error)
    except OSError as error:
        _fail(options.report_fd, home_unusable(options.settings.home.root, error))


def _fail(report_fd: int, error: DurabertError) -> None:
    logger.error("%s", error)
    _report(report_fd, {"error": type(error).__name__, "message": str(error)})
    sys.exit(1)


def _report(fd: int, outcome: dict[str, str]) -> None:
    try:
        os.write(fd, json.dumps(outcome).encode() + b"\n")
        os.close(fd)
    except OSError as error:
        # The command that started this host is gone, or was told already.
        logger.info("nobody to report to: %s", error)


if __name__ == "__main__":
    main()
