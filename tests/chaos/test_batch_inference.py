"""A batch whose processes are killed for real: every row once, and the bytes of an undisturbed one."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from durabert.chaos import Plan
from tests.batches import contents, ids_in, publish, train_model, write_input
from tests.real import alive, until
from tests.unit.test_batch_jobs import SHARD_ROWS, Batch

NUM_ROWS = 5 * SHARD_ROWS
WITHOUT_TEXT = (7, 61)
QUICK = """
from datetime import timedelta
from durabert.workflows import policies
from durabert.activities import boundary
policies.HEARTBEAT_TIMEOUT = timedelta(seconds=5)
boundary.FIRST_DELAY = timedelta(milliseconds=100)
from durabert.cli.app import main
main()
"""
"""A worker that takes another one for lost after 5 s instead of 30 s, and tries again sooner."""


def name_of(shard: int) -> str:
    return f"{shard * SHARD_ROWS:012}-{(shard + 1) * SHARD_ROWS - 1:012}"


@pytest.fixture
def start_worker(engine, home, tmp_path, queue):
    workers: list[subprocess.Popen] = []
    address = engine.info.address

    def start(environment: dict[str, str]) -> subprocess.Popen:
        with (tmp_path / f"worker-{len(workers)}.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-c", QUICK, "worker", "--train-queue", queue, "--slots", "2"],
                env={**os.environ, "TEMPORAL_ADDRESS": address, "DURABERT_HOME": str(home), **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        if worker.poll() is None:
            worker.kill()
        worker.wait(20)


async def test_a_batch_is_whole_whatever_is_killed(client, start_worker, home, tmp_path):
    publish(home, "films", train_model(tmp_path))
    texts = write_input(tmp_path / "texts.csv", NUM_ROWS, without_text=WITHOUT_TEXT)
    faults = Plan(tmp_path / "faults")
    faults.add("shard.predictions", "kill", when=name_of(1))
    faults.add("shard.commit", "kill", when=name_of(2))
    faults.add("shard.committed", "kill", when=name_of(3))
    faults.add("shard.commit", "hold", when=name_of(4))
    faults.add("batch.committed", "kill")

    calm = Batch(home)
    calm.all(texts, tmp_path / "calm")
    request = calm.request(texts, tmp_path / "struck", concurrency=2)

    async def struck():
        # The others, too: killed with its worker right after its commit, a shard never comes to its own kill.
        return faults.num_struck() == len(faults.faults) - 1

    victim = start_worker(faults.environment())
    batch = await client.start_batch(request)
    await until(struck, seconds=60, what="three shards were killed, the last is scored and not committed")
    victim.kill()
    victim.wait(20)
    assert not alive(victim.pid)
    start_worker(faults.environment())
    result = await batch.result()

    output = tmp_path / "struck"
    assert faults.num_struck() == len(faults.faults), "every kill has hit"
    assert (result.rows, result.predicted, result.errors) == (NUM_ROWS, NUM_ROWS - 2, 2)
    assert ids_in(output, "predictions") == [f"r{n}" for n in range(NUM_ROWS) if n not in WITHOUT_TEXT]
    assert ids_in(output, "errors") == [f"r{n}" for n in WITHOUT_TEXT]
    assert contents(output) == contents(tmp_path / "calm")
    assert list((home / "staging").iterdir()) == []
    assert attempts_of(await batch.handle.fetch_history()) > NUM_ROWS // SHARD_ROWS + 4


def attempts_of(history) -> int:
    """Return how many attempts the activities of a workflow have taken."""
    return sum(
        event.activity_task_started_event_attributes.attempt
        for event in history.events
        if event.HasField("activity_task_started_event_attributes")
    )
