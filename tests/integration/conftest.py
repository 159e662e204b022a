"""One engine with its worker for all tests of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from tests.shell import Shell, write_reviews
from tests.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A working directory with an engine and a worker up, as after ``durabert up``."""
    directory = tmp_path_factory.mktemp("shell")
    home = directory / "home"
    engine = Engine.attach(home, worker=True, search_attributes=SEARCH_ATTRIBUTES)
    write_reviews(directory / "reviews.csv")
    yield Shell(home, directory)
    engine.close()


@pytest.fixture(scope="session")
def reviews(shell: Shell) -> Path:
    """A CSV file of 80 reviews."""
    return shell.directory / "reviews.csv"


@pytest.fixture
def terminal(shell: Shell, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Terminal:
    """The command line in the process of the test, in that directory."""
    return Terminal.of(shell, monkeypatch, capfd)
