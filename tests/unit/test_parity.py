"""The gate that an exported model has to pass."""

from __future__ import annotations

import numpy as np
import pytest

from durabert.bert.parity import compare, require_parity, tolerance
from durabert.errors import ExportRefused

CLASSES = ("bad", "good")


def certain(classes) -> np.ndarray:
    """Return logits of a model that is sure of its classes."""
    return np.eye(2, dtype=np.float32)[classes] * 4


def compared(reference, exported, labels, *, task="binary", metric="accuracy", names=CLASSES):
    return compare(
        task, metric, names, labels, reference_NC=reference, exported_NC=exported, data_sha256="d" * 64
    )


def changed(classes, number: int) -> np.ndarray:
    """Return the classes with the first so many of them taken for the other one."""
    other = classes.copy()
    other[:number] = 1 - other[:number]
    return other


LABELS = np.arange(400) % 2


@pytest.mark.parametrize("wrong", [0, 1, 2])
def test_a_model_that_differs_on_half_a_percent_of_the_rows_passes(wrong):
    report = compared(certain(LABELS), certain(changed(LABELS, wrong)), LABELS)

    require_parity(report, what="the export")

    assert report.rows == 400
    assert report.labels_equal == pytest.approx(1 - wrong / 400)
    assert (report.reference, report.exported) == (1.0, pytest.approx(1 - wrong / 400))
    assert report.largest_difference == (4 if wrong else 0)


def test_a_model_that_differs_on_more_is_refused_with_the_figures():
    report = compared(certain(LABELS), certain(changed(LABELS, 3)), LABELS)

    with pytest.raises(ExportRefused) as refused:
        require_parity(report, what="the onnx-int8 export of run 'films'")

    assert str(refused.value) == (
        "the onnx-int8 export of run 'films' is refused: 99.25% of 400 validation rows get the label of the "
        "trained model in fp32 (at least 99.5% are needed), and its accuracy is 0.9925 against 1.0000 (at "
        "most 0.005 worse is allowed); nothing was written"
    )


def test_other_labels_are_refused_even_if_they_are_right():
    reference = certain(changed(LABELS, 20))

    report = compared(reference, certain(LABELS), LABELS)

    assert report.exported > report.reference
    with pytest.raises(ExportRefused, match=r"95\.00% of 400"):
        require_parity(report, what="the export")


def test_the_same_labels_do_not_excuse_a_worse_loss():
    report = compared(certain(LABELS), certain(LABELS) / 4, LABELS, metric="loss")

    assert report.labels_equal == 1
    with pytest.raises(ExportRefused, match=r"its loss is 0\.3133 against 0\.0181"):
        require_parity(report, what="the export")
    require_parity(compared(certain(LABELS) / 4, certain(LABELS), LABELS, metric="loss"), what="the export")


def test_every_label_of_a_row_counts():
    truth = np.array([[1, 0, 1], [0, 0, 0]] * 100, np.float32)
    logits = (truth - 0.5) * 6
    other = logits.copy()
    other[0, 1] = 0.1

    report = compared(logits, other, truth, task="multilabel", metric="f1_micro", names=("a", "b", "c"))

    assert report.labels_equal == pytest.approx(199 / 200)
    require_parity(report, what="the export")


def test_a_regression_is_held_to_its_metric_alone():
    truth = np.linspace(-3, 3, 200).astype(np.float32)
    rough = (truth + np.random.default_rng(0).normal(0, 1, 200)).astype(np.float32)

    near = compared(truth[:, None], truth[:, None] * 1.01, truth, task="regression", metric="pearson")
    far = compared(truth[:, None], rough[:, None], truth, task="regression", metric="pearson")

    assert near.labels_equal is None
    require_parity(near, what="the export")
    with pytest.raises(ExportRefused, match=r"is refused: its pearson is 0\.8\d+ against 1\.0000"):
        require_parity(far, what="the export")


@pytest.mark.parametrize(
    ("task", "metric", "allowed"),
    [
        ("binary", "accuracy", 0.005),
        ("binary", "loss", 0.005),
        ("regression", "pearson", 0.005),
        ("regression", "mse", 0.005 * 100),
        ("regression", "loss", 0.005 * 100),
        ("regression", "mae", 0.005 * 10),
    ],
)
def test_errors_of_a_regression_are_allowed_in_the_unit_of_its_values(task, metric, allowed):
    labels = np.array([-10, 10] * 8)

    assert tolerance(task, metric, labels) == pytest.approx(allowed)


def test_a_model_that_gives_no_numbers_is_refused():
    broken = certain(LABELS)
    broken[3:5, 1] = np.nan

    with pytest.raises(ExportRefused, match="no finite numbers for 2 of 400 validation rows"):
        compared(certain(LABELS), broken, LABELS)
