"""Engines that predict, in turn on the same texts, beside the pipeline of transformers; each in a process.

The pipeline gets the best of five batch sizes, with the texts in their order and by length. Rates hold
tokenizing and all else between texts and predictions, not the loading.
"""

from __future__ import annotations

import csv
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path

from benchmarks.figures import summary
from benchmarks.yardstick import SST2
from durabert.bert.data import load_training_data
from durabert.bert.device import process_peak_memory_mib
from durabert.bert.exporting import export_onnx, load_exported
from durabert.bert.loop import fine_tune
from durabert.bert.predict import Predictor
from durabert.bert.progress import Reporter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.tokens import load_tokenizer
from durabert.errors import ExportRefused
from durabert.specs import DataSpec, FineTuneConfig

ROUNDS = 5
ENGINES = ("pipeline", "torch-fp32", "torch-bf16", "onnx", "onnx-int8")
BATCH_SIZES = (1, 8, 16, 32, 64)
TRIED = 4
"""One text of so many is scored in each way that the pipeline can be used, to find its best."""
REVIEWS = files("durabert.demo") / "reviews"
LONG_ROWS, SHORTEST, LONGEST = 64, 64, 512
"""Texts of so many tokens, evenly spread."""


def measure() -> dict[str, object]:
    """Texts a second and peak memory of every engine, MiniLM, on short texts and on long ones."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        figures, engines = _prepare(root)
        for name, texts in _inputs(root / "model"):
            figures[name] = _compared(root, engines, texts)
    return figures


def _prepare(root: Path) -> tuple[dict[str, object], list[str]]:
    """Train and export; return what the gate said and the engines that there are."""
    data = load_training_data(DataSpec(source=str(SST2 if SST2.is_dir() else REVIEWS)), max_train_rows=2000)
    config = FineTuneConfig(epochs=1, batch_size=32, learning_rate=1e-4, max_length=LONGEST)
    model = root / "model"
    fine_tune(config, data, output=model, report=lambda _: None, should_stop=lambda: False)
    gates: dict[str, object] = {}
    engines = [*ENGINES]
    for form in ("onnx", "onnx-int8"):
        (root / form).mkdir()
        began = time.perf_counter()
        try:
            facts = export_onnx(
                model, root / form, run="model", format=form, data=data, metric="accuracy",
                reporter=Reporter(lambda _: None, lambda: False),
            )  # fmt: skip
        except ExportRefused as refused:
            gates[form] = str(refused)
            engines.remove(form)
            continue
        size = (root / form / "model.onnx").stat().st_size
        gates[form] = {
            **facts.parity.model_dump(exclude={"data_sha256"}),
            "mib": round(size / 2**20, 1),
            "export_seconds": round(time.perf_counter() - began, 1),
        }
    return {"gate": gates}, engines


def _inputs(model: Path):
    if SST2.is_dir():
        with (SST2 / "validation.tsv").open(encoding="utf-8") as file:
            rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            yield "sst2", [row["sentence"].strip() for row in rows]
    yield "long", _long_texts(model)


def _long_texts(model: Path) -> list[str]:
    tokenizer = load_tokenizer(model)
    generator = random.Random(0)
    with (REVIEWS / "train.csv").open(newline="", encoding="utf-8") as file:
        reviews = [row["text"] for row in csv.DictReader(file)]
    texts = []
    for number in range(LONG_ROWS):
        wanted = SHORTEST + number * (LONGEST - SHORTEST) // (LONG_ROWS - 1)
        text = ""
        while len(tokenizer(text, verbose=False)["input_ids"]) < wanted:
            text = f"{text} {generator.choice(reviews)}".strip()
        texts.append(text)
    generator.shuffle(texts)
    return texts


def _compared(root: Path, engines: list[str], texts: list[str]) -> dict[str, object]:
    (root / "texts.json").write_text(json.dumps(texts))
    processes = {engine: _Process(root, engine) for engine in engines}
    seconds: dict[str, list[float]] = {engine: [] for engine in engines}
    for number in range(ROUNDS):
        # The other way round each time, so that nobody is always the first after a pause.
        for engine in engines if number % 2 == 0 else reversed(engines):
            seconds[engine].append(processes[engine].round())
    figures: dict[str, object] = {"rows": len(texts)}
    for engine, process in processes.items():
        ours, theirs = seconds[engine], seconds["pipeline"]
        times = [other / one for one, other in zip(ours, theirs, strict=True)]
        figures[engine] = {
            "texts_per_second": summary([len(texts) / one for one in ours]),
            "over_pipeline": round(statistics.median(times), 2),
            **process.end(),
        }
    return figures


class _Process:
    """An engine in a process of its own, ready to score."""

    def __init__(self, root: Path, engine: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.scoring", engine, str(root)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._about = self._answer()

    def round(self) -> float:
        return self._ask("round")["seconds"]

    def end(self) -> dict[str, object]:
        memory = self._ask("end")
        self._process.communicate(timeout=60)
        return {**self._about, **memory}

    def _ask(self, what: str) -> dict:
        print(what, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        assert line, f"the process ended with {self._process.wait(60)}"
        return json.loads(line)


def _serve(engine: str, root: Path) -> None:
    texts = json.loads((root / "texts.json").read_text())
    score, about = _pipeline(root / "model", texts) if engine == "pipeline" else _predictor(engine, root)
    score(texts)
    _say(about)
    for line in sys.stdin:
        if line.strip() == "end":
            _say({"peak_memory_mib": round(process_peak_memory_mib())})
            return
        _say({"seconds": _seconds(score, texts)})


def _predictor(engine: str, root: Path):
    if engine.startswith("onnx"):
        return load_exported(root / engine).predict, {}
    precision = engine.removeprefix("torch-")
    return Predictor.load(root / "model", precision=precision, device="cpu").predict, {}


def _pipeline(model: Path, texts: list[str]):
    from transformers import pipeline

    with quiet_libraries():
        classify = pipeline("text-classification", model=str(model), device="cpu")
    ways = {
        (order, size): (
            lambda texts, by_length=by_length, size=size: classify(
                sorted(texts, key=len, reverse=True) if by_length else texts, batch_size=size, truncation=True
            )
        )
        for order, by_length in (("in order", False), ("by length", True))
        for size in BATCH_SIZES
    }
    classify(texts[:64], batch_size=8, truncation=True)
    sample = texts[::TRIED]
    seconds = {way: _seconds(score, sample) for way, score in ways.items()}
    best = min(seconds, key=seconds.__getitem__)
    tried = {f"{order}, {size}": round(len(sample) / s, 1) for (order, size), s in seconds.items()}
    return ways[best], {"batch_size": best[1], "order": best[0], "tried": tried}


def _seconds(score, texts: list[str]) -> float:
    began = time.perf_counter()
    score(texts)
    return time.perf_counter() - began


def _say(document: dict) -> None:
    print(json.dumps(document), flush=True)


if __name__ == "__main__":
    _serve(sys.argv[1], Path(sys.argv[2]))
