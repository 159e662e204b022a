"""What is told of two models: a difference, or noise."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from durabert.bert.comparison import compare_sides, mcnemar, seeds_p_value
from tests.unit.test_bootstrap import classifier

HOW = {"confidence": 0.95, "num_samples": 500}


def right(share: float, rows: int = 400, *, shift: int = 0):
    """Return a classifier that is right for this share of its rows."""
    return classifier([(number + shift) % 100 < 100 * share for number in range(rows)])


def test_a_model_beside_itself_is_noise():
    [found] = compare_sides([right(0.8)], [right(0.8)], ["accuracy"], **HOW)

    assert (found.difference, found.interval, found.verdict) == (0, (0, 0), "noise")
    assert found.p_value == 1
    assert "inside the noise" in found.sentence("a", "b")


def test_a_large_difference_is_told_with_its_direction():
    accuracy, loss = compare_sides([right(0.6)], [right(0.9)], ["accuracy", "loss"], **HOW)

    assert accuracy.difference == pytest.approx(0.3)
    assert (accuracy.verdict, loss.verdict) == ("better", "better")
    assert loss.difference < 0
    assert accuracy.p_value < 0.01
    assert accuracy.sentence("a", "b").startswith("b is better than a: accuracy 0.9000 instead of 0.6000")
    [back] = compare_sides([right(0.9)], [right(0.6)], ["accuracy"], **HOW)
    assert back.verdict == "worse"
    assert back.interval == pytest.approx(tuple(-one for one in reversed(accuracy.interval)))


def test_rows_that_are_hard_for_both_cancel_out():
    # One is right wherever the other one is, and for one row in fifty more.
    paired = compare_sides([right(0.50)], [right(0.52)], ["accuracy"], **HOW)
    # The same shares, on rows that have nothing to do with each other.
    apart = compare_sides([right(0.50)], [right(0.52, shift=50)], ["accuracy"], **HOW)

    assert paired[0].verdict == "better"
    assert apart[0].verdict == "noise"


def test_a_difference_smaller_than_that_of_seeds_is_noise():
    first = [right(share) for share in (0.5, 0.7, 0.9)]
    second = [right(share) for share in (0.6, 0.8, 1.0)]

    [found] = compare_sides(first, second, ["accuracy"], **HOW)

    assert found.first.mean == pytest.approx(0.7)
    assert found.first.deviation == pytest.approx(np.std([0.5, 0.7, 0.9], ddof=1))
    assert found.interval[0] > 0, "the rows alone would not say so"
    assert found.seed_p_value > 0.05
    assert found.verdict == "noise"


def test_a_difference_beyond_that_of_seeds_is_one():
    first = [right(share) for share in (0.60, 0.61, 0.62)]
    second = [right(share) for share in (0.90, 0.91, 0.92)]

    [found] = compare_sides(first, second, ["accuracy"], **HOW)

    assert found.verdict == "better"
    assert (found.first.runs, found.second.runs) == (3, 3)


VALUES = st.lists(st.integers(0, 1000).map(lambda value: value / 1000), min_size=2, max_size=6)


@given(VALUES, VALUES)
def test_seeds_are_judged_as_by_welch(first, second):
    if len(set(first)) == len(set(second)) == 1:
        assert seeds_p_value(first, second) in {0.0, 1.0}
        return

    with warnings.catch_warnings(action="ignore"):
        # Of values that are nearly the same.
        expected = stats.ttest_ind(first, second, equal_var=False).pvalue

    assert seeds_p_value(first, second) == pytest.approx(expected, abs=1e-9)


def test_one_run_beside_several_is_held_against_the_next_one_of_them():
    several = [0.80, 0.82, 0.81, 0.79]

    assert seeds_p_value(several, [0.805]) > 0.5
    assert seeds_p_value(several, [0.95]) < 0.01
    assert seeds_p_value([0.95], several) == seeds_p_value(several, [0.95])
    assert seeds_p_value([0.8], [0.9]) is None


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_is_the_binomial_test_of_the_rows_that_one_alone_gets_right(first_alone, second_alone):
    first = classifier([True] * first_alone + [False] * second_alone + [True, False])
    second = classifier([False] * first_alone + [True] * second_alone + [True, False])

    found = mcnemar(first, second)

    assert (found.first_alone, found.second_alone) == (first_alone, second_alone)
    discordant = first_alone + second_alone
    expected = stats.binomtest(first_alone, discordant).pvalue if discordant else 1.0
    assert found.p_value == pytest.approx(expected)


def test_equal_seeds_give_equal_figures():
    found = [compare_sides([right(0.5)], [right(0.6)], ["mcc"], seed=3, **HOW) for _ in range(2)]

    assert found[0] == found[1]
