"""A million rows as shards: two workers against one, and one of two killed. Only the model is a stub.

Two cores could not show what a second worker gives if the model computed on them, so it waits instead, see
``batch_stub``. Server, workflow, workers, child processes, row ranges and Parquet files are the real ones.
"""

from __future__ import annotations

import asyncio
import csv
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
from temporalio.client import Client as TemporalClient
from tests.batches import publish, train_model
from tests.real import until

from benchmarks.batch_stub import SECONDS_A_ROW
from durabert.activities.dataset_jobs import take_snapshot
from durabert.bert.progress import Reporter
from durabert.client import Client
from durabert.client.batches import RunningBatch
from durabert.client.namespace import num_pollers
from durabert.connection import TaskQueues, connect, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from durabert.specs import BatchInferenceRequest, DataSpec, TextsSpec
from durabert.store.objects import open_store

ROWS = 1_000_000
KILLED_AT = 0.3
"""Share of the rows that are done when one of two workers is killed."""
LIMIT_SECONDS = 900


def measure() -> dict[str, object]:
    """Seconds of all rows with one and with two workers, and with one of two killed on the way."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        home = root / "home"
        publish(home, "model", train_model(root))
        began = time.perf_counter()
        objects = open_store(None, home=home)
        spec = DataSpec(source=str(_write_rows(root / "rows.csv")))
        taken = take_snapshot(spec, objects, home, Reporter(lambda _: None, lambda: False), labelled=False)
        snapshot_seconds = time.perf_counter() - began
        engine = Engine.attach(root / "engine", worker=False, search_attributes=SEARCH_ATTRIBUTES)
        try:
            temporal = await connect(plain_profile(engine.info.address))
            bench = _Bench(temporal, engine.info.address, root, f"snapshot:{taken.snapshot}/train")
            one = await bench.seconds("one", num_workers=1)
            two = await bench.seconds("two", num_workers=2)
            killed = await bench.seconds("killed", num_workers=2, kill=True)
        finally:
            engine.close()
    return {
        "rows": ROWS,
        "stub_seconds_a_row": SECONDS_A_ROW,
        "write_and_snapshot_seconds": round(snapshot_seconds, 1),
        "one_worker_seconds": round(one, 1),
        "two_workers_seconds": round(two, 1),
        "speedup": round(one / two, 2),
        "one_of_two_killed_seconds": round(killed, 1),
        "rows_lost_or_doubled": 0,
        "events_of_a_history": bench.num_events,
    }


class _Bench:
    def __init__(self, temporal: TemporalClient, address: str, root: Path, snapshot: str) -> None:
        self._temporal = temporal
        self._address = address
        self._root = root
        self._snapshot = snapshot
        self.num_events = 0

    async def seconds(self, name: str, *, num_workers: int, kill: bool = False) -> float:
        output = self._root / name
        request = BatchInferenceRequest(run="model", input=TextsSpec(path=self._snapshot), output=str(output))
        # A queue of its own: the server remembers for minutes who has asked for work.
        client = Client(self._temporal, queues=TaskQueues(train=name, inference=name))
        with self._workers(num_workers, name) as workers:
            await _polled(client, name, num_workers)
            began = time.perf_counter()
            batch = await client.start_batch(request)
            if kill:
                await _reaches(batch, round(KILLED_AT * ROWS))
                workers[0].kill()
            result = await batch.result()
            seconds = time.perf_counter() - began
            history = await batch.handle.fetch_history()
        assert (result.rows, result.predicted) == (ROWS, ROWS), result
        assert list(_ids(output)) == list(range(ROWS)), "a row is lost, doubled or out of order"
        if kill:
            assert any(
                event.activity_task_started_event_attributes.attempt > 1 for event in history.events
            ), "the kill has hit nothing"
        self.num_events = max(self.num_events, len(history.events))
        print(f"{name}: {seconds:.1f} s", file=sys.stderr, flush=True)
        return seconds

    @contextmanager
    def _workers(self, count: int, queue: str) -> Iterator[list[subprocess.Popen[bytes]]]:
        command = [
            sys.executable, "-m", "benchmarks.batch_stub", self._address, str(self._root / "home"), queue,
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        with (self._root / "workers.log").open("ab") as log:
            workers = [
                subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
                for _ in range(count)
            ]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(60)


async def _polled(client: Client, queue: str, num_workers: int) -> None:
    async def all_ask() -> bool:
        return await num_pollers(client.temporal, queue) >= num_workers

    await until(all_ask, seconds=60, what="the workers ask for work")


async def _reaches(batch: RunningBatch, rows: int) -> None:
    async def there() -> bool:
        progress = await batch.progress()
        return progress is not None and progress.rows_done >= rows

    await until(there, seconds=LIMIT_SECONDS, what=f"{rows} rows are done")


def _ids(output: Path) -> Iterator[int]:
    for file in sorted((output / "predictions").iterdir()):
        yield from pq.read_table(file, columns=["id"]).column("id").cast("int64").to_pylist()


def _write_rows(path: Path) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(ROWS):
            writer.writerow(
                [number, f"the film number {number} was {('great', 'awful')[number % 2]} and so long"]
            )
    return path
