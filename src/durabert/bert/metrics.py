"""How good predictions are.

Shape letters: N examples, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from durabert.errors import SpecInvalid
from durabert.specs import LOWER_IS_BETTER, Task

if TYPE_CHECKING:
    # Who compares metrics needs no torch.
    from durabert.bert.loss import Labels

THRESHOLD: Final = 0.5
"""Probability above which a label of a multi-label task holds."""

_CLASSIFICATION: Final = ("accuracy", "f1_macro", "f1_micro", "mcc", "loss")
METRICS: Final[dict[Task, tuple[str, ...]]] = {
    "binary": _CLASSIFICATION,
    "multiclass": _CLASSIFICATION,
    "multilabel": ("f1_micro", "f1_macro", "accuracy", "loss"),
    "regression": ("pearson", "spearman", "mse", "mae", "loss"),
}
_BY_DEFAULT: Final[dict[Task, str]] = {
    "binary": "accuracy",
    "multiclass": "accuracy",
    "multilabel": "f1_micro",
    "regression": "pearson",
}


@dataclass(frozen=True)
class Metrics:
    """Scores of one set of predictions, finite numbers all of them."""

    values: dict[str, float]
    """Score by name, see ``METRICS``."""
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    """Precision, recall, f1 and number of rows of each label; empty for regression."""
    confusion: list[list[int]] | None = None
    """Rows by true class (first index) and predicted class; one label per text only."""


def best_metric(name: str, task: Task) -> str:
    """Return the metric that picks the best epoch, ``auto`` resolved.

    Raises:
        SpecInvalid: the task has no such metric.
    """
    if name == "auto":
        return _BY_DEFAULT[task]
    if name not in METRICS[task]:
        raise SpecInvalid(
            f"best_metric is {name!r}, but should be one of {', '.join(METRICS[task])} for a {task} task"
        )
    return name


def is_better(metric: str, value: float, than: float) -> bool:
    """Tell whether a score is strictly better than another one."""
    return value < than if metric in LOWER_IS_BETTER else value > than


def evaluate(
    task: Task, logits_NC: NDArray[np.float32], labels: Labels, label_names: Sequence[str]
) -> Metrics:
    """Score predictions; what is undefined, such as the correlation of a constant, is 0.

    Args:
        task: what was learned.
        logits_NC: raw outputs of the model; C is 1 for regression.
        labels: the truth, see ``Labels``.
        label_names: by class number.
    """
    logits = logits_NC.astype(np.float64)
    if task == "regression":
        return _regression(logits[:, 0], labels.astype(np.float64))
    if task == "multilabel":
        return _multilabel(logits, labels, label_names)
    return _classification(logits, labels, label_names)


def _classification(logits_NC: NDArray[np.float64], labels_N: Labels, names: Sequence[str]) -> Metrics:
    from scipy.special import log_softmax
    from sklearn.metrics import confusion_matrix

    classes = range(len(names))
    predicted_N = logits_NC.argmax(axis=1)
    log_probabilities_N = log_softmax(logits_NC, axis=1)[np.arange(len(labels_N)), labels_N]
    values = {
        "accuracy": float((predicted_N == labels_N).mean()),
        **_f1(labels_N, predicted_N, list(classes)),
        "mcc": _mcc(labels_N, predicted_N),
        "loss": float(-log_probabilities_N.mean()),
    }
    return Metrics(
        values,
        _per_class(labels_N, predicted_N, names),
        confusion_matrix(labels_N, predicted_N, labels=list(classes)).tolist(),
    )


def _mcc(labels_N: Labels, predicted_N: Labels) -> float:
    from sklearn.metrics import matthews_corrcoef

    # Undefined, of which scikit-learn warns.
    if len(np.union1d(labels_N, predicted_N)) < 2:
        return 0.0
    return float(matthews_corrcoef(labels_N, predicted_N))


def _multilabel(logits_NC: NDArray[np.float64], labels_NC: Labels, names: Sequence[str]) -> Metrics:
    predicted_NC = (logits_NC > math.log(THRESHOLD / (1 - THRESHOLD))).astype(np.int64)
    truth_NC = labels_NC.astype(np.int64)
    # Binary cross entropy in its stable form: softplus(logit) - label * logit.
    losses_NC = np.logaddexp(0, logits_NC) - labels_NC * logits_NC
    values = {
        "accuracy": float((predicted_NC == truth_NC).all(axis=1).mean()),
        **_f1(truth_NC, predicted_NC, list(range(len(names)))),
        "loss": float(losses_NC.mean()),
    }
    return Metrics(values, _per_class(truth_NC, predicted_NC, names))


def _regression(values_N: NDArray[np.float64], labels_N: NDArray[np.float64]) -> Metrics:
    from scipy.stats import pearsonr, spearmanr
    from sklearn.metrics import mean_absolute_error, mean_squared_error

    mse = float(mean_squared_error(labels_N, values_N))
    return Metrics(
        {
            "pearson": _correlation(pearsonr, labels_N, values_N),
            "spearman": _correlation(spearmanr, labels_N, values_N),
            "mse": mse,
            "mae": float(mean_absolute_error(labels_N, values_N)),
            "loss": mse,
        }
    )


def _correlation(
    measure: Callable[..., Any], labels_N: NDArray[np.float64], values_N: NDArray[np.float64]
) -> float:
    # Correlation with a constant is undefined, and with an almost constant one it is rounding noise.
    if len(labels_N) < 2 or is_constant(labels_N) or is_constant(values_N):
        return 0.0
    return float(measure(labels_N, values_N).statistic)


def is_constant(values_N: NDArray[np.float64]) -> bool:
    """Tell whether values differ by no more than rounding."""
    return bool(np.ptp(values_N) <= 1e-9 * max(1.0, float(np.abs(values_N).max())))


def _f1(truth: Labels, predicted: Labels, classes: list[int]) -> dict[str, float]:
    from sklearn.metrics import f1_score

    return {
        f"f1_{average}": float(f1_score(truth, predicted, labels=classes, average=average, zero_division=0))
        for average in ("macro", "micro")
    }


def _per_class(truth: Labels, predicted: Labels, names: Sequence[str]) -> dict[str, dict[str, float]]:
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(
        truth, predicted, labels=list(range(len(names))), zero_division=0
    )
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "rows": int(n)}
        for name, p, r, f, n in zip(names, *columns, strict=True)
    }
