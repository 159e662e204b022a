"""Whether one model is better than another one, or only seems so.

Two things may make a difference by chance: which rows are in the evaluation set, and which seed a run was
trained with. The rows are drawn anew for both sides at once, so that what is hard for both cancels out; the
seeds are judged where a side has several runs.

Shape letters: N rows, S samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from durabert.bert.bootstrap import Interval, percentile_interval, resampled
from durabert.bert.weighted_metrics import Floats, Judged, WeightedMetrics
from durabert.specs import LOWER_IS_BETTER

Verdict = Literal["better", "worse", "noise"]
ROUNDING: Final = 1e-12
"""Differences up to this are those of the order of sums."""


@dataclass(frozen=True)
class Mean:
    """A metric over the runs of one side."""

    mean: float
    deviation: float | None
    """Standard deviation over the runs, with Bessel's correction; none for one run."""
    runs: int


@dataclass(frozen=True)
class MetricDifference:
    """A metric of two sides."""

    metric: str
    first: Mean
    second: Mean
    difference: float
    """The second minus the first."""
    interval: Interval
    """Of the difference, over samples of the rows."""
    p_value: float
    """Of the rows: how often a sample turns the sign of the difference, for both signs."""
    seed_p_value: float | None
    """Of the seeds; none where each side has one run."""
    verdict: Verdict
    """What the second is beside the first; ``noise``: the rows or the seeds may be the whole reason."""

    def sentence(self, first: str, second: str) -> str:
        """Say what it means."""
        what = f"{self.metric} {self.second.mean:.4f} instead of {self.first.mean:.4f}"
        size = f"{self.difference:+.4f}, {self.interval[0]:+.4f} to {self.interval[1]:+.4f}"
        if self.verdict == "noise":
            return f"{self.metric}: the difference between {second} and {first} is inside the noise ({size})"
        return f"{second} is {self.verdict} than {first}: {what} ({size})"


@dataclass(frozen=True)
class McNemar:
    """Rows that one of two classifiers alone gets right."""

    first_alone: int
    second_alone: int
    p_value: float


def compare_sides(
    first: Sequence[Judged],
    second: Sequence[Judged],
    metrics: Sequence[str],
    *,
    confidence: float,
    num_samples: int,
    seed: int = 0,
    on_sample: Callable[[], None] = lambda: None,
) -> list[MetricDifference]:
    """Compare two sides, each of one run or more, on the same rows.

    Args:
        first: one entry a run.
        second: the same rows in the same order.
        metrics: names of those to compare.
        confidence: of the interval.
        num_samples: S.
        seed: of the samples.
        on_sample: called after each; may raise.

    Source:
        Paired bootstrap: Koehn 2004, Statistical Significance Tests for Machine Translation Evaluation,
        section 3.3; Efron and Tibshirani 1993, section 16.4. A p-value counts the observation as one sample
        more: Davison and Hinkley 1997, equation 4.11.
    """
    num_rows = len(first[0])
    sides = [[WeightedMetrics(judged, metrics) for judged in side] for side in (first, second)]
    observed = [[one.scores(np.ones(num_rows)) for one in side] for side in sides]
    sampled: dict[str, Floats] = {name: np.empty(num_samples) for name in metrics}
    for number, weights in enumerate(resampled(num_rows, num_samples, seed)):
        scores = [[one.scores(weights) for one in side] for side in sides]
        for name in metrics:
            means = [_mean([run[name] for run in side]) for side in scores]
            sampled[name][number] = means[1] - means[0]
        on_sample()
    return [
        _difference(name, [[run[name] for run in side] for side in observed], sampled[name], confidence)
        for name in metrics
    ]


def _difference(
    metric: str, values: list[list[float]], sampled_S: Floats, confidence: float
) -> MetricDifference:
    first, second = (_summary(side) for side in values)
    difference = second.mean - first.mean
    low, high = percentile_interval(sampled_S, confidence)
    seed_p_value = seeds_p_value(*values)
    by_rows = low <= 0 <= high
    by_seeds = seed_p_value is not None and seed_p_value >= 1 - confidence
    verdict: Verdict = "noise"
    if not (by_rows or by_seeds):
        verdict = "better" if (difference > 0) != (metric in LOWER_IS_BETTER) else "worse"
    return MetricDifference(
        metric=metric,
        first=first,
        second=second,
        difference=difference,
        interval=(low, high),
        p_value=_sign_p_value(sampled_S),
        seed_p_value=seed_p_value,
        verdict=verdict,
    )


def _sign_p_value(sampled_S: Floats) -> float:
    fewer = min(int((sampled_S <= 0).sum()), int((sampled_S >= 0).sum()))
    return min(1.0, 2 * (fewer + 1) / (len(sampled_S) + 1))


def _summary(values: Sequence[float]) -> Mean:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return Mean(_mean(values), deviation, len(values))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def seeds_p_value(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Return how likely seeds alone give such a difference of means, or a larger one; None for two runs.

    Args:
        first: a metric of each run.
        second: the same of the other side.

    Source:
        Several runs on both sides: Welch 1947, t-test with unequal variances. One run on a side: whether it
        could be one more of the other side's, by the prediction interval of the normal distribution
        (Geisser 1993, example 2.2).
    """
    from scipy.stats import t as student

    if len(first) == 1 and len(second) == 1:
        return None
    many = [values for values in (first, second) if len(values) > 1]
    difference = abs(_mean(second) - _mean(first))
    variances = [float(np.var(values, ddof=1)) / len(values) for values in many]
    if len(many) == 1:
        freedom = float(len(many[0]) - 1)
        error = math.sqrt(variances[0] * (len(many[0]) + 1))
    else:
        error = math.sqrt(sum(variances))
        below = sum(one**2 / (len(values) - 1) for one, values in zip(variances, many, strict=True))
        freedom = sum(variances) ** 2 / below if below else 1.0
    if error <= ROUNDING:
        return 1.0 if difference <= ROUNDING else 0.0
    return float(2 * student.sf(difference / error, freedom))


def mcnemar(first: Judged, second: Judged) -> McNemar:
    """Test whether two classifiers are wrong equally often, by the rows that one alone gets right.

    Source:
        McNemar 1947; the exact test, by the binomial distribution: Dietterich 1998, section 3.1, for its use
        with classifiers.
    """
    from scipy.stats import binom

    right, other = ~first.wrong(), ~second.wrong()
    first_alone, second_alone = int((right & ~other).sum()), int((~right & other).sum())
    discordant = first_alone + second_alone
    p_value = min(1.0, 2 * float(binom.cdf(min(first_alone, second_alone), discordant, 0.5)))
    return McNemar(first_alone, second_alone, p_value if discordant else 1.0)
