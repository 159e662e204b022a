"""The ports of an embedded server: those it is told, else those of the last time, else free ones."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from durabert.errors import EngineUnavailable

LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """The ports of one server."""

    grpc: int
    ui: int
    http: int


def check_free(port: int, option: str) -> None:
    """Refuse a port that a user asked for and that no server can have.

    Raises:
        EngineUnavailable: it is taken, privileged or no port at all.
    """
    if not 0 < port < 2**16:
        raise EngineUnavailable(f"{option} is {port}, but should be a port from 1 to 65535")
    try:
        _bound(port).close()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        problem = "is in use by another program" if taken else f"cannot be used ({error.strerror})"
        raise EngineUnavailable(f"port {port} {problem}; choose another one with {option}") from error


def choose(*, grpc: int | None, ui: int | None, last: Ports | None) -> Ports:
    """Return the ports to try.

    Args:
        grpc: the port to listen on; None for any.
        ui: the port of Temporal Web; None for any.
        last: preferred where they are free: links and clients of an earlier server then find the new one.
    """
    preferred = last or Ports(grpc=0, ui=0, http=0)
    return Ports(*_free([grpc or preferred.grpc, ui or preferred.ui, preferred.http]))


def _free(wishes: Sequence[int]) -> list[int]:
    # All are held at once, so that they differ.
    bound = [_bound_or_any(wish) for wish in wishes]
    ports = [each.getsockname()[1] for each in bound]
    for each in bound:
        each.close()
    return ports


def _bound_or_any(wish: int) -> socket.socket:
    try:
        return _bound(wish)
    except OSError:
        return _bound(0)


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the server does it: connections of an earlier server that linger are not in the way.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((LOCALHOST, port))
    except BaseException:
        bound.close()
        raise
    return bound
