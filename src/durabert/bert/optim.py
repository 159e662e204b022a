"""The optimizer, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch

Schedule = Literal["linear", "cosine", "constant"]


class AdamW(torch.optim.AdamW):
    """Fused AdamW that clips the gradient while it reads it, and takes sparse ones of embeddings.

    The gradient of an embedding has as many rows that are not 0 as the batch has tokens, and the moments of
    all rows move at each step. So the rows are put into a buffer of zeros that is kept, and taken out again:
    to make and to measure a dense gradient at each step takes longer than to multiply the matrices.
    """

    def __init__(self, model: torch.nn.Module, *, weight_decay: float) -> None:
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        matrices = [parameter for parameter in parameters if parameter.ndim > 1]
        vectors = [parameter for parameter in parameters if parameter.ndim <= 1]
        groups = [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        super().__init__(groups, lr=0.0, fused=True)
        self._dense: dict[torch.nn.Parameter, torch.Tensor] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._dense = {}

    def gradient_norm(self) -> torch.Tensor:
        """Return the global L2 norm of the gradient."""
        gradients = [parameter.grad for parameter in self._parameters() if parameter.grad is not None]
        values = [gradient.coalesce().values() if gradient.is_sparse else gradient for gradient in gradients]
        # A product with itself is read at the speed of the memory, which the norm of torch is not.
        flat = [value.reshape(-1) for value in values]
        return torch.stack([value.dot(value) for value in flat]).sum().sqrt()

    def update(self, *, norm: float, clip_norm: float | None) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger.

        Source:
            Pascanu et al. 2013, section 3.2.
        """
        # The fused kernel divides the gradient by it.
        self.grad_scale = None if clip_norm is None or norm <= clip_norm else torch.tensor(norm / clip_norm)
        rows = {
            parameter: self._make_dense(parameter, parameter.grad)
            for parameter in self._parameters()
            if parameter.grad is not None and parameter.grad.is_sparse
        }
        self.step()
        for parameter, indices in rows.items():
            self._dense[parameter].index_fill_(0, indices, 0.0)

    def _parameters(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for group in self.param_groups for parameter in group["params"])

    def _make_dense(self, parameter: torch.nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.coalesce()
        if parameter not in self._dense:
            self._dense[parameter] = torch.zeros_like(parameter)
        indices: torch.Tensor = gradient.indices()[0]
        parameter.grad = self._dense[parameter].index_copy_(0, indices, gradient.values())
        return indices


def build_optimizer(model: torch.nn.Module, *, weight_decay: float) -> AdamW:
    """Return fused AdamW over all parameters, with weight decay on matrices alone.

    Source:
        Decoupled weight decay: Loshchilov and Hutter 2019, algorithm 2. Biases and norms, the parameters of
        one dimension, are exempt as in BERT's own training: Devlin et al. 2019, appendix A.2.
    """
    return AdamW(model, weight_decay=weight_decay)


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
