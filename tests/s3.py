"""A real S3 server on a free port, and a proxy in front of it that breaks what a test wants broken."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, Self

RCLONE = Path(sys.executable).parent / "rclone"
BUCKET = "bucket"
KEY_ID, SECRET = "AKIAEXAMPLE", "secretexample"
START_LIMIT_SECONDS = 30

Mode = Literal["ok", "errors", "slow", "refusing", "losing"]


class S3Server:
    """``rclone serve s3`` over a directory; stops and comes back on the same port.

    It ignores ``If-None-Match``, as older servers do.
    """

    def __init__(self, directory: Path) -> None:
        (directory / BUCKET).mkdir(parents=True, exist_ok=True)
        self.directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        log = self.directory.with_name(f"{self.directory.name}.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [RCLONE, "serve", "s3", "--auth-key", f"{KEY_ID},{SECRET}",
                 "--addr", f"127.0.0.1:{self.port}", self.directory],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        _wait_until_open(self.port, self._process)
        return self

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def environment(self, port: int | None = None) -> dict[str, str]:
        """Return what makes durabert use this server, or a proxy on another port."""
        return {
            "AWS_ACCESS_KEY_ID": KEY_ID,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port or self.port}",
            "AWS_REGION": "us-east-1",
            "DURABERT_STORE": f"s3://{BUCKET}/store",
        }

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class FaultProxy:
    """Passes connections on to a port; ``mode`` says how it fails from now on.

    ``errors``: every request is answered with 500. ``slow``: ``delay`` seconds before each answer.
    ``refusing``: connections are closed at once, those that are open, too. ``losing``: what is written is
    written, and the answer never comes.
    """

    def __init__(self, target: int, *, delay: float = 0.2) -> None:
        self.target = target
        self.delay = delay
        self.num_requests = 0
        self._mode: Mode = "ok"
        self._open: set[socket.socket] = set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def mode(self) -> Mode:
        return self._mode

    @mode.setter
    def mode(self, mode: Mode) -> None:
        self._mode = mode
        # A client keeps its connections; the next request shall meet the new mode.
        for connection in list(self._open):
            _close(connection)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        _close(self._listener)
        self.mode = "refusing"

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client, self._mode), daemon=True).start()

    def _serve(self, client: socket.socket, mode: Mode) -> None:
        self._open.add(client)
        try:
            if mode in {"errors", "refusing"}:
                self.num_requests += 1
            if mode == "errors":
                client.recv(65536)
                client.sendall(
                    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
                )
            elif mode != "refusing":
                self._pass_on(client, mode)
        except OSError:
            return
        finally:
            self._open.discard(client)
            _close(client)

    def _pass_on(self, client: socket.socket, mode: Mode) -> None:
        delay = self.delay if mode == "slow" else 0.0
        is_write = threading.Event()

        def look(data: bytes) -> None:
            # A connection carries many requests, each with its first line at the beginning of a piece.
            if data.startswith((b"GET ", b"HEAD ", b"PUT ", b"POST ", b"DELETE ")):
                self.num_requests += 1
            if data.startswith(b"PUT "):
                is_write.set()

        with socket.create_connection(("127.0.0.1", self.target)) as server:
            self._open.add(server)
            there = threading.Thread(target=_copy, args=(client, server, 0.0, look), daemon=True)
            there.start()
            _copy(server, client, delay, lost=is_write if mode == "losing" else None)
            there.join()
            self._open.discard(server)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _copy(
    source: socket.socket,
    target: socket.socket,
    delay: float,
    look: Callable[[bytes], None] = lambda _: None,
    *,
    lost: threading.Event | None = None,
) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            look(data)
            if lost is not None and lost.is_set():
                break
            if delay:
                time.sleep(delay)
            target.sendall(data)
    # Whichever end has gone, the other one shall know.
    _close(source)
    _close(target)


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def _wait_until_open(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_LIMIT_SECONDS
    while True:
        assert process.poll() is None, "rclone has ended"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        assert time.monotonic() < deadline, "rclone does not listen"
        time.sleep(0.02)
