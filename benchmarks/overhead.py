"""What going through Temporal costs over calling the loop directly, pair by pair."""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from benchmarks.figures import summary
from durabert.bert.data import load_training_data
from durabert.bert.loop import fine_tune
from durabert.client import Client
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig

PAIRS = 5
DATA = DataSpec(source=str(files("durabert.demo") / "reviews"))
CONFIG = FineTuneConfig(epochs=1, max_train_rows=320)


def measure() -> dict[str, object]:
    """Seconds of a run of 320 rows: the bare loop, the same through Temporal, and the difference."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as home:
        async with Client.connect(home=Path(home)) as client:
            await _through_temporal(client, "warm-up", Path(home))
            _directly()
            pairs = [
                (_directly(), await _through_temporal(client, f"pair-{n}", Path(home))) for n in range(PAIRS)
            ]
            events = (await client.status("pair-0")).num_events
    direct = [pair[0][0] for pair in pairs]
    durable = [pair[1][0] for pair in pairs]
    return {
        "direct_seconds": summary(direct),
        "durable_seconds": summary(durable),
        "difference_seconds": summary([b - a for a, b in zip(direct, durable, strict=True)]),
        "train_seconds_ratio": round(statistics.median(b[1] / a[1] for a, b in pairs), 3),
        "same_model": len({pair[0][2] for pair in pairs} | {pair[1][2] for pair in pairs}) == 1,
        "events_of_one_run": events,
    }


def _directly() -> tuple[float, float, str]:
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        data = load_training_data(DATA, max_train_rows=CONFIG.max_train_rows, seed=CONFIG.seed)
        trained = fine_tune(
            CONFIG, data, output=Path(directory) / "model", report=lambda _: None, should_stop=lambda: False
        )
    return time.perf_counter() - began, trained.train_seconds, trained.model_sha256


async def _through_temporal(client: Client, name: str, home: Path) -> tuple[float, float, str]:
    began = time.perf_counter()
    await client.start(ExperimentSpec(name=name, data=DATA, runs=(CONFIG,)))
    view = await client.wait(name)
    seconds = time.perf_counter() - began
    result = view.runs[0].result
    assert result is not None, view
    assert Path(result.directory).is_relative_to(home)
    return seconds, result.train_seconds, result.model_sha256
