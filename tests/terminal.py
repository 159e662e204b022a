"""The command line in the process of the test: what is typed, and what is then told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from durabert.cli.app import main
from tests.shell import Shell

TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Told:
    """What a command left on the screen."""

    code: int
    out: str
    err: str

    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def sentence(self) -> str:
        """Return the one sentence that a mistake is told with."""
        lines = self.err.splitlines()
        assert [line for line in lines if line.startswith("durabert: ")] == lines[-1:], self.err
        assert "Traceback" not in self.err
        return lines[-1].removeprefix("durabert: ")


class Terminal:
    """Types commands in one directory, with one home, and knows what they left in it."""

    def __init__(
        self, home: Path, directory: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self._capfd = capfd
        monkeypatch.chdir(directory)
        monkeypatch.setenv("DURABERT_HOME", str(home))
        self._before = self.runs()
        self._log_before = len(self.worker_log())

    @classmethod
    def of(cls, shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
        return cls(shell.home, shell.directory, monkeypatch, capfd)

    def type(self, *arguments: object, **environment: str) -> Told:
        self._monkeypatch.setattr("sys.argv", ["durabert", *map(str, arguments)])
        for name, value in environment.items():
            self._monkeypatch.setenv(name, value)
        self._capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = self._capfd.readouterr()
        return Told(ended.value.code or 0, out, err)

    def objects(self, *arguments: object, **environment: str) -> list[dict[str, Any]]:
        """Type a command that works with ``--json`` and return what it printed."""
        told = self.type(*arguments, "--json", **environment)
        assert told.code == 0, told.err
        return told.objects()

    def runs(self) -> set[str]:
        directory = self.home / "runs"
        return {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()

    def worker_log(self) -> str:
        log = self.home / "logs" / "worker.log"
        return log.read_text(errors="replace") if log.is_file() else ""

    def require_nothing_left(self) -> None:
        """Fail if a run, a half-written one or a traceback in the worker's log has come since the start."""
        staging = self.home / "staging"
        assert self.runs() == self._before
        assert not staging.is_dir() or not list(staging.iterdir())
        assert TRACEBACK not in self.worker_log()[self._log_before :]
