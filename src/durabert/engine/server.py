"""One ``temporal server start-dev`` on the database of a home directory."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Final

from durabert.engine.api import answers, keep_finished_runs
from durabert.engine.binary import server_binary
from durabert.engine.home import Home
from durabert.engine.leases import Lease, wait_for_lock
from durabert.engine.ports import LOCALHOST, Ports, check_free, choose
from durabert.engine.processes import (
    appended,
    command_of,
    how_it_ended,
    last_lines,
    only_local,
    size_of,
    spawn,
)
from durabert.engine.settings import Settings
from durabert.errors import EngineUnavailable

HEALTHY_SECONDS: Final = 20.0
"""Longest wait for the server to answer; it needs about one second on a new database."""
LEFTOVER_SECONDS: Final = 1.0
"""How long a server whose host was killed may take to die before it is looked for and killed."""
POLL_SECONDS: Final = 0.02
PORT_ATTEMPTS: Final = 5
ENVIRONMENT: Final = {
    "GOMAXPROCS": "1",
    "GOGC": "off",
    "GOMEMLIMIT": "512MiB",
    "GODEBUG": "gcshrinkstackoff=1",
}
"""One thread of Go at a time: more of them wake each other up for what one would have done. Garbage is
collected when memory becomes so large, not every two minutes whatever it is:
https://go.dev/doc/gc-guide#Memory_limit. Stacks stay as large as they have become: made smaller, they would
have to grow again."""
DYNAMIC_CONFIG: Final = {
    "matching.numTaskqueueReadPartitions": "1",
    "matching.numTaskqueueWritePartitions": "1",
    "matching.ephemeralDataUpdateInterval": '"10m"',
    "matching.updateAckInterval": '"10m"',
    "matching.longPollExpirationInterval": '"140s"',
    "matching.backlogMetricsEmitInterval": '"10m"',
    "matching.nexusEndpointsRefreshInterval": '"10m"',
    "history.enableReplicationStream": "false",
    "history.timerProcessorUpdateAckInterval": '"10m"',
    "history.transferProcessorUpdateAckInterval": '"10m"',
    "history.visibilityProcessorUpdateAckInterval": '"10m"',
    "history.ReplicationTaskProcessorCleanupInterval": '"60m"',
    "matching.getUserDataRefresh": '"60m"',
    "metrics.breakdownByTaskQueue": "false",
    "system.clusterMetadataRefreshInterval": '"10m"',
    "system.namespaceCacheRefreshInterval": '"60s"',
    "worker.ScannerMaxConcurrentActivityTaskPollers": "1",
    "worker.ScannerMaxConcurrentWorkflowTaskPollers": "2",
    "worker.ParentCloseMaxConcurrentActivityTaskPollers": "1",
    "worker.ParentCloseMaxConcurrentWorkflowTaskPollers": "2",
    "system.deadlock.Interval": '"10m"',
}
"""As JSON: one home has few workers and one namespace, and models train on the cores that its server runs on.

How far its queues are is noted for a crash, after which what came later is done again, to no effect.
It looks at all that it measures each second, so it measures less. Its own workers, which have something to do
every few hours, ask with few polls for it, and it looks for deadlocks every ten minutes.
Polls end just before those of the server's own workers would, which wait for 150 s; ours wait for 70 s.
"""


class Server:
    """A server process, and the database that it alone has open."""

    def __init__(self, process: subprocess.Popen[bytes], ports: Ports, database: Lease) -> None:
        self.process = process
        self.ports = ports
        self._database = database

    @classmethod
    def start(cls, settings: Settings) -> Server:
        """Start a server and return it when it answers.

        Raises:
            EngineUnavailable: it did not come up; no process is left.
            DependencyMissing: there is no Temporal CLI.
        """
        binary = server_binary()
        for told, option in ((settings.port, "--port"), (settings.ui_port, "--ui-port")):
            if told is not None:
                check_free(told, option)
        database = _lock_database(settings.home)
        try:
            server = _up_on_free_ports(binary, settings, database)
        except BaseException:
            database.close()
            raise
        try:
            if keep_finished_runs(server.http_address):
                # Its services would know it only later, and drop after a day what ends before.
                server.kill()
                server = _up_on_free_ports(binary, settings, database)
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def address(self) -> str:
        """Where clients connect to."""
        return f"{LOCALHOST}:{self.ports.grpc}"

    @property
    def http_address(self) -> str:
        """Where the HTTP API is."""
        return f"{LOCALHOST}:{self.ports.http}"

    @property
    def ui(self) -> str:
        """Where a browser goes."""
        return f"http://{LOCALHOST}:{self.ports.ui}"

    def stop(self) -> None:
        """Kill the server and let go of the database.

        No client is left by now, and every answer that one got is committed in SQLite. SIGTERM would spend
        two seconds on closing the server's connections to itself, and the next command would wait for that.
        """
        self.kill()
        self._database.close()

    def kill(self) -> None:
        """Kill the process and keep the database."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def wait_until_healthy(self) -> str | None:
        """Return None as soon as it answers; if it does not, say how it failed."""
        deadline = time.monotonic() + HEALTHY_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                return how_it_ended(self.process.returncode)
            if self._answers():
                return None
            time.sleep(POLL_SECONDS)
        return f"no answer within {HEALTHY_SECONDS:.0f} s"

    def _answers(self) -> bool:
        try:
            socket.create_connection((LOCALHOST, self.ports.grpc), timeout=1).close()
        except OSError:
            return False
        return answers(self.http_address)


def _up_on_free_ports(binary: str, settings: Settings, database: Lease) -> Server:
    home = settings.home
    last = _last_ports(_last_server(home))
    problem = ""
    for _ in range(PORT_ATTEMPTS):
        ports = choose(grpc=settings.port, ui=settings.ui_port, last=last)
        since = size_of(home.server_log)
        try:
            process = spawn(
                _command(binary, home, ports, settings.search_attributes),
                log=home.server_log,
                env={**ENVIRONMENT, **only_local(os.environ)},
                cwd=home.root,
                pass_fds=[database.fd],
            )
        except OSError as error:
            raise EngineUnavailable(f"the Temporal server {binary} cannot be started: {error}") from error
        server = Server(process, ports, database)
        _remember(server, database)
        failure = server.wait_until_healthy()
        # Before any service of it answers, all of them have asked for their ports: one that did not get its
        # own panics soon after, and the server with it. Not in its last lines, for it prints stack by stack.
        port_taken = "address already in use" in appended(home.server_log, since=since)
        if failure is None and not port_taken:
            return server
        server.kill()
        problem = f"{failure or 'a port is missing'}: {last_lines(home.server_log, since=since)}"
        if not port_taken:
            break
        # Somebody was faster.
        last = None
    raise EngineUnavailable(f"the Temporal server of {home.root} did not come up ({binary}), {problem}")


def _command(binary: str, home: Home, ports: Ports, search_attributes: Mapping[str, str]) -> list[str]:
    return [
        *(binary, "server", "start-dev"),
        *("--ip", LOCALHOST, "--port", str(ports.grpc), "--http-port", str(ports.http)),
        *("--ui-port", str(ports.ui)),
        *(f"--dynamic-config-value={name}={value}" for name, value in DYNAMIC_CONFIG.items()),
        # Each heartbeat is a transaction; to remove its journal would be one more write to wait for.
        *("--sqlite-pragma", "journal_mode=persist"),
        *("--db-filename", str(home.database), "--log-format", "json", "--log-level", "warn"),
        *(f"--search-attribute={name}={kind}" for name, kind in search_attributes.items()),
    ]


def _lock_database(home: Home) -> Lease:
    lease = wait_for_lock(home.database_lock, seconds=LEFTOVER_SECONDS)
    if lease is None:
        # Only where the kernel does not kill a server together with its host: macOS. The process id alone
        # could be anybody's by now; the path of this database on its command line is no coincidence.
        pid = _last_server(home).get("pid", 0)
        if pid and str(home.database) in command_of(pid):
            os.kill(pid, signal.SIGKILL)
        lease = wait_for_lock(home.database_lock, seconds=LEFTOVER_SECONDS)
    if lease is None:
        raise EngineUnavailable(f"another process still has the database {home.database} open; stop it first")
    return lease


def _remember(server: Server, database: Lease) -> None:
    record = {"pid": server.process.pid, **dataclasses.asdict(server.ports)}
    os.ftruncate(database.fd, 0)
    os.pwrite(database.fd, json.dumps(record).encode(), 0)


def _last_server(home: Home) -> dict[str, Any]:
    try:
        record = json.loads(home.database_lock.read_bytes())
    except ValueError:
        # Empty before the first server, torn if the machine went down.
        return {}
    return record if isinstance(record, dict) else {}


def _last_ports(record: Mapping[str, Any]) -> Ports | None:
    try:
        return Ports(grpc=record["grpc"], ui=record["ui"], http=record["http"])
    except KeyError:
        return None
