"""How a command comes to an engine: it joins the one of its home directory, or starts it.

1. The command locks ``server.lease`` shared, and ``worker.lease`` if it needs the worker. From here on no host
   leaves that has not withdrawn ``engine.json`` already: to withdraw it takes the lease exclusively.
2. If ``host.lock`` is held and ``engine.json`` is there, it joins. If only the lock is held, an engine is on
   its way up or out; it waits.
3. If the lock is free, what ``engine.json`` says is stale, and is removed. The command takes the lock and hands
   it to the host that it starts, so that of two commands that come at once one starts and one joins.

So ``engine.json`` under a held ``host.lock`` is true. ``database.lock`` is held for as long as a server has
the database open: the server inherits it, so that a host that is killed cannot leave the file to two servers.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from durabert.engine.home import EngineInfo, Home, home_unusable
from durabert.engine.leases import Lease, is_held, try_lock, wait_for_lock
from durabert.engine.processes import keep_small, last_lines, size_of
from durabert.engine.server import HEALTHY_SECONDS, register
from durabert.engine.settings import WORKER_COMMAND, Settings
from durabert.engine.worker_process import DRAIN_SECONDS
from durabert.errors import DurabertError, EngineUnavailable

START_SECONDS: Final = DRAIN_SECONDS + HEALTHY_SECONDS + 15
"""Longest wait for an engine: the one before drains its worker, then the new server comes up."""
POLL_SECONDS: Final = 0.02


class Engine:
    """A command's hold on the engine of its home directory; the engine stays up until it is closed."""

    def __init__(self, home: Home, info: EngineInfo, leases: Sequence[Lease]) -> None:
        self.info = info
        self._home = home
        self._leases = leases

    @classmethod
    def attach(
        cls,
        home: Path,
        *,
        worker: bool,
        search_attributes: Mapping[str, str],
        port: int | None = None,
        ui_port: int | None = None,
        on_starting: Callable[[], None] | None = None,
        worker_command: Sequence[str] = WORKER_COMMAND,
    ) -> Engine:
        """Join the engine of a home directory, or start it; blocks until it answers.

        Args:
            home: whose engine; made if absent.
            worker: also keep a worker up for as long as this engine is not closed.
            search_attributes: name to type, ``{"DurabertExperiment": "Keyword"}``; missing ones are added.
            port: gRPC port to start with; None for any.
            ui_port: port of Temporal Web to start with; None for any.
            on_starting: called once if there is no engine yet and the wait will be noticed.
            worker_command: what the host runs as the worker, if this command starts the host.

        Raises:
            EngineUnavailable: there is none and none came up, or the one there has other ports.
            DependencyMissing: there is no Temporal CLI.
        """
        place = Home(home.absolute())
        place.create()
        settings = Settings(place, search_attributes, port, ui_port, worker_command)
        leases: list[Lease] = []
        try:
            leases += [_lease(path) for path in (place.server_lease, *([place.worker_lease] * worker))]
            info = _joined_or_started(settings, on_starting or _quietly)
            _check_ports(info, port, ui_port)
            register(address=info.address, http=info.http, search_attributes=search_attributes)
        except OSError as error:
            _release(leases)
            raise home_unusable(place.root, error) from error
        except BaseException:
            _release(leases)
            raise
        return cls(place, info, leases)

    def worker_state(self) -> str | None:
        """Say in one sentence what is wrong with the worker or the engine; None if all is well."""
        info = running(self._home.root)
        if info is None:
            return f"the engine of {self._home.root} has ended; its log is {self._home.engine_log}"
        return info.worker_failure

    def close(self) -> None:
        """Let go of the engine, which ends if no other command holds it; a second time does nothing."""
        _release(self._leases)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def running(home: Path) -> EngineInfo | None:
    """Return the engine that is up for a home directory, without a hold on it."""
    place = Home(home.absolute())
    try:
        return place.read_info() if is_held(place.host_lock) else None
    except OSError as error:
        raise home_unusable(place.root, error) from error


async def serve(
    home: Path,
    *,
    search_attributes: Mapping[str, str],
    on_ready: Callable[[EngineInfo], None],
    port: int | None = None,
    ui_port: int | None = None,
    on_starting: Callable[[], None] | None = None,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> None:
    """Keep engine and worker up until SIGINT or SIGTERM; ``Engine.attach`` says what is raised."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        engine = await asyncio.to_thread(
            Engine.attach,
            home,
            worker=True,
            search_attributes=search_attributes,
            port=port,
            ui_port=ui_port,
            on_starting=on_starting,
            worker_command=worker_command,
        )
        with engine:
            on_ready(engine.info)
            await stop.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _quietly() -> None:
    """Say nothing."""


def _release(leases: Sequence[Lease]) -> None:
    for lease in leases:
        lease.close()


def _lease(path: Path) -> Lease:
    # A host holds it exclusively for moments only.
    lease = wait_for_lock(path, shared=True, seconds=START_SECONDS)
    if lease is None:
        raise EngineUnavailable(f"another process keeps {path} locked; stop it first")
    return lease


def _joined_or_started(settings: Settings, on_starting: Callable[[], None]) -> EngineInfo:
    home = settings.home
    info = running(home.root)
    if info is not None:
        return info
    on_starting()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not _vacant(home):
            if (info := home.read_info()) is not None:
                return info
        elif (lock := try_lock(home.host_lock)) is not None:
            with lock:
                if not home.info_file.exists():
                    _start_host(settings, lock)
            continue
        time.sleep(POLL_SECONDS)
    raise EngineUnavailable(f"the engine of {home.root} neither starts nor ends; see {home.engine_log}")


def _vacant(home: Home) -> bool:
    shared = try_lock(home.host_lock, shared=True)
    if shared is None:
        return False
    with shared:
        # While this is held there is no host that could have written it.
        home.info_file.unlink(missing_ok=True)
    return True


def _start_host(settings: Settings, lock: Lease) -> None:
    home = settings.home
    keep_small(home.engine_log)
    since = size_of(home.engine_log)
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb", buffering=0) as reports, open(write_fd, "wb", buffering=0) as reporter:
        fds = ["--report-fd", str(write_fd), "--lock-fd", str(lock.fd)]
        with home.engine_log.open("ab") as log:
            subprocess.run(
                [sys.executable, "-P", "-m", "durabert.engine.host", *fds, "--settings", settings.as_json()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=home.root,
                # Ctrl-C in the terminal of this command is not meant for an engine that others share.
                start_new_session=True,
                pass_fds=[write_fd, lock.fd],
                check=False,
            )
        # A copy of its own would keep this command from seeing the end of a host that dies.
        reporter.close()
        outcome = _read_report(reports.fileno())
    if outcome is None:
        printed = last_lines(home.engine_log, since=since)
        raise EngineUnavailable(f"the engine of {home.root} did not come up: {printed}")
    if outcome:
        raise DurabertError.restored(outcome["error"], outcome["message"])


def _read_report(reports: int) -> dict[str, str] | None:
    deadline = time.monotonic() + START_SECONDS
    received = b""
    while not received.endswith(b"\n"):
        ready, _, _ = select.select([reports], [], [], max(0.0, deadline - time.monotonic()))
        chunk = os.read(reports, 65_536) if ready else b""
        if not chunk:
            return None
        received += chunk
    outcome: dict[str, str] = json.loads(received)
    return outcome


def _check_ports(info: EngineInfo, port: int | None, ui_port: int | None) -> None:
    for told, there, option in ((port, info.port, "--port"), (ui_port, info.ui_port, "--ui-port")):
        if told is not None and told != there:
            raise EngineUnavailable(
                f"the engine is already up on port {there}, not on {told}; leave {option} out to join it"
            )
