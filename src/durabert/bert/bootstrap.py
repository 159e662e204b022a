"""How much a metric could be otherwise by chance: samples of the rows, drawn with replacement.

Shape letters: N rows, S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from durabert.bert.weighted_metrics import Floats, WeightedMetrics, Weights

Interval = tuple[float, float]


def resampled(num_rows: int, num_samples: int, seed: int) -> Iterator[Weights]:
    """Yield how often each row is in a sample of as many rows, (N,); equal for equal seeds."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for _ in range(num_samples):
        drawn = rng.integers(0, num_rows, size=num_rows)
        yield np.bincount(drawn, minlength=num_rows).astype(np.float64)


def sampled_scores(
    metrics: WeightedMetrics,
    num_rows: int,
    *,
    num_samples: int,
    seed: int,
    on_sample: Callable[[], None] = lambda: None,
) -> dict[str, Floats]:
    """Return each metric on each sample, (S,).

    Args:
        metrics: of the rows.
        num_rows: N.
        num_samples: S.
        seed: of the samples.
        on_sample: called after each; may raise.
    """
    scores: dict[str, Floats] = {name: np.empty(num_samples) for name in metrics.names}
    for number, weights in enumerate(resampled(num_rows, num_samples, seed)):
        for name, value in metrics.scores(weights).items():
            scores[name][number] = value
        on_sample()
    return scores


def percentile_interval(values_S: Floats, confidence: float) -> Interval:
    """Return the interval that leaves out the same share of the samples at both ends.

    Args:
        values_S: a metric on each sample.
        confidence: share of the samples inside, 0 to 1.

    Source:
        Efron and Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    outside = (1 - confidence) / 2
    low, high = np.quantile(values_S, [outside, 1 - outside])
    return float(low), float(high)
