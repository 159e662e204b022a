"""What training minimizes, by task.

Shape letters: B examples, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from durabert.errors import LabelsInvalid, SpecInvalid
from durabert.specs import FineTuneConfig, Task

Labels = NDArray[Any]
"""int64 (B,) class numbers; float32 (B, C) of 0 and 1 for multi-label; float32 (B,) for regression."""


@dataclass(frozen=True)
class Loss:
    """The loss of a task, as a sum over examples and the number to divide the sum by.

    A batch that is computed in pieces adds up their sums and divides by the divisor of the whole.
    """

    task: Task
    weights: torch.Tensor | None
    """Weight of each class, (C,), on the CPU."""
    label_smoothing: float
    device: torch.device | str = "cpu"
    """Where the loss is computed."""

    @cached_property
    def _weights(self) -> torch.Tensor | None:
        return None if self.weights is None else self.weights.to(self.device)

    def sum(self, logits_BC: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the summed loss of some examples."""
        if self.task == "regression":
            return functional.mse_loss(logits_BC.squeeze(-1), labels, reduction="sum")
        if self.task == "multilabel":
            return functional.binary_cross_entropy_with_logits(
                logits_BC, labels, weight=self._weights, reduction="sum"
            )
        return functional.cross_entropy(
            logits_BC, labels, weight=self._weights, label_smoothing=self.label_smoothing, reduction="sum"
        )

    def divisor(self, labels: torch.Tensor) -> float:
        """Return what the sum over a batch is divided by: its examples, or the sum of their weights.

        Args:
            labels: of the batch, on the CPU, so that nothing waits for another device.
        """
        if self.weights is None:
            return float(labels.numel())
        if self.task == "multilabel":
            return float(self.weights.sum().item() * len(labels))
        return float(self.weights[labels].sum().item())


def build_loss(
    config: FineTuneConfig, *, task: Task, names: Sequence[str], labels: Labels, device: torch.device
) -> Loss:
    """Return the loss that a configuration asks for.

    Args:
        config: its ``label_smoothing`` and ``class_weights`` count.
        task: what is learned.
        names: label names by class number.
        labels: of the training rows, for balanced weights.
        device: where the loss is computed.

    Raises:
        LabelsInvalid: a weight is given to a label that the data do not have.
        SpecInvalid: label smoothing or class weights do not fit the task.
    """
    if config.label_smoothing and task in {"regression", "multilabel"}:
        raise SpecInvalid(
            f"label_smoothing is {config.label_smoothing}, but should be 0 for a {task} task: "
            "it is for one class per text"
        )
    if config.class_weights is None:
        return Loss(task, None, config.label_smoothing, device)
    if task == "regression":
        raise SpecInvalid("class_weights are set, but a regression task has no classes")
    if config.class_weights == "balanced":
        weights = _balanced(labels, num_classes=len(names), task=task)
    else:
        weights = _by_name(config.class_weights, names)
    return Loss(task, torch.tensor(weights, dtype=torch.float32), config.label_smoothing, device)


def label_array(task: Task, labels: Sequence[Any]) -> Labels:
    """Return the labels of a split as one array; see ``Labels``."""
    return np.asarray(labels, np.float32 if task in {"regression", "multilabel"} else np.int64)


def _balanced(labels: Labels, *, num_classes: int, task: Task) -> list[float]:
    counts = labels.sum(axis=0) if task == "multilabel" else np.bincount(labels, minlength=num_classes)
    # A class without a row, possible after sampling, counts as one row.
    return [float(len(labels) / (num_classes * max(1, count))) for count in counts]


def _by_name(weights: dict[str, float], names: Sequence[str]) -> list[float]:
    for label in weights:
        if label not in names:
            raise LabelsInvalid(
                f"class_weights has a weight for {label!r}, which is no label of the data; they are "
                f"{', '.join(map(repr, names))}"
            )
    return [weights.get(name, 1.0) for name in names]
