"""Fixtures for the whole suite: a real Temporal server, and a clean environment."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from durabert.connection import connect, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

    from temporalio.client import Client as TemporalClient

# The hub cannot be asked from a test, and nothing of the developer's own set-up may leak in.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Threads that wait for each other cost more than they give on tiny models and two busy cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
for variable in [name for name in os.environ if name.startswith(("TEMPORAL_", "DURABERT_"))]:
    del os.environ[variable]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A Temporal server without a worker, for the whole session."""
    home = tmp_path_factory.mktemp("engine")
    engine = Engine.attach(home, worker=False, search_attributes=SEARCH_ATTRIBUTES)
    yield engine
    engine.close()


@pytest.fixture(scope="session")
async def temporal(engine: Engine) -> TemporalClient:
    """A client of that server."""
    return await connect(plain_profile(engine.info.address))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BERT of two layers that knows the words of ``tests.shell.write_reviews``."""
    from tests.tiny import build_model

    return build_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def sst2() -> Path:
    """The SST-2 directory beside the project, if it is there."""
    directory = Path(__file__).parents[2] / "shared" / "data" / "sst2"
    if not directory.is_dir():
        pytest.skip("the SST-2 files are not beside the project")
    return directory
