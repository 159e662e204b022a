"""The optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, Literal, Protocol

import torch

from durabert.bert.adamw import CpuAdamW, Gradients, clipping, parameter_groups

Schedule = Literal["linear", "cosine", "constant"]


class Optimizer(Protocol):
    """AdamW as a training step uses it."""

    param_groups: list[dict[str, Any]]
    state: defaultdict[torch.Tensor, Any]
    """``step``, ``exp_avg`` and ``exp_avg_sq`` of each parameter that had a gradient."""

    def gradient_norm(self, gradients: Gradients) -> float:
        """Return the global L2 norm of the gradient."""

    def update(self, gradients: Gradients, *, norm: float, clip_norm: float | None) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger."""


class TorchAdamW(torch.optim.AdamW):
    """Fused AdamW of torch, with weight decay on matrices alone."""

    def __init__(self, model: torch.nn.Module, *, weight_decay: float) -> None:
        super().__init__(parameter_groups(model, weight_decay=weight_decay), lr=0.0, fused=True)

    def gradient_norm(self, gradients: Gradients) -> float:
        """Return the global L2 norm of the gradient."""
        return float(torch.nn.utils.get_total_norm(list(gradients.values())).item())

    def update(self, gradients: Gradients, *, norm: float, clip_norm: float | None) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger."""
        self.clip(gradients, norm=norm, clip_norm=clip_norm)
        self.step()

    def clip(self, gradients: Gradients, *, norm: float, clip_norm: float | None) -> None:
        """Scale the gradient down to ``clip_norm`` if its ``norm`` is larger."""
        if (scale := clipping(norm, clip_norm)) != 1:
            torch._foreach_mul_(list(gradients.values()), scale)


def build_optimizer(
    model: torch.nn.Module, *, weight_decay: float, device: torch.device, halves: Gradients | None = None
) -> Optimizer:
    """Return AdamW for the device that the model is on.

    Args:
        model: in fp32.
        weight_decay: of matrices.
        device: of the model.
        halves: weights in half precision that it writes, too; none where autocast makes its own.

    Source:
        Decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2.
    """
    if device.type == "cpu":
        return CpuAdamW(model, weight_decay=weight_decay, halves=halves)
    if device.type == "cuda" and halves:
        from durabert.bert.gpu_adamw import GpuAdamW

        return GpuAdamW(model, weight_decay=weight_decay, halves=halves)
    return TorchAdamW(model, weight_decay=weight_decay)


def learning_rate(
    step: int, num_steps: int, *, peak: float, warmup_ratio: float, schedule: Schedule
) -> float:
    """Return the learning rate of a step, counted from 0.

    It rises linearly over the warm-up, whose first step already learns, and then falls so that it would be
    0 at ``num_steps``.
    """
    warmup = math.ceil(warmup_ratio * num_steps)
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    match schedule:
        case "linear":
            return peak * (1 - done)
        case "cosine":
            return peak * (1 + math.cos(math.pi * done)) / 2
        case "constant":
            return peak
