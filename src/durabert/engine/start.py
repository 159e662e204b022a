"""How a command comes to an engine: it joins the one of its home directory, or starts it.

1. The command locks ``server.lease`` shared, and ``worker.lease`` if it needs the worker. From here on, no
   host leaves that has not withdrawn ``engine.json`` already: to withdraw, it takes the lease exclusively.
2. If ``host.lock`` is held and the server of ``engine.json`` answers, it joins. If only the lock is held, an
   engine is on its way up or out; it waits.
3. If the lock is free, ``engine.json`` is stale and is removed. The command takes the lock and hands it to
   the host that it starts, so that of two commands that come at once one starts and the other joins.

So ``engine.json`` under a held ``host.lock`` is true. ``database.lock`` is held for as long as a server has
the database open: the server inherits it, so that a host that is killed cannot leave the file to two servers.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from durabert.engine.api import answers
from durabert.engine.home import EngineInfo, Home, home_unusable
from durabert.engine.leases import Lease, is_held, try_lock
from durabert.engine.processes import keep_small, last_lines, size_of
from durabert.engine.server import HEALTHY_SECONDS
from durabert.engine.settings import Settings
from durabert.engine.worker_process import DRAIN_SECONDS
from durabert.errors import DurabertError, EngineUnavailable

START_SECONDS: Final = DRAIN_SECONDS + HEALTHY_SECONDS + 15
"""Longest wait for an engine: the one before drains its worker, then the new server comes up."""
POLL_SECONDS: Final = 0.02


def running(home: Path) -> EngineInfo | None:
    """Return the engine that is up for a home directory, without a hold on it."""
    place = Home(home.absolute())
    try:
        return place.read_info() if is_held(place.host_lock) else None
    except OSError as error:
        raise home_unusable(place.root, error) from error


def join_or_start(settings: Settings, on_starting: Callable[[], None]) -> EngineInfo:
    """Return the engine of a home directory once it answers; the caller holds the lease already.

    Raises:
        EngineUnavailable: there is none and none came up.
        DependencyMissing: there is no Temporal CLI.
    """
    home = settings.home
    if (info := _answering(running(home.root))) is not None:
        return info
    on_starting()
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if not _vacant(home):
            if (info := _answering(home.read_info())) is not None:
                return info
        elif (lock := try_lock(home.host_lock)) is not None:
            with lock:
                if not home.info_file.exists():
                    _start_host(settings, lock)
            continue
        time.sleep(POLL_SECONDS)
    raise EngineUnavailable(f"the engine of {home.root} neither starts nor ends; see {home.engine_log}")


def _answering(info: EngineInfo | None) -> EngineInfo | None:
    # A host puts a new server in place of one that died; that takes a moment.
    return info if info is not None and answers(info.http) else None


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
    with os.fdopen(read_fd, "rb", buffering=0) as reports, os.fdopen(write_fd, "wb", buffering=0) as reporter:
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
