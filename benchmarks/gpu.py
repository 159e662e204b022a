"""Training on one GPU against the stock Hugging Face Trainer, in turn, in one process that has warmed up.

BERT base for the speed: ``DURABERT_BERT_BASE`` names a directory with it; without, one of the same size with
random weights is trained, which takes as long. MiniLM for the accuracy. Memory is that of processes of their
own: one that trained before may hold some.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import runpy
import shutil
import statistics
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.figures import summary
from benchmarks.yardstick import BATCH_SIZE, printed, train_in_this_process, trainer_words
from durabert.bert.model import MINILM, resolve_model

MODE = "bf16"
PAIRS, ROWS, WARM_UP = 5, 3200, 640
EPOCH = 67349
"""Rows of SST-2."""
SEEDS, ROWS_TO_LEARN = 3, 6400


def measure() -> dict[str, object]:
    """Examples per second, an epoch of SST-2, and the accuracy on its validation rows."""
    with tempfile.TemporaryDirectory() as directory:
        given = os.environ.get("DURABERT_BERT_BASE")
        model = Path(given) if given else random_bert_base(Path(directory))
        memory = peak_memory(model)
        for one in SIDES.values():
            one(model, rows=WARM_UP, seed=0)
        samples = [[one(model, rows=ROWS, seed=seed) for one in SIDES.values()] for seed in range(PAIRS)]
        epoch = ours(model, rows=EPOCH, seed=0)
    theirs, mine = ([one[side] for one in samples] for side in (0, 1))
    ratios = [b["examples_per_second"] / a["examples_per_second"] for a, b in samples]
    return {
        "device": torch.cuda.get_device_name(),
        "rows": ROWS,
        "trainer_examples_per_second": summary([one["examples_per_second"] for one in theirs]),
        "durabert_examples_per_second": summary([one["examples_per_second"] for one in mine]),
        "ratio": round(statistics.median(ratios), 1),
        "ratios": [round(ratio, 1) for ratio in ratios],
        "peak_device_mib": memory,
        "epoch_of_sst2": epoch,
        "accuracy": accuracy(),
    }


def accuracy() -> dict[str, object]:
    """Accuracy of MiniLM on the 872 validation rows of SST-2 after an epoch of 6,400 rows."""
    model = resolve_model(MINILM)
    theirs, mine = (
        [one(model, rows=ROWS_TO_LEARN, seed=seed)["eval_accuracy"] for seed in range(SEEDS)]
        for one in SIDES.values()
    )
    return {
        "trainer": theirs,
        "durabert": mine,
        "difference_of_means": round(statistics.mean(mine) - statistics.mean(theirs), 4),
        "deviation_of_trainer": round(statistics.stdev(theirs), 4),
    }


def peak_memory(model: Path) -> dict[str, list[int]]:
    """Return the largest memory of the device that torch reserved, MiB, by side and seed; all at once."""

    def peak(side: str, seed: int) -> int:
        report = printed([sys.executable, "-m", "benchmarks.gpu", side, str(model), str(ROWS), str(seed)])
        return int(report["peak_device_mib"])

    with ThreadPoolExecutor() as pool:
        peaks = {side: [pool.submit(peak, side, seed) for seed in range(PAIRS)] for side in SIDES}
    return {side: [one.result() for one in found] for side, found in peaks.items()}


def trainer(model: Path, *, rows: int, seed: int) -> dict[str, Any]:
    """Train with the Trainer and return what it printed."""
    words = trainer_words(MODE, rows=rows, seed=seed, evaluate=True, model=model)
    output = io.StringIO()
    with mock.patch.object(sys, "argv", words), contextlib.redirect_stdout(output):
        runpy.run_path(words[0], run_name="__main__")
    return _told(json.loads(output.getvalue().splitlines()[-1]))


def ours(model: Path, *, rows: int, seed: int) -> dict[str, Any]:
    """Train with the bare loop."""
    return _told(train_in_this_process(rows, BATCH_SIZE[MODE], seed, "auto", str(model)))


SIDES = {"trainer": trainer, "durabert": ours}


def _told(report: dict[str, Any]) -> dict[str, Any]:
    report["peak_device_mib"] = round(torch.cuda.max_memory_reserved() / 2**20)
    print(json.dumps(report), file=sys.stderr, flush=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return report


def random_bert_base(directory: Path) -> Path:
    """Write a BERT base with random weights, and the tokenizer of MiniLM, whose vocabulary is BERT's."""
    from transformers import BertConfig, BertModel

    weights = shutil.ignore_patterns("*.safetensors", "*.bin")
    shutil.copytree(resolve_model(MINILM), directory, ignore=weights, dirs_exist_ok=True)
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(directory)
    return directory


if __name__ == "__main__":
    side, model, rows, seed = sys.argv[1:]
    print(json.dumps(SIDES[side](Path(model), rows=int(rows), seed=int(seed))))
