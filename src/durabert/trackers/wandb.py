"""Weights & Biases: one run a run, under a fixed id; a step that it has passed is not sent again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import ValidationError

from durabert.errors import DependencyMissing, OutputInUse, SpecInvalid, StoreInvalid, StoreUnavailable
from durabert.trackers.wandb_rows import run_id
from durabert.trackers.wandb_session import OfflineFile, Session

if TYPE_CHECKING:
    from durabert.trackers.feed import Feed

PROJECT: Final = "durabert"
"""Where neither the target nor the settings of W&B name one."""
MODES: Final = {"online": True, "run": True, "offline": False, "dryrun": False}
"""Of W&B, and whether a server is fed."""
EXIT_CODES: Final = {"completed": 0, "cancelled": 255}
"""By which W&B knows how a run ended; its own client gives 255 for Ctrl-C. Any other ended with 1."""
FINISH_SECONDS: Final = 120.0
"""How long the end waits for a server that takes nothing; what is missing comes with the next feeding."""
# The machine that feeds need not be the one that trains: nothing of it belongs to the run.
SETTINGS: Final = {
    "silent": True,
    "console": "off",
    "host": "",
    "resume": None,
    "symlink": False,
    "save_code": False,
    "disable_code": True,
    "disable_git": True,
    "disable_job_creation": True,
    "finish_timeout": FINISH_SECONDS,
    "finish_timeout_raises": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
}


class Wandb:
    """Runs of a W&B server, or with ``WANDB_MODE=offline`` files for ``wandb sync``.

    Args:
        target: ``PROJECT`` or ``ENTITY/PROJECT``; empty: those of the settings of W&B.

    Raises:
        DependencyMissing: the extra ``wandb`` is not installed.
        SpecInvalid: W&B cannot use its settings or the project, or its mode feeds nothing.
        StoreInvalid: nobody is logged in, or the server cannot be reached.
        OutputInUse: the directory for offline runs cannot be written.
    """

    def __init__(self, target: str) -> None:
        # W&B reports to its makers how it is used unless told not to before it is imported.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        try:
            import wandb
        except ImportError:
            raise DependencyMissing("wandb", extra="wandb") from None
        entity, _, project = target.rpartition("/")
        given = {name: text for name, text in (("entity", entity), ("project", project)) if text}
        try:
            settings = wandb.setup(wandb.Settings(**SETTINGS, **given)).settings
        except (ValidationError, wandb.Error) as error:
            raise SpecInvalid(f"W&B cannot use its settings: {_reason(error)}") from None
        if settings.mode not in MODES:
            raise SpecInvalid(f"the mode of W&B is {settings.mode!r}, but should be 'online' or 'offline'")
        self._online = MODES[settings.mode]
        self._project = settings.project or PROJECT
        self._place = f"{settings.entity or ''}/{self._project}"
        self._directory = Path(settings.wandb_dir)
        self._open: dict[str, Session] = {}
        if self._online:
            _log_in(settings.base_url)
        _require_writable(self._directory)

    def sync(self, feed: Feed) -> int:
        """Add the steps that W&B has not passed, and close a run that has ended.

        Raises:
            StoreUnavailable: W&B does not answer, or refused something.
        """
        import wandb

        if feed.began is None and not feed.ended:
            # What it is, and with it its id, is not known yet.
            return 0
        try:
            return self._sync(feed)
        except (wandb.Error, TimeoutError, OSError) as error:
            self._open.pop(run_id(feed), None)
            raise StoreUnavailable(f"W&B: {_reason(error)}") from None

    def close(self) -> None:
        """Leave the runs that go on, and end what W&B has started here.

        Raises:
            StoreUnavailable: W&B did not take what was added last.
        """
        import wandb

        try:
            while self._open:
                self._open.popitem()[1].leave()
            wandb.teardown()
        except (wandb.Error, TimeoutError, OSError) as error:
            raise StoreUnavailable(f"W&B: {_reason(error)}") from None

    def _sync(self, feed: Feed) -> int:
        identity = run_id(feed)
        session = self._open.get(identity)
        if session is None:
            files = self._offline(identity)
            if files and files[-1].holds(feed):
                return 0
            session = self._open[identity] = self._begin(feed, identity, files)
        added = session.add(feed)
        if feed.ended:
            self._open.pop(identity).end(EXIT_CODES.get(feed.status, 1))
        return added

    def _begin(self, feed: Feed, identity: str, files: list[OfflineFile]) -> Session:
        import wandb

        sent = [file for file in files if file.sent]
        for file in files:
            if file not in sent:
                # It cannot be gone on with. All that it holds is in the store, and is written anew.
                shutil.rmtree(file.directory)
        run = wandb.init(
            project=self._project,
            id=identity,
            name=feed.run,
            group=feed.experiment,
            config=dict(feed.parameters),
            allow_val_change=True,
            resume="allow" if self._online or sent else None,
            reinit="create_new",
        )
        if self._online:
            return Session(run, known=set(run.summary.keys()))
        file = OfflineFile(Path(run.dir).parent, {"place": self._place})
        file.write()
        return Session(
            run,
            file=file,
            passed=max((one.note["last"] for one in sent), default=0),
            known={name for one in sent for name in one.note["tested"]},
            replaced=sum(one.note.get("values", 0) for one in files if one not in sent),
        )

    def _offline(self, identity: str) -> list[OfflineFile]:
        """Return what was written of a run for this project, the newest last."""
        if self._online:
            return []
        found = sorted(self._directory.glob(f"offline-run-*/run-{identity}.wandb"))
        files = [OfflineFile.read(path.parent) for path in found]
        return [file for file in files if file.note.get("place") == self._place]


def _log_in(server: str) -> None:
    import wandb

    try:
        # A prompt would wait for somebody who may not be there.
        known = wandb.login(prompt=False, verify=True)
    except wandb.Error as error:
        raise StoreInvalid(f"W&B at {server} cannot be used: {_reason(error)}") from None
    if not known:
        raise StoreInvalid(
            f"nobody is logged in to W&B at {server}; "
            "run 'wandb login', set WANDB_API_KEY, or write files with WANDB_MODE=offline"
        )


def _require_writable(directory: Path) -> None:
    # W&B itself would go on in a temporary directory.
    try:
        directory.mkdir(parents=True, exist_ok=True)
        writable = os.access(directory, os.W_OK | os.X_OK)
        reason = "permission denied"
    except OSError as error:
        writable, reason = False, str(error.strerror)
    if not writable:
        raise OutputInUse(f"output {str(directory)!r} cannot be written: {reason}")


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return f"{'.'.join(map(str, first['loc']))} is {first['input']!r}: {first['msg']}"
    return f"{(str(error).splitlines() or [type(error).__name__])[0]:.200}"
