"""Scores, checked against numbers worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from durabert.bert.loss import Loss, build_loss, label_array
from durabert.bert.metrics import METRICS, best_metric, evaluate, is_better
from durabert.errors import LabelsInvalid, SpecInvalid
from durabert.specs import FineTuneConfig

TASKS = ("binary", "multiclass", "multilabel", "regression")
LOGITS_NC = np.array([[2, 0, 0], [0, 2, 0], [0, 0, 2], [2, 0, 0]], np.float32)
"""Predict classes 0, 1, 2, 0."""


def test_classification_scores():
    metrics = evaluate("multiclass", LOGITS_NC, np.array([0, 1, 2, 1]), ("a", "b", "c"))
    assert metrics.values["accuracy"] == 0.75
    assert metrics.values["f1_micro"] == 0.75
    assert metrics.values["f1_macro"] == pytest.approx((2 / 3 + 2 / 3 + 1) / 3)
    right, wrong = math.log(1 + 2 * math.exp(-2)), math.log(1 + 2 * math.exp(-2)) + 2
    assert metrics.values["loss"] == pytest.approx((3 * right + wrong) / 4)
    assert metrics.confusion == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]
    assert metrics.per_class["b"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "rows": 2}


def test_the_matthews_coefficient_of_opposite_predictions_is_minus_one():
    metrics = evaluate("binary", np.array([[1, 0], [0, 1]], np.float32), np.array([1, 0]), ("no", "yes"))
    assert metrics.values["mcc"] == -1.0


def test_multilabel_scores():
    logits = np.array([[3, -3], [3, 3], [-3, -3]], np.float32)
    metrics = evaluate("multilabel", logits, np.array([[1, 0], [1, 0], [0, 0]], np.float32), ("a", "b"))
    assert metrics.values["accuracy"] == pytest.approx(2 / 3)
    assert metrics.values["f1_micro"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert metrics.values["f1_macro"] == pytest.approx(0.5)
    assert metrics.values["loss"] == pytest.approx(
        (5 * math.log(1 + math.exp(-3)) + math.log(1 + math.exp(3))) / 6
    )
    assert metrics.confusion is None


def test_regression_scores():
    metrics = evaluate("regression", np.array([[1], [2], [4]], np.float32), np.array([1.0, 2.0, 3.0]), ("v",))
    assert metrics.values["mse"] == metrics.values["loss"] == pytest.approx(1 / 3)
    assert metrics.values["mae"] == pytest.approx(1 / 3)
    assert metrics.values["spearman"] == pytest.approx(1)
    assert metrics.values["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 2, 3])[0, 1])


def test_a_constant_prediction_correlates_with_nothing():
    logits = np.ones((3, 1), np.float32)
    values = evaluate("regression", logits, np.array([1.0, 2.0, 3.0]), ("v",)).values
    assert values["pearson"] == values["spearman"] == 0.0


@pytest.mark.parametrize("task", TASKS)
def test_degenerate_cases_give_finite_numbers(task):
    labels = {"multilabel": np.zeros((2, 2), np.float32), "regression": np.array([2.0, 2.0])}
    logits = np.zeros((2, 1 if task == "regression" else 2), np.float32)
    for rows in (1, 2):
        truth = labels.get(task, np.array([1, 1]))[:rows]
        metrics = evaluate(task, logits[:rows], truth, ("a", "b")[: logits.shape[1]])
        json.dumps(metrics.values, allow_nan=False)
        assert set(metrics.values) == set(METRICS[task])


def test_confident_mistakes_have_a_finite_loss():
    logits = np.array([[1e4, -1e4]], np.float32)
    assert evaluate("binary", logits, np.array([1]), ("a", "b")).values["loss"] == pytest.approx(2e4)
    multilabel = evaluate("multilabel", logits, np.array([[0.0, 1.0]]), ("a", "b"))
    assert multilabel.values["loss"] == pytest.approx(1e4)


def test_each_task_has_its_default_metric():
    assert [best_metric("auto", task) for task in TASKS] == ["accuracy", "accuracy", "f1_micro", "pearson"]


@pytest.mark.parametrize(
    ("metric", "task"), [("pearson", "binary"), ("mcc", "multilabel"), ("accuracy", "regression")]
)
def test_a_metric_of_another_task_is_refused(metric, task):
    with pytest.raises(
        SpecInvalid, match=f"best_metric is '{metric}', but should be one of .* for a {task} task"
    ):
        best_metric(metric, task)


def test_losses_are_better_when_lower_and_scores_when_higher():
    assert is_better("loss", 0.1, than=0.2)
    assert is_better("mse", 0.1, than=0.2)
    assert is_better("accuracy", 0.2, than=0.1)
    assert not is_better("accuracy", 0.2, than=0.2)


def loss_of(config, task, names, labels):
    return build_loss(config, task=task, names=names, labels=labels, device=torch.device("cpu"))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, "balanced", {"b": 3.0}])
def test_the_classification_loss_is_torchs_weighted_mean(weights, smoothing):
    labels = label_array("multiclass", [0, 1, 1, 2])
    config = FineTuneConfig(class_weights=weights, label_smoothing=smoothing)
    loss = loss_of(config, "multiclass", ("a", "b", "c"), labels)
    logits, truth = torch.from_numpy(LOGITS_NC), torch.from_numpy(labels)
    expected_weights = {None: None, "balanced": [4 / 3, 2 / 3, 4 / 3]}.get(
        weights if not isinstance(weights, dict) else "", [1.0, 3.0, 1.0]
    )
    expected = torch.nn.functional.cross_entropy(
        logits,
        truth,
        weight=None if expected_weights is None else torch.tensor(expected_weights),
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(loss.sum(logits, truth) / loss.divisor(truth), expected)


def test_the_multilabel_loss_is_torchs_mean():
    labels = label_array("multilabel", [[1, 0, 1], [0, 0, 1]])
    loss = loss_of(FineTuneConfig(), "multilabel", ("a", "b", "c"), labels)
    logits, truth = torch.randn(2, 3), torch.from_numpy(labels)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, truth)
    torch.testing.assert_close(loss.sum(logits, truth) / loss.divisor(truth), expected)


def test_a_weight_of_zero_difference_changes_nothing_in_multilabel():
    labels = label_array("multilabel", [[1, 0], [0, 1]])
    logits, truth = torch.randn(2, 2), torch.from_numpy(labels)
    plain = Loss("multilabel", None, 0.0)
    weighted = loss_of(FineTuneConfig(class_weights="balanced"), "multilabel", ("a", "b"), labels)
    torch.testing.assert_close(
        weighted.sum(logits, truth) / weighted.divisor(truth), plain.sum(logits, truth) / plain.divisor(truth)
    )


def test_the_regression_loss_is_the_mean_squared_error():
    loss = Loss("regression", None, 0.0)
    logits, truth = torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])
    assert loss.sum(logits, truth) / loss.divisor(truth) == 5.0


def test_a_weight_for_an_unknown_label_is_refused():
    config = FineTuneConfig(class_weights={"goood": 2.0})
    with pytest.raises(
        LabelsInvalid, match="weight for 'goood', which is no label of the data; they are 'bad', 'good'"
    ):
        loss_of(config, "binary", ("bad", "good"), np.array([0, 1]))


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_label_smoothing_is_for_one_class_per_text(task):
    with pytest.raises(SpecInvalid, match=r"label_smoothing is 0\.1, but should be 0"):
        loss_of(FineTuneConfig(label_smoothing=0.1), task, ("a",), np.array([[1.0]]))


def test_a_regression_has_no_class_weights():
    with pytest.raises(SpecInvalid, match="regression task has no classes"):
        loss_of(FineTuneConfig(class_weights="balanced"), "regression", ("a",), np.array([1.0]))
