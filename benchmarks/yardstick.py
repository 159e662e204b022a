"""Training against the stock Hugging Face Trainer, in turn, each in a process of its own.

The Trainer's script and SST-2 are not part of this project: ``DURABERT_YARDSTICK`` names the directory that
holds ``bench/hf_reference.py`` and ``data/sst2``; default: ``shared`` beside the project.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.figures import summary
from durabert.bert.model import MINILM, resolve_model

SHARED = Path(os.environ.get("DURABERT_YARDSTICK", Path(__file__).parents[2] / "shared"))
SST2 = SHARED / "data" / "sst2"
PAIRS = 5
ROWS = {"padded": 320, "dynamic": 1600, "bf16": 1600, "tuned": 3200}
"""Of an epoch: some 20 seconds for each mode of the Trainer on two cores."""
BATCH_SIZE = {"padded": 16, "dynamic": 32, "bf16": 32, "tuned": 32}


def measure() -> dict[str, object]:
    """Examples per second of the Trainer's modes ``padded`` and ``tuned``, and of ours on the same rows."""
    return {mode: pairs(mode) for mode in ("tuned", "padded")}


def pairs(mode: str) -> dict[str, object]:
    """Train ``PAIRS`` times with the Trainer and with ours."""
    samples = [
        (yardstick(mode, rows=ROWS[mode], seed=seed), ours(rows=ROWS[mode], mode=mode, seed=seed))
        for seed in range(PAIRS)
    ]
    theirs, mine = ([one[side] for one in samples] for side in (0, 1))
    ratios = [b["examples_per_second"] / a["examples_per_second"] for a, b in samples]
    return {
        "batch_size": BATCH_SIZE[mode],
        "rows": ROWS[mode],
        "trainer_examples_per_second": summary([one["examples_per_second"] for one in theirs]),
        "durabert_examples_per_second": summary([one["examples_per_second"] for one in mine]),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "trainer_peak_mib": round(statistics.median(one["peak_rss_mib"] for one in theirs)),
        "durabert_peak_mib": round(statistics.median(one["peak_rss_mib"] for one in mine)),
        "flop_utilisation": round(statistics.median(one["flop_utilisation"] for one in mine), 3),
    }


def yardstick(
    mode: str, *, rows: int, seed: int, evaluate: bool = False, model: Path | None = None
) -> dict[str, Any]:
    """Train with the Trainer and return what it printed; by default MiniLM."""
    model = model or resolve_model(MINILM)
    return printed(
        [sys.executable, *trainer_words(mode, rows=rows, seed=seed, evaluate=evaluate, model=model)]
    )


def trainer_words(mode: str, *, rows: int, seed: int, evaluate: bool, model: Path) -> list[str]:
    """Return the Trainer's script and its arguments."""
    words = [
        str(SHARED / "bench" / "hf_reference.py"), "--mode", mode, "--model", str(model),
        "--train", str(SST2 / "train.tsv"), "--rows", str(rows), "--seed", str(seed),
        "--batch-size", str(BATCH_SIZE[mode]),
    ]  # fmt: skip
    return [*words, "--eval", str(SST2 / "validation.tsv")] if evaluate else words


def ours(*, rows: int, mode: str, seed: int, model: Path | None = None) -> dict[str, Any]:
    """Train with the bare loop in the precision that the machine is best at; fp32 to compare with fp32."""
    precision = "fp32" if mode == "dynamic" else "auto"
    words = [str(rows), str(BATCH_SIZE[mode]), str(seed), precision, str(model or MINILM)]
    return printed([sys.executable, "-m", "benchmarks.yardstick", *words])


def printed(command: list[str]) -> dict[str, Any]:
    """Run a command and return the JSON object in the last line that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return report


def train_in_this_process(
    rows: int, batch_size: int, seed: int, precision: str, model: str
) -> dict[str, Any]:
    """Train one epoch with the bare loop."""
    # As the process of a run has it, before it begins.
    import durabert.bert.compiled  # noqa: F401
    from durabert.bert.data import load_training_data
    from durabert.bert.loop import fine_tune
    from durabert.specs import DataSpec, FineTuneConfig

    # One epoch and a linear schedule without warm-up, as the Trainer's defaults are.
    config = FineTuneConfig.parse(
        {
            "epochs": 1, "batch_size": batch_size, "seed": seed, "max_train_rows": rows,
            "warmup_ratio": 0.0, "weight_decay": 0.0, "precision": precision, "model": model,
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "sst2"
        data.mkdir()
        for split in ("train", "validation"):
            (data / f"{split}.tsv").symlink_to(SST2 / f"{split}.tsv")
        loaded = load_training_data(DataSpec(source=str(data)), max_train_rows=rows, seed=seed)
        began = time.perf_counter()
        trained = fine_tune(
            config,
            loaded,
            output=Path(directory) / "model",
            report=lambda _: None,
            should_stop=lambda: False,
        )
    assert trained.profile is not None
    return {
        "examples_per_second": round(trained.examples_per_second, 1),
        "seconds_in_all": round(time.perf_counter() - began, 1),
        "eval_accuracy": round(trained.metrics["accuracy"], 4),
        "train_seconds": round(trained.train_seconds, 2),
        "peak_rss_mib": round(trained.peak_memory_mib),
        "peak_device_mib": trained.peak_device_memory_mib and round(trained.peak_device_memory_mib),
        "notices": trained.notices,
        "flop_utilisation": trained.profile.flop_utilisation,
        "profile": trained.profile.model_dump(),
    }


if __name__ == "__main__":
    print(json.dumps(train_in_this_process(*map(int, sys.argv[1:4]), *sys.argv[4:6])))
