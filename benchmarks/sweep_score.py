"""The stub that every searcher of the benchmark ``sweep`` is given; needs the standard library alone."""

from __future__ import annotations

import math

TRIALS = 1000
CONCURRENCY = 8
STUB_SECONDS = 0.2


def score(learning_rate: float, weight_decay: float, batch_size: int) -> float:
    """Return a made-up accuracy with one summit."""
    return 1 - abs(math.log10(learning_rate) + 4) / 4 - weight_decay - abs(batch_size - 16) / 100
