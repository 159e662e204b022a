"""The child's side: take the surroundings of the job, call its function, tell how it ended."""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import io
import json
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from durabert.errors import DurabertError
from durabert.supervisor.failure import classified
from durabert.supervisor.protocol import STARTED, encoded


class Channel:
    """What a job's function has of its parent: it can report, and it can ask whether it shall stop.

    Args:
        line: to the parent.
        hang_up: ends the process when nobody is left at the other end.
    """

    def __init__(self, line: socket.socket, *, hang_up: Callable[[], NoReturn] | None = None) -> None:
        self._line = line
        self._hang_up = hang_up or end_now
        self._lock = threading.Lock()
        self._stop = False

    def report(self, kind: str, body: dict[str, Any]) -> None:
        """Send one event to the parent; safe from any thread. Without a parent the process ends here."""
        self.send({"event": kind, "body": body})

    def stop_requested(self) -> bool:
        """Return whether the process was asked (SIGTERM) to leave at the next good moment."""
        return self._stop

    def send(self, message: dict[str, Any]) -> None:
        """Send one message of the protocol."""
        data = encoded(message)
        with self._lock:
            try:
                self._line.sendall(data)
            except OSError:
                self._hang_up()

    def obey_signals(self) -> None:
        """Note SIGTERM, and leave Ctrl-C, which reaches the whole terminal, to the parent."""
        signal.signal(signal.SIGTERM, self._note_stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _release_sigterm()

    def follow_parent(self) -> None:
        """End this process when the parent is gone, whatever it does at that moment."""
        os.register_at_fork(
            before=_hold_sigterm, after_in_parent=_release_sigterm, after_in_child=self._let_go_of_fork
        )
        threading.Thread(target=self._wait_for_end_of_parent, name="lifeline", daemon=True).start()

    def _note_stop(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _let_go_of_fork(self) -> None:
        # A process that the job forks has no part in the line, and ends by SIGTERM as others do.
        self._line.close()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _release_sigterm()

    def _wait_for_end_of_parent(self) -> None:
        with contextlib.suppress(ConnectionError):
            self._line.recv(1)
        self._hang_up()


def _hold_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})


def _release_sigterm() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})


def end_now() -> NoReturn:
    """End this process and those it started, without a word: nobody listens any more."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def live(line_fd: int, spec_fd: int) -> NoReturn:
    """Be the process of one job, to its end."""
    channel = Channel(socket.socket(fileno=line_fd))
    channel.obey_signals()
    channel.follow_parent()
    try:
        spec = read_spec(spec_fd)
        _take_surroundings(spec)
        channel.report(STARTED, {"pid": os.getpid()})
        channel.send({"done": _function(spec["entry"])(spec["request"], channel)})
    except BaseException as error:
        # Whatever it is, it is the end of this process.
        tell_failure(error, channel)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # Neither the exit handlers of the fork server nor threads that a library left behind hold the process up.
    os._exit(0)


def tell_failure(error: BaseException, channel: Channel) -> None:
    """Tell the parent what ended the job."""
    failure = classified(error)
    stopped = channel.stop_requested()
    channel.send({"failed": type(failure).__name__, "message": str(failure), "stopped": stopped})
    if not isinstance(error, DurabertError):
        # The disk that the log is on may be full, which may be what the error says.
        with contextlib.suppress(OSError):
            traceback.print_exception(error)


def read_spec(descriptor: int) -> dict[str, Any]:
    """Read what the parent wrote into the file, and close it."""
    with os.fdopen(descriptor, "rb") as file:
        file.seek(0)
        spec: dict[str, Any] = json.load(file)
    return spec


def _take_surroundings(spec: dict[str, Any]) -> None:
    os.environ.clear()
    os.environ.update(spec["environment"])
    if spec["device"] is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = spec["device"]
    os.chdir(spec["directory"])
    sys.path[:] = spec["path"]
    if spec["log"] is not None:
        _write_to(Path(spec["log"]))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True)
    faulthandler.enable()


def _write_to(log: Path) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


def _function(entry: str) -> Any:
    module, _, name = entry.partition(":")
    return getattr(importlib.import_module(module), name)
