"""Prediction from file to file: time and memory over the number of texts."""

from __future__ import annotations

import asyncio
import csv
import tempfile
from importlib.resources import files
from pathlib import Path

from durabert.client import Client
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig, InferenceRequest, TextsSpec

SIZES = (5_000, 50_000)
REVIEWS = files("durabert.demo") / "reviews"


def measure() -> dict[str, object]:
    """Seconds and peak memory of one ``predict``, minilm, texts like the demo reviews."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        async with Client.connect(home=root / "home") as client:
            config = FineTuneConfig(epochs=1, max_train_rows=64)
            await client.start(
                ExperimentSpec(name="model", data=DataSpec(source=str(REVIEWS)), runs=(config,))
            )
            await client.wait("model")
            return {str(size): await _predict(client, root, size) for size in SIZES}


async def _predict(client: Client, root: Path, size: int) -> dict[str, float]:
    source = _write_texts(root / f"{size}.csv", size)
    request = InferenceRequest(
        run="model", input=TextsSpec(path=str(source)), output=str(root / f"{size}.predictions.parquet")
    )
    result = await client.predict(request)
    assert result.rows == size
    return {
        "seconds": round(result.seconds, 2),
        "texts_per_second": round(result.texts_per_second, 1),
        "peak_memory_mib": round(result.peak_memory_mib),
    }


def _write_texts(path: Path, size: int) -> Path:
    with (REVIEWS / "train.csv").open(newline="", encoding="utf-8") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        # Two reviews make one text, so that no two of a size are the same.
        for number in range(size):
            other = texts[(number * 7 + number // len(texts)) % len(texts)]
            writer.writerow([number, f"{texts[number % len(texts)]} {other}"])
    return path
