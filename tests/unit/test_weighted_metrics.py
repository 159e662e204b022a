"""Metrics of weighted rows are those of scikit-learn on the rows as often as their weight says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durabert.bert.metrics import METRICS, evaluate
from durabert.bert.weighted_metrics import WeightedMetrics, chosen_metrics, judge
from durabert.errors import SpecInvalid

LABELS = ("a", "b", "c")


def case(task: str, rows: int, seed: int):
    """Return logits, the truth and the labels of made-up predictions that are right more often than not."""
    rng = np.random.default_rng(seed)
    names = LABELS[:2] if task == "binary" else LABELS[:1] if task == "regression" else LABELS
    logits = rng.normal(size=(rows, len(names))).astype(np.float32)
    if task == "regression":
        # Values with ties, as ratings have.
        truth = np.round(logits[:, 0] + rng.normal(size=rows)).astype(np.float32)
    elif task == "multilabel":
        truth = (logits + rng.normal(size=logits.shape) > 0).astype(np.float32)
    else:
        truth = (logits + rng.normal(size=logits.shape)).argmax(axis=1).astype(np.int64)
    return logits, truth, names


@pytest.mark.parametrize("task", METRICS)
@given(rows=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40, deadline=None)
def test_a_row_counts_as_often_as_its_weight_says(task, rows, seed):
    logits, truth, names = case(task, rows, seed)
    drawn = np.random.default_rng(seed + 1).integers(0, rows, size=rows)
    expected = evaluate(task, logits[drawn], truth[drawn], names).values

    metrics = WeightedMetrics(judge(task, logits, truth, names), METRICS[task])
    found = metrics.scores(np.bincount(drawn, minlength=rows).astype(float))

    assert found == pytest.approx({name: expected[name] for name in METRICS[task]}, abs=1e-9)


@pytest.mark.parametrize("task", METRICS)
def test_weights_of_one_are_all_rows(task):
    logits, truth, names = case(task, 200, 7)

    found = WeightedMetrics(judge(task, logits, truth, names), METRICS[task]).scores(np.ones(200))

    assert found == pytest.approx(evaluate(task, logits, truth, names).values, abs=1e-9)


def test_the_loss_of_the_rows_has_the_loss_as_its_mean():
    logits, truth, names = case("multilabel", 50, 3)

    judged = judge("multilabel", logits, truth, names)

    assert judged.losses.mean() == pytest.approx(evaluate("multilabel", logits, truth, names).values["loss"])


def test_some_of_the_rows_are_rows_by_themselves():
    logits, truth, names = case("multiclass", 30, 5)
    judged = judge("multiclass", logits, truth, names)
    rows = np.array([3, 4, 9])

    part = judged.take(rows)

    assert part.wrong().tolist() == judged.wrong()[rows].tolist()
    assert part.losses.tolist() == judged.losses[rows].tolist()


def test_a_metric_that_the_task_does_not_have_is_told_with_those_that_it_has():
    with pytest.raises(
        SpecInvalid, match=r"metric is 'pearson', but should be one of accuracy, .* binary task"
    ):
        chosen_metrics(["accuracy", "pearson"], "binary")
    assert chosen_metrics([], "regression") == METRICS["regression"]
    assert chosen_metrics(["mcc"], "binary") == ("mcc",)
