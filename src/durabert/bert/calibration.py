"""Whether a confidence is what it says: of the predictions made with 80 %, 80 % should be right.

Shape letters: N rows, C classes, P predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from durabert.specs import ReliabilityBin, Task


@dataclass(frozen=True)
class Calibration:
    """How confidence and accuracy go together."""

    error: float
    """Expected calibration error, 0 to 1."""
    bins: list[ReliabilityBin]


def calibrate(confidence_P: NDArray[np.float64], right_P: NDArray[np.bool_], *, num_bins: int) -> Calibration:
    """Compare confidence with accuracy in bins of equal width.

    Args:
        confidence_P: probability of each prediction, 0 to 1.
        right_P: whether it is right.
        num_bins: each holds the confidences above its lower end up to its upper one.

    Source:
        Guo et al. 2017, On Calibration of Modern Neural Networks, section 2, equations 2 and 3.
    """
    edges = np.linspace(0, 1, num_bins + 1)
    # A confidence of 0 belongs to the first bin; on an edge, to the bin below it.
    number_P = np.clip(np.searchsorted(edges, confidence_P, side="left") - 1, 0, num_bins - 1)
    rows = np.bincount(number_P, minlength=num_bins)
    confidence = np.bincount(number_P, weights=confidence_P, minlength=num_bins)
    right = np.bincount(number_P, weights=right_P, minlength=num_bins)
    bins = [
        ReliabilityBin(
            low=float(edges[number]),
            high=float(edges[number + 1]),
            rows=int(count),
            confidence=float(confidence[number] / count) if count else None,
            accuracy=float(right[number] / count) if count else None,
        )
        for number, count in enumerate(rows)
    ]
    error = float(np.abs(confidence - right).sum() / max(1, len(confidence_P)))
    return Calibration(error, bins)


def calibration_of(
    task: Task, probabilities_NC: NDArray[np.float64], truth: NDArray[Any], *, num_bins: int
) -> Calibration | None:
    """Return the calibration of a classifier; None for a regression.

    Each label of a multi-label task is a prediction by itself, that it holds or that it does not.

    Args:
        task: what was learned.
        probabilities_NC: of the labels.
        truth: class numbers, (N,), or 0 and 1, (N, C), for multi-label.
        num_bins: bins of the reliability diagram.
    """
    if task == "regression":
        return None
    if task == "multilabel":
        holds = probabilities_NC > 0.5
        confidence = np.where(holds, probabilities_NC, 1 - probabilities_NC)
        return calibrate(confidence.ravel(), (holds == (truth > 0)).ravel(), num_bins=num_bins)
    right = probabilities_NC.argmax(axis=1) == truth
    return calibrate(probabilities_NC.max(axis=1), right, num_bins=num_bins)
