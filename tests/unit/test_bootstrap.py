"""Samples of rows, and the intervals that they give."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from durabert.bert.bootstrap import percentile_interval, resampled, sampled_scores
from durabert.bert.weighted_metrics import Judged, WeightedMetrics


def classifier(right: list[bool]) -> Judged:
    """Return predictions of two classes of which these are right."""
    truth = np.arange(len(right)) % 2
    predicted = np.where(right, truth, 1 - truth)
    return Judged("binary", ("no", "yes"), truth, predicted, np.where(right, 0.1, 2.0))


def test_a_sample_has_as_many_rows_as_there_are():
    for weights in resampled(17, 20, seed=0):
        assert weights.sum() == 17
        assert weights.shape == (17,)


def test_equal_seeds_draw_equal_rows_and_others_do_not():
    first, again, other = ([w.tolist() for w in resampled(50, 3, seed=seed)] for seed in (1, 1, 2))

    assert first == again
    assert first != other


def test_the_spread_of_the_samples_is_that_of_the_binomial_distribution():
    judged = classifier([number % 5 != 0 for number in range(200)])

    scores = sampled_scores(WeightedMetrics(judged, ["accuracy"]), 200, num_samples=4000, seed=0)

    assert scores["accuracy"].mean() == pytest.approx(0.8, abs=0.003)
    assert scores["accuracy"].std() == pytest.approx(math.sqrt(0.8 * 0.2 / 200), rel=0.05)


def test_the_interval_is_that_of_scipy():
    judged = classifier([number % 3 != 0 for number in range(90)])
    right = ~judged.wrong()

    ours = percentile_interval(
        sampled_scores(WeightedMetrics(judged, ["accuracy"]), 90, num_samples=5000, seed=0)["accuracy"], 0.95
    )
    theirs = stats.bootstrap(
        (right.astype(float),), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval

    assert ours == pytest.approx((theirs.low, theirs.high), abs=0.012)


def test_an_interval_leaves_out_the_same_share_at_both_ends():
    low, high = percentile_interval(np.arange(1001, dtype=float), 0.9)

    assert (low, high) == pytest.approx((50, 950))


def test_a_metric_that_cannot_be_otherwise_has_an_interval_without_width():
    judged = classifier([True] * 40)

    scores = sampled_scores(WeightedMetrics(judged, ["accuracy", "mcc"]), 40, num_samples=100, seed=0)

    assert percentile_interval(scores["accuracy"], 0.95) == (1.0, 1.0)


def test_every_sample_is_told_and_may_stop_the_work():
    told = []

    def stop() -> None:
        told.append(1)
        if len(told) == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        sampled_scores(
            WeightedMetrics(classifier([True, False]), ["accuracy"]), 2, num_samples=9, seed=0, on_sample=stop
        )
