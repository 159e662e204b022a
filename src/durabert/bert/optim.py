"""The optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from typing import Literal

import torch

Schedule = Literal["linear", "cosine", "constant"]


def build_optimizer(model: torch.nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """Return fused AdamW over all parameters, with weight decay on matrices alone.

    Source:
        Decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2. Biases and norms, the parameters of
        one dimension, are exempt as in BERT's own training: Devlin et al. 2019, appendix A.2.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices = [parameter for parameter in parameters if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, fused=True)


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


def clip_gradient(parameters: list[torch.nn.Parameter], *, clip_norm: float | None) -> torch.Tensor:
    """Scale the gradient down to ``clip_norm`` if it is longer, and return its global L2 norm before.

    Source:
        Pascanu et al. 2013, section 3.2.
    """
    return torch.nn.utils.clip_grad_norm_(parameters, math.inf if clip_norm is None else clip_norm)
