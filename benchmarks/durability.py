"""What checkpoints and Temporal cost over the bare loop, in a training of some minutes, pair by pair."""

from __future__ import annotations

import asyncio
import importlib
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

import numpy as np

from benchmarks.figures import summary
from durabert.bert.batches import BatchOrder
from durabert.bert.data import load_training_data
from durabert.bert.loop import fine_tune
from durabert.client import Client
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig

PAIRS = 5
DATA = DataSpec(source=str(files("durabert.demo") / "reviews"))
CONFIG = FineTuneConfig(epochs=28)
"""Some three minutes on two cores."""
ROWS, STEP = 1_000_000, 1_000_000


def measure() -> dict[str, object]:
    """Seconds of the training steps with checkpoints over those without, and of finding step 1,000,000."""
    return {**asyncio.run(_overhead()), "place_of_step_1000000_seconds": _place()}


async def _overhead() -> dict[str, object]:
    direct, durable, standstill = [], [], []
    with tempfile.TemporaryDirectory() as home:
        async with Client.connect(home=Path(home)) as client:
            await client.start(ExperimentSpec(name="warm-up", data=DATA, runs=(FineTuneConfig(epochs=1),)))
            await client.wait("warm-up")
            for number in range(PAIRS):
                # In turn, so that a machine which becomes slower or faster favours neither.
                if number % 2 == 0:
                    direct.append(_directly())
                seconds, stood = await _durably(client, f"pair-{number}")
                durable.append(seconds)
                standstill.append(stood)
                if number % 2:
                    direct.append(_directly())
                print(f"pair {number + 1}: {direct[-1]:.1f} s, {seconds:.1f} s", file=sys.stderr, flush=True)
    ratios = [b / a for a, b in zip(direct, durable, strict=True)]
    return {
        "direct_seconds": summary(direct),
        "durable_seconds": summary(durable),
        "ratio": round(statistics.median(ratios), 4),
        "ratios": [round(ratio, 4) for ratio in ratios],
        "standstill_seconds": summary(standstill),
    }


def _directly() -> float:
    """Train in a process of its own, as a run does; its imports do not count, as a run does not pay them."""
    command = [sys.executable, "-m", "benchmarks.durability"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _bare_loop() -> float:
    for library in ("transformers.models.bert.modeling_bert", "datasets", "sklearn.metrics"):
        importlib.import_module(library)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory:
        data = load_training_data(DATA, seed=CONFIG.seed)
        output = Path(directory) / "model"
        fine_tune(CONFIG, data, output=output, report=lambda _: None, should_stop=lambda: False)
    return time.perf_counter() - began


async def _durably(client: Client, name: str) -> tuple[float, float]:
    began = time.perf_counter()
    await client.start(ExperimentSpec(name=name, data=DATA, runs=(CONFIG,)))
    view = await client.wait(name)
    seconds = time.perf_counter() - began
    result = view.runs[0].result
    assert result is not None, view
    assert result.checkpoint_seconds is not None
    return seconds, result.checkpoint_seconds


def _place() -> float:
    order = BatchOrder(ROWS, 16, 0)
    began = time.perf_counter()
    indices = order.indices(STEP)
    seconds = time.perf_counter() - began
    assert np.unique(indices).size == 16
    return round(seconds, 4)


if __name__ == "__main__":
    print(_bare_loop())
