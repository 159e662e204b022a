"""What parent, fork server and child say to each other: JSON, one object a line.

Each job has two connections of its own:

- the line, a socket pair between parent and child. The child writes ``event``, ``done`` and ``failed``. The
  parent writes nothing: end-of-file on the line tells the child that the parent is gone.
- the status, a pipe from the fork server to the parent: ``pid`` once the child runs, then ``exit`` when it is
  reaped, or ``refused`` if no child was started. End-of-file without those means that the server is gone.

Neither is stdout, so what a library prints cannot disturb them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final


@dataclass(frozen=True)
class Job:
    """One function call in a child process.

    Attributes:
        entry: ``package.module:function``, called as ``function(request, channel)``; its result, like the
            request, is what JSON can hold.
        request: What JSON can hold.
        device: CUDA device numbers, joined by commas, all that the child gets to see; None leaves that as it
            is.
        log: The child's stdout and stderr are appended here; None sends them to the worker's stderr.
    """

    entry: str
    request: dict[str, Any]
    device: str | None = None
    log: Path | None = None


@dataclass(frozen=True)
class Event:
    """Something that a child reported: ``started`` with its pid, then whatever its function reports."""

    kind: str
    body: dict[str, Any]


STARTED: Final = "started"


def encoded(message: dict[str, Any]) -> bytes:
    """Return a message as one line."""
    return json.dumps(message).encode() + b"\n"


class Lines:
    """Messages out of a stream of bytes that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Add the next bytes and return the messages that they complete."""
        if b"\n" not in data:
            self._pieces.append(data)
            return []
        *lines, rest = b"".join([*self._pieces, data]).split(b"\n")
        self._pieces = [rest]
        return [json.loads(line) for line in lines]
