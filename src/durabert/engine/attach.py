"""A command's hold on the engine of its home directory."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from durabert.engine.api import register
from durabert.engine.home import EngineInfo, Home, home_unusable
from durabert.engine.leases import Lease, is_held, wait_for_lock
from durabert.engine.settings import WORKER_COMMAND, Settings
from durabert.engine.start import START_SECONDS, join_or_start, running
from durabert.errors import EngineUnavailable

WAKE_HOST: Final = signal.SIGCHLD
"""Has a host look at leases; one of another version ignores it, and so does whatever has its pid now."""
REVIVAL_SECONDS: Final = 2.0
"""How often ``serve`` looks whether the engine is still there."""


class Engine:
    """A hold on a running engine, which stays up until the last hold on it is closed."""

    def __init__(self, settings: Settings, info: EngineInfo, leases: contextlib.ExitStack) -> None:
        self.info = info
        self._settings = settings
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
            port: gRPC port to start with; None for the one of the last time, else any.
            ui_port: port of Temporal Web to start with; None as above.
            on_starting: called once if there is no engine yet and the wait will be noticed.
            worker_command: what the host runs as the worker, if this command starts the host.

        Raises:
            EngineUnavailable: there is none and none came up, or the one there has other ports.
            DependencyMissing: there is no Temporal CLI.
        """
        place = Home(home.absolute())
        place.create()
        settings = Settings(place, search_attributes, port, ui_port, worker_command)
        wanted = [place.server_lease, place.worker_lease] if worker else [place.server_lease]
        try:
            with contextlib.ExitStack() as leases:
                for path in wanted:
                    leases.enter_context(_lease(path))
                info = join_or_start(settings, on_starting or _say_nothing)
                _check_ports(info, port, ui_port)
                register(search_attributes, address=info.address, http_address=info.http)
                return cls(settings, info, leases.pop_all())
        except OSError as error:
            raise home_unusable(place.root, error) from error

    def worker_state(self) -> str | None:
        """Say in one sentence what is wrong with the worker or the engine; None if all is well."""
        home = self._settings.home
        info = running(home.root)
        if info is None:
            return f"the engine of {home.root} has ended; its log is {home.engine_log}"
        return info.worker_failure

    def revive(self) -> EngineInfo:
        """Start the engine again if its host was killed, at the same address if that is still free.

        Raises:
            EngineUnavailable: it did not come up.
        """
        self.info = join_or_start(self._settings, _say_nothing)
        return self.info

    def close(self) -> None:
        """Let go of the engine, which ends if no other command holds it; a second time does nothing."""
        self._leases.close()
        _wake_host(self._settings.home)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
    # The host imports this module and has no use for it.
    import asyncio

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
            while not stop.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), REVIVAL_SECONDS)
                    break
                await asyncio.to_thread(engine.revive)
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


def _wake_host(home: Home) -> None:
    # If it cannot be woken, it looks by itself.
    with contextlib.suppress(OSError):
        info = home.read_info() if is_held(home.host_lock) else None
        if info is not None:
            os.kill(info.host_pid, WAKE_HOST)


def _say_nothing() -> None:
    """Most commands do not mind a second of waiting."""


def _lease(path: Path) -> Lease:
    # A host holds it exclusively for moments only.
    lease = wait_for_lock(path, shared=True, seconds=START_SECONDS)
    if lease is None:
        raise EngineUnavailable(f"another process keeps {path} locked; stop it first")
    return lease


def _check_ports(info: EngineInfo, port: int | None, ui_port: int | None) -> None:
    for told, there, option in ((port, info.port, "--port"), (ui_port, info.ui_port, "--ui-port")):
        if told is not None and told != there:
            raise EngineUnavailable(
                f"the engine is already up on port {there}, not on {told}; leave {option} out to join it"
            )
