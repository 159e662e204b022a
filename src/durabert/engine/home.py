"""Where the engine of a home directory keeps its files, and what it says of itself in ``engine.json``."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durabert.errors import EngineUnavailable

DEFAULT_HOME: Final = ".durabert"


def home_directory(explicit: Path | None = None) -> Path:
    """Return the absolute home directory: the explicit one, else ``DURABERT_HOME``, else ``./.durabert``."""
    return Path(explicit or os.environ.get("DURABERT_HOME") or DEFAULT_HOME).expanduser().absolute()


@dataclass(frozen=True)
class EngineInfo:
    """A running engine, as its host describes it."""

    address: str
    """gRPC address of the Temporal server, ``127.0.0.1:PORT``."""
    ui: str
    """URL of Temporal Web."""
    http: str
    """HTTP API of the same server, ``127.0.0.1:PORT``."""
    host_pid: int
    server_pid: int
    worker_pid: int | None
    """None while no command wants the worker, and between a worker's death and its next start."""
    worker_failure: str | None
    """Why the worker ended by itself, one sentence; None once a worker has held out for a while."""
    version: str
    """Version of durabert that runs the engine."""
    started: str
    """When the host started it, ISO 8601 in UTC."""

    @property
    def port(self) -> int:
        """The gRPC port."""
        return int(self.address.rpartition(":")[2])

    @property
    def ui_port(self) -> int:
        """The port of Temporal Web."""
        return int(self.ui.rpartition(":")[2])


@dataclass(frozen=True)
class Home:
    """The paths of one home directory."""

    root: Path

    @property
    def engine(self) -> Path:
        """Database, locks and state of the engine."""
        return self.root / "engine"

    @property
    def logs(self) -> Path:
        """What the processes of the engine print."""
        return self.root / "logs"

    @property
    def database(self) -> Path:
        """Every workflow of this home, in SQLite."""
        return self.engine / "temporal.db"

    @property
    def info_file(self) -> Path:
        """There while an engine is up and not about to leave."""
        return self.engine / "engine.json"

    @property
    def server_lease(self) -> Path:
        """Locked shared by every command that needs the server."""
        return self.engine / "server.lease"

    @property
    def worker_lease(self) -> Path:
        """Locked shared by every command that needs the worker too."""
        return self.engine / "worker.lease"

    @property
    def host_lock(self) -> Path:
        """Locked by the host for its whole life, and before that by the command that starts it."""
        return self.engine / "host.lock"

    @property
    def database_lock(self) -> Path:
        """Locked while a server has the database open, even if its host was killed; holds its process id."""
        return self.engine / "database.lock"

    @property
    def engine_log(self) -> Path:
        """The log of the host."""
        return self.logs / "engine.log"

    @property
    def server_log(self) -> Path:
        """The log of the Temporal server."""
        return self.logs / "temporal-server.log"

    @property
    def worker_log(self) -> Path:
        """The log of the worker."""
        return self.logs / "worker.log"

    def create(self) -> None:
        """Make the directories of the engine.

        Raises:
            EngineUnavailable: the home cannot be written to.
        """
        try:
            self.engine.mkdir(parents=True, exist_ok=True)
            self.logs.mkdir(exist_ok=True)
        except OSError as error:
            raise home_unusable(self.root, error) from error

    def read_info(self) -> EngineInfo | None:
        """Return what ``engine.json`` says; None if it is absent or of a version with other fields."""
        try:
            fields = json.loads(self.info_file.read_bytes())
            return EngineInfo(**{field.name: fields[field.name] for field in dataclasses.fields(EngineInfo)})
        except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
            return None

    def write_info(self, info: EngineInfo) -> None:
        """Replace ``engine.json`` in one step."""
        whole = self.info_file.with_suffix(".new")
        whole.write_text(json.dumps(dataclasses.asdict(info), indent=1))
        whole.replace(self.info_file)


def home_unusable(root: Path, error: OSError) -> EngineUnavailable:
    """Say that the home directory cannot be used, and why."""
    return EngineUnavailable(f"the home directory {root} cannot be used: {error.strerror or error}")
