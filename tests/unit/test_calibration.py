"""Expected calibration error against its definition and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from durabert.bert.calibration import calibrate, calibration_of


def test_confidence_that_is_accuracy_has_no_error():
    confidence = np.array([0.5, 0.5, 0.75, 0.75, 0.75, 0.75])
    right = np.array([True, False, True, True, True, False])

    assert calibrate(confidence, right, num_bins=10).error == 0


def test_the_error_of_one_bin_is_the_distance_of_confidence_and_accuracy():
    found = calibrate(np.full(10, 0.9), np.arange(10) < 6, num_bins=15)

    assert found.error == pytest.approx(0.3)
    [used] = [one for one in found.bins if one.rows]
    assert (used.rows, used.accuracy) == (10, 0.6)
    assert used.low < 0.9 <= used.high


def test_bins_weigh_as_many_as_their_predictions():
    confidence = np.array([0.95] * 3 + [0.55])
    right = np.array([True, True, True, False])

    assert calibrate(confidence, right, num_bins=2).error == pytest.approx(abs(3 - (3 * 0.95 + 0.55)) / 4)


@pytest.mark.parametrize(("confidence", "number"), [(0.0, 0), (0.1, 0), (0.5, 4), (0.50001, 5), (1.0, 9)])
def test_an_edge_belongs_to_the_bin_below_it(confidence, number):
    found = calibrate(np.array([confidence]), np.array([True]), num_bins=10)

    assert [place for place, one in enumerate(found.bins) if one.rows] == [number]


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60), st.integers(1, 20))
def test_the_error_follows_its_definition(predictions, num_bins):
    confidence = np.array([one for one, _ in predictions])
    right = np.array([one for _, one in predictions])

    found = calibrate(confidence, right, num_bins=num_bins)

    weighted = sum(one.rows * abs(one.accuracy - one.confidence) for one in found.bins if one.rows)
    assert found.error == pytest.approx(weighted / len(predictions), abs=1e-12)
    assert sum(one.rows for one in found.bins) == len(predictions)
    assert 0 <= found.error <= 1


def test_the_confidence_of_a_classifier_is_that_of_its_prediction():
    probabilities = np.array([[0.2, 0.8], [0.9, 0.1]])

    found = calibration_of("binary", probabilities, np.array([1, 1]), num_bins=10)

    assert found.error == pytest.approx((0.2 + 0.9) / 2)


def test_each_label_of_a_text_is_a_prediction_by_itself():
    probabilities = np.array([[0.8, 0.3]])

    found = calibration_of("multilabel", probabilities, np.array([[1, 1]]), num_bins=10)

    assert sum(one.rows for one in found.bins) == 2
    assert found.error == pytest.approx((0.2 + 0.7) / 2)


def test_a_number_has_no_confidence():
    assert calibration_of("regression", np.array([[0.2]]), np.array([0.1]), num_bins=10) is None
