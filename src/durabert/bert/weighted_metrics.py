"""The metrics of rows with weights: of a sample with replacement, of a slice, or of all rows.

A sample is told by how often each row is in it, so that a thousand of them cost as many sums and no more.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from durabert.bert.metrics import METRICS, THRESHOLD, is_constant
from durabert.errors import SpecInvalid
from durabert.specs import Task

Floats = NDArray[np.float64]
Weights = NDArray[np.float64]
"""(N,) how often each row counts, whole numbers from 0."""


@dataclass(frozen=True)
class Judged:
    """What was predicted beside what is true."""

    task: Task
    labels: tuple[str, ...]
    truth: NDArray[Any]
    """int64 (N,) class numbers; int64 (N, C) of 0 and 1 for multi-label; float64 (N,) for regression."""
    predicted: NDArray[Any]
    """The same of the model."""
    losses: Floats
    """(N,) loss of each row, its mean over the labels for multi-label."""

    def __len__(self) -> int:
        return len(self.truth)

    def wrong(self) -> NDArray[np.bool_]:
        """Return which rows have a wrong label, (N,); for a regression all that are not exact."""
        different = np.not_equal(self.truth, self.predicted)
        wrong: NDArray[np.bool_] = different.any(axis=1) if different.ndim == 2 else different
        return wrong

    def take(self, rows: NDArray[np.int64]) -> Judged:
        """Return some of the rows."""
        return Judged(self.task, self.labels, self.truth[rows], self.predicted[rows], self.losses[rows])


def judge(task: Task, logits_NC: NDArray[np.float32], truth: NDArray[Any], labels: Sequence[str]) -> Judged:
    """Put predictions beside the truth.

    Args:
        task: what was learned.
        logits_NC: raw outputs of the model; C is 1 for regression.
        truth: see ``durabert.bert.loss.Labels``.
        labels: by class number.
    """
    from scipy.special import log_softmax

    logits = logits_NC.astype(np.float64)
    if task == "regression":
        values, wanted = logits[:, 0], truth.astype(np.float64)
        return Judged(task, tuple(labels), wanted, values, (values - wanted) ** 2)
    wanted = truth.astype(np.int64)
    if task == "multilabel":
        predicted = (logits > math.log(THRESHOLD / (1 - THRESHOLD))).astype(np.int64)
        # Binary cross entropy in its stable form: softplus(logit) - label * logit.
        losses = (np.logaddexp(0, logits) - wanted * logits).mean(axis=1)
        return Judged(task, tuple(labels), wanted, predicted, losses)
    losses = -log_softmax(logits, axis=1)[np.arange(len(wanted)), wanted]
    return Judged(task, tuple(labels), wanted, logits.argmax(axis=1), losses)


def chosen_metrics(wanted: Sequence[str], task: Task) -> tuple[str, ...]:
    """Return the metrics to compute: those that are wanted, or all that the task has.

    Raises:
        SpecInvalid: the task has no such metric.
    """
    for name in wanted:
        if name not in METRICS[task]:
            raise SpecInvalid(
                f"metric is {name!r}, but should be one of {', '.join(METRICS[task])} for a {task} task"
            )
    return tuple(wanted) or METRICS[task]


class WeightedMetrics:
    """Metrics of the same rows under many weights.

    Args:
        judged: the rows.
        names: metrics of the task, see ``durabert.bert.metrics.METRICS``.

    Source:
        Matthews correlation of several classes: Gorodkin 2004, equation 8.
    """

    def __init__(self, judged: Judged, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._judged = judged
        if judged.task == "multilabel":
            self._hits = (judged.truth & judged.predicted).astype(np.float64)
            self._sizes = (judged.truth + judged.predicted).astype(np.float64)
            self._exact = (~judged.wrong()).astype(np.float64)
        elif judged.task == "regression":
            self._ranks = (_Ranks(judged.truth), _Ranks(judged.predicted))
        else:
            self._cells = judged.truth * len(judged.labels) + judged.predicted

    def scores(self, weights_N: Weights) -> dict[str, float]:
        """Return the metrics where each row counts as often as its weight says; what is undefined is 0."""
        kinds = {"multilabel": self._multilabel, "regression": self._regression}
        found = kinds.get(self._judged.task, self._classification)(weights_N)
        found["loss"] = float(weights_N @ self._judged.losses / weights_N.sum())
        return {name: found[name] for name in self.names}

    def confusion(self, weights_N: Weights) -> Floats:
        """Return rows by true class and predicted class, (C, C); one label per text only."""
        num = len(self._judged.labels)
        counts = np.bincount(self._cells, weights=weights_N, minlength=num * num)
        return counts.astype(np.float64).reshape(num, num)

    def _classification(self, weights_N: Weights) -> dict[str, float]:
        counts = self.confusion(weights_N)
        total, right = counts.sum(), counts.trace()
        truth_C, predicted_C = counts.sum(axis=1), counts.sum(axis=0)
        spread = math.sqrt((total**2 - predicted_C @ predicted_C) * (total**2 - truth_C @ truth_C))
        return {
            "accuracy": float(right / total),
            "f1_macro": float(_ratio(2 * counts.diagonal(), truth_C + predicted_C).mean()),
            "f1_micro": float(right / total),
            "mcc": float((right * total - truth_C @ predicted_C) / spread) if spread else 0.0,
        }

    def _multilabel(self, weights_N: Weights) -> dict[str, float]:
        hits_C, sizes_C = weights_N @ self._hits, weights_N @ self._sizes
        return {
            "f1_micro": float(_ratio(2 * hits_C.sum(), sizes_C.sum())),
            "f1_macro": float(_ratio(2 * hits_C, sizes_C).mean()),
            "accuracy": float(weights_N @ self._exact / weights_N.sum()),
        }

    def _regression(self, weights_N: Weights) -> dict[str, float]:
        truth, values = self._judged.truth, self._judged.predicted
        total = weights_N.sum()
        found = {
            "mse": float(weights_N @ (truth - values) ** 2 / total),
            "mae": float(weights_N @ np.abs(truth - values) / total),
            "pearson": 0.0,
            "spearman": 0.0,
        }
        there = weights_N > 0
        # As for all rows: the correlation with a constant is undefined.
        if not (is_constant(truth[there]) or is_constant(values[there])):
            found["pearson"] = _correlation(truth, values, weights_N)
            if "spearman" in self.names:
                first, second = (ranks.of(weights_N) for ranks in self._ranks)
                found["spearman"] = _correlation(first, second, weights_N)
        return found


class _Ranks:
    """Ranks of values in a sample, those of equal values averaged."""

    def __init__(self, values_N: Floats) -> None:
        _, self._group_N = np.unique(values_N, return_inverse=True)

    def of(self, weights_N: Weights) -> Floats:
        sizes = np.bincount(self._group_N, weights=weights_N)
        ranks: Floats = (np.cumsum(sizes) - (sizes - 1) / 2)[self._group_N]
        return ranks


def _correlation(first_N: Floats, second_N: Floats, weights_N: Weights) -> float:
    total = weights_N.sum()
    first = first_N - weights_N @ first_N / total
    second = second_N - weights_N @ second_N / total
    spread = math.sqrt((weights_N @ first**2) * (weights_N @ second**2))
    return float(np.clip(weights_N @ (first * second) / spread, -1, 1)) if spread else 0.0


def _ratio(above: Any, below: Any) -> Floats:
    """Return the quotient; 0 where nothing is there to divide by."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    return np.divide(above, below, out=np.zeros_like(below), where=below > 0)
