"""The agent's ends of the lines to its ranks, read by a thread beside the launcher."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import threading
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from durabert.errors import DurabertError
from durabert.supervisor import Channel
from durabert.supervisor.protocol import Lines

RECEIVE_BYTES: Final = 262_144
LOOK_SECONDS: Final = 0.1
"""How often it is looked whether the worker wants the job to stop."""


@dataclass
class _Line:
    connection: socket.socket
    messages: Lines = field(default_factory=Lines)
    rank: int | None = None
    pid: int | None = None
    ended: bool = False
    """Whether the rank has said that it finished, or why not."""


class RankLines:
    """Passes reports of rank 0 on to the worker, and what the worker wants to rank 0; ends ranks together."""

    def __init__(self, path: Path, channel: Channel) -> None:
        self._channel = channel
        self._lines: list[_Line] = []
        self._failures: dict[int, DurabertError] = {}
        self._broken = False
        self._stop_passed_on = False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._waking, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="ranks", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._waking.send(b"!")
        self._thread.join()
        self._hang_up(but=None)
        for connection in (self._listener, self._waking, self._woken):
            connection.close()

    def failure(self) -> DurabertError | None:
        """Return what the ranks say has ended the job, rank 0 first; None if none had the time to say it."""
        return next((self._failures[rank] for rank in sorted(self._failures)), None)

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._woken, selectors.EVENT_READ)
            selector.register(self._listener, selectors.EVENT_READ)
            while True:
                ready = {key.fileobj: key.data for key, _ in selector.select(LOOK_SECONDS)}
                if self._listener in ready:
                    line = _Line(self._listener.accept()[0])
                    self._lines.append(line)
                    selector.register(line.connection, selectors.EVENT_READ, line)
                for line in filter(None, ready.values()):
                    if not self._read(line):
                        selector.unregister(line.connection)
                self._pass_stop_on()
                if self._woken in ready:
                    return

    def _read(self, line: _Line) -> bool:
        """Take what has arrived on a line, and return whether more may come."""
        try:
            data = line.connection.recv(RECEIVE_BYTES)
        except ConnectionError:
            data = b""
        for message in line.messages.feed(data):
            self._take(line, message)
        if not data and not line.ended:
            # It died. The launcher knows of what; the others would wait for it.
            self._end(line)
        return bool(data)

    def _take(self, line: _Line, message: dict[str, Any]) -> None:
        if "pid" in message:
            line.rank, line.pid = message["rank"], message["pid"]
        elif "event" in message:
            self._channel.send(message)
        elif "failed" in message:
            assert line.rank is not None
            self._failures[line.rank] = DurabertError.restored(message["failed"], message["message"])
            self._end(line)
        else:
            line.ended = True

    def _pass_stop_on(self) -> None:
        if self._stop_passed_on or not self._channel.stop_requested():
            return
        for line in self._lines:
            if line.rank == 0 and line.pid is not None and not line.ended:
                self._stop_passed_on = True
                with contextlib.suppress(ProcessLookupError):
                    os.kill(line.pid, signal.SIGTERM)

    def _end(self, line: _Line) -> None:
        line.ended = True
        if not self._broken:
            # The first one that broke goes by itself: by its exit the launcher learns of it.
            self._broken = True
            self._hang_up(but=line)

    def _hang_up(self, *, but: _Line | None) -> None:
        for line in self._lines:
            if line is not but:
                # Not closed: a rank that was forked later holds a copy. It may be gone.
                with contextlib.suppress(OSError):
                    line.connection.shutdown(socket.SHUT_RDWR)
