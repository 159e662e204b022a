"""Runs to predict with, inputs, and what a batch has written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

from durabert.bert.card import ModelFacts
from durabert.bert.loop import fine_tune
from durabert.specs import DataSpec, FineTuneConfig, FineTuneRequest, FineTuneResult
from durabert.store.runs import RunStore
from tests import tiny
from tests.workflow.conftest import result_of

GOOD_TEXT, BAD_TEXT = "the film was great", "the film was awful"
TAILS = ("", "and so", "the story", "very", "and it was a plot")


def train_model(directory: Path) -> Path:
    """Train a model of two labels in a second, and return its directory."""
    base = tiny.build_model(directory / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = FineTuneConfig(
        model=str(base), epochs=6, batch_size=8, learning_rate=3e-3, max_length=32, precision="fp32",
        device="cpu",
    )  # fmt: skip
    data = tiny.training_data(tiny.sentiments(192), tiny.sentiments(32, seed=1))
    fine_tune(config, data, output=directory / "model", report=lambda _: None, should_stop=lambda: False)
    return directory / "model"


def publish(home: Path, run: str, model: Path) -> FineTuneResult:
    """Make a model directory a finished run of a home."""
    facts = ModelFacts.read(model)
    request = FineTuneRequest(experiment=run, run=run, data=DataSpec(source="x"), config=FineTuneConfig())
    runs = RunStore(home)
    result = result_of(request).model_copy(
        update={
            "directory": str(runs.directory(run)),
            "labels": list(facts.labels),
            "model_sha256": facts.model_sha256,
        }
    )
    with runs.staging(run) as staging:
        shutil.copytree(model, staging / "model")
        (staging / "result.json").write_text(result.model_dump_json())
        runs.publish(staging, run)
    return result


def write_input(path: Path, rows: int, *, without_text: tuple[int, ...] = ()) -> Path:
    """Write texts with the ids ``r0``, ``r1``, ...; even rows are good ones, odd ones bad."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text"])
        for number in range(rows):
            text = (
                "" if number in without_text else f"{(GOOD_TEXT, BAD_TEXT)[number % 2]} {TAILS[number % 5]}"
            )
            writer.writerow([f"r{number}", text])
    return path


def contents(output: Path) -> dict[str, bytes]:
    """Return every file below an output."""
    return {
        path.relative_to(output).as_posix(): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file()
    }


def ids_in(output: Path, kind: str, column: str = "id") -> list:
    """Return the row ids in the files of predictions or errors, in the order of the files' names."""
    files = sorted((output / kind).glob("*")) if (output / kind).is_dir() else []
    return [row_id for file in files for row_id in pq.read_table(file).column(column).to_pylist()]


def result_in(output: Path) -> dict:
    """Return what ``result.json`` says."""
    return json.loads((output / "result.json").read_text())
