"""An evaluation of made-up predictions, for every task: what it says, and what its tables hold."""

from __future__ import annotations

import numpy as np
import pytest

from durabert.bert import evaluation
from durabert.bert.evaluation import evaluate_rows, worst_errors
from durabert.bert.evaluation_data import EvaluationRows
from durabert.bert.evaluation_tables import prediction_table, read_predictions, read_worst, worst_table
from durabert.bert.metrics import METRICS, evaluate
from durabert.errors import ArtifactDamaged
from durabert.specs import EvaluationOptions
from tests.unit.test_weighted_metrics import case

NUM_ROWS = 80
OPTIONS = EvaluationOptions(resamples=100, worst=5)


def evaluated(task: str, *, slices: dict | None = None, options=OPTIONS, pairs: bool = False):
    logits, truth, labels = case(task, NUM_ROWS, 11)
    texts = [f"text {number}" for number in range(NUM_ROWS)]
    rows = EvaluationRows(
        texts, [f"pair {number}" for number in range(NUM_ROWS)] if pairs else None, truth.tolist(),
        [2 * number for number in range(NUM_ROWS)], slices or {}, [],
    )  # fmt: skip
    return evaluate_rows(task, labels, logits, rows, METRICS[task], options), rows, labels


@pytest.mark.parametrize("task", METRICS)
def test_the_metrics_are_those_of_the_validation_and_lie_in_their_intervals(task):
    logits, truth, labels = case(task, NUM_ROWS, 11)

    found, _, _ = evaluated(task)

    assert found.metrics == evaluate(task, logits, truth, labels).values
    for name, value in found.metrics.items():
        low, high = found.intervals[name]
        assert low < high
        assert low - 0.1 < value < high + 0.1


@pytest.mark.parametrize("task", METRICS)
def test_the_predictions_of_every_task_read_back(task):
    found, rows, labels = evaluated(task)

    positions, judged = read_predictions(prediction_table(found, rows), task, labels)

    assert positions.tolist() == rows.rows
    assert np.array_equal(judged.truth, found.judged.truth)
    assert np.array_equal(judged.predicted, found.judged.predicted)
    assert np.array_equal(judged.losses, found.judged.losses)


@pytest.mark.parametrize("task", METRICS)
def test_the_worst_errors_of_every_task_have_their_texts(task):
    found, rows, _ = evaluated(task, pairs=True)

    worst = read_worst(worst_table(found, rows))

    assert len(worst) == 5
    losses = [one["loss"] for one in worst]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == found.judged.losses[found.judged.wrong()].max()
    for one in worst:
        assert one["text"] == f"text {one['row'] // 2}"
        assert one["text_pair"] == f"pair {one['row'] // 2}"


def test_a_regression_has_neither_labels_nor_calibration():
    found, _, _ = evaluated("regression")

    assert (found.report.per_class, found.report.confusion, found.report.reliability) == ([], None, [])
    assert found.report.calibration_error is None


def test_slices_are_the_metrics_of_their_rows():
    values = ["a"] * 50 + ["b"] * 30
    logits, truth, labels = case("multiclass", NUM_ROWS, 11)

    found, _, _ = evaluated("multiclass", slices={"column": values})

    first, second = found.report.slices
    assert [(one.value, one.rows) for one in (first, second)] == [("a", 50), ("b", 30)]
    expected = evaluate("multiclass", logits[50:], truth[50:], labels).values
    assert second.metrics == pytest.approx(expected)
    assert all(low <= high for low, high in second.intervals.values())


def test_a_column_with_many_values_has_its_most_frequent_as_slices(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_SLICES", 2)

    found, _, _ = evaluated("binary", slices={"column": ["b"] * 40 + ["a"] * 39 + ["c"]})

    assert [one.value for one in found.report.slices] == ["b", "a"]
    assert found.notices == ["'column' has 3 values; the 2 most frequent are slices"]


def test_no_errors_are_kept_where_none_are_wanted():
    found, rows, _ = evaluated("binary", options=EvaluationOptions(resamples=100, worst=0))

    assert worst_errors(found.judged, 0) == []
    assert read_worst(worst_table(found, rows)) == []


def test_equal_seeds_give_equal_bytes():
    tables = []
    for _ in range(2):
        found, rows, _ = evaluated("binary")
        tables.append((prediction_table(found, rows), worst_table(found, rows), found.intervals))

    assert tables[0] == tables[1]


def test_what_is_no_table_is_told():
    with pytest.raises(ArtifactDamaged, match="the predictions of an evaluation cannot be read"):
        read_predictions(b"no parquet", "binary", ("no", "yes"))
    with pytest.raises(ArtifactDamaged, match="the worst errors of an evaluation cannot be read"):
        read_worst(b"")
