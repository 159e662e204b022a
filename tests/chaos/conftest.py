"""Workers of their own on a server that outlives them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from durabert.client import Client
from durabert.connection import TaskQueues
from tests.chaos.training import spec_for, trained_directly
from tests.real import WorkerProcess
from tests.shell import write_reviews

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return write_reviews(tmp_path / "reviews.csv")


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    return f"chaos-{request.node.name}"[:100]


@pytest.fixture
def client(temporal: TemporalClient, queue: str) -> Client:
    return Client(temporal, queues=TaskQueues(train=queue, inference=queue))


@pytest.fixture
def start_worker(
    engine: Engine, home: Path, tmp_path: Path, queue: str
) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers on the test's own queue; all are stopped at its end, by their ids."""
    workers: list[WorkerProcess] = []

    def start(*options: str, environment: dict[str, str] | None = None) -> WorkerProcess:
        log = tmp_path / f"worker-{len(workers)}.log"
        worker = WorkerProcess(
            engine.info.address, home, log, "--train-queue", queue, *options, environment=environment
        )
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.stop()


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory, tiny):
    """The result of the same training without a fault and without a server."""
    directory = tmp_path_factory.mktemp("undisturbed")
    spec = spec_for("calm", write_reviews(directory / "reviews.csv"), tiny)
    return trained_directly(directory, spec)
