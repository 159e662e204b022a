"""Training of BERT base on one GPU against the stock Hugging Face Trainer, in turn, and an epoch of SST-2.

``DURABERT_BERT_BASE`` names a directory with the model; without it, one of the same size with random weights
is trained, which takes as long.
"""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.figures import summary
from benchmarks.yardstick import ours, yardstick
from durabert.bert.model import MINILM, resolve_model

PAIRS = int(os.environ.get("DURABERT_GPU_PAIRS", "5"))
ROWS = 9600
EPOCH = 67349
"""Rows of SST-2."""


def measure() -> dict[str, object]:
    """Examples per second, batch size 32, of the Trainer's mode ``bf16`` and of ours."""
    with tempfile.TemporaryDirectory() as directory:
        given = os.environ.get("DURABERT_BERT_BASE")
        model = Path(given) if given else random_bert_base(Path(directory))
        samples = [
            (
                yardstick("bf16", rows=ROWS, seed=seed, model=model),
                ours(rows=ROWS, mode="bf16", seed=seed, model=model),
            )
            for seed in range(PAIRS)
        ]
        epoch = ours(rows=EPOCH, mode="bf16", seed=0, model=model)
    ratios = [b["examples_per_second"] / a["examples_per_second"] for a, b in samples]
    return {
        "device": torch.cuda.get_device_name(),
        "rows": ROWS,
        "trainer_examples_per_second": summary([one["examples_per_second"] for one, _ in samples]),
        "durabert_examples_per_second": summary([one["examples_per_second"] for _, one in samples]),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "epoch_of_sst2": epoch,
    }


def random_bert_base(directory: Path) -> Path:
    """Write a BERT base with random weights, and the tokenizer of MiniLM, whose vocabulary is BERT's."""
    from transformers import BertConfig, BertModel

    shutil.copytree(
        resolve_model(MINILM),
        directory,
        ignore=shutil.ignore_patterns("*.safetensors", "*.bin"),
        dirs_exist_ok=True,
    )
    torch.manual_seed(0)
    BertModel(BertConfig()).save_pretrained(directory)
    return directory
