"""Is what is fast as good: validation accuracy on SST-2 over seeds, beside the stock Hugging Face Trainer."""

from __future__ import annotations

import statistics

from benchmarks.yardstick import ours, yardstick

SEEDS = 3
ROWS = 6400


def measure() -> dict[str, object]:
    """Accuracy on the 872 validation rows after an epoch of 6,400 rows, MiniLM, batch size 32."""
    theirs = [
        yardstick("tuned", rows=ROWS, seed=seed, evaluate=True)["eval_accuracy"] for seed in range(SEEDS)
    ]
    mine = [ours(rows=ROWS, mode="tuned", seed=seed)["eval_accuracy"] for seed in range(SEEDS)]
    return {
        "rows": ROWS,
        "trainer_tuned": theirs,
        "durabert": mine,
        "difference_of_means": round(statistics.mean(mine) - statistics.mean(theirs), 4),
        "deviation_of_trainer": round(statistics.stdev(theirs), 4),
    }
