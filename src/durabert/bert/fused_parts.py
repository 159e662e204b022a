"""What an encoder layer does between its products, whichever device has them: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token.
"""

from __future__ import annotations

import abc
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch.nn.functional import gelu, linear

from durabert.bert.dropout import Chance, Masks
from durabert.bert.packing import Packing, padded_first

D = TypeVar("D", bound=Masks | Chance)
Tensors = tuple[torch.Tensor, ...]


class How(abc.ABC, Generic[D]):
    """A layer, a batch and where its dropout comes from.

    Sites of dropout have numbers: 0 is in attention, 1 after it and 2 after feed-forward.
    """

    def __init__(self, layer: Any, packing: Packing, masks: D, *, number: int, first_only: bool) -> None:
        attention = layer.attention.self
        chances = (attention.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p)
        self.chances = [p if layer.training else 0.0 for p in chances]
        self.layer_number = number
        self.scaling = np.float32(attention.scaling)
        self.epsilon = np.float32(layer.output.LayerNorm.eps)
        self.packing = packing
        self.masks = masks
        self.first_B = padded_first(packing) if first_only else None

    @abc.abstractmethod
    def attend(self, projected_T3F: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, ...]:
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""

    @abc.abstractmethod
    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""

    def add_norm(
        self, number: int, branch: torch.Tensor, trunk: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the norm of trunk and dropped branch, their sum, and its moments, (2, T)."""
        total, out = torch.empty_like(branch), torch.empty_like(branch)
        moments = branch.new_empty((2, len(branch)), dtype=torch.float32)
        self._add_norm(number, (branch, trunk, scale, shift), (total, out, *moments))
        return out, total, moments

    def add_norm_back(
        self,
        number: int,
        gradient: torch.Tensor,
        total: torch.Tensor,
        moments: torch.Tensor,
        scale: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the gradients of trunk and branch, and of scale, shift and the branch's bias, (3, F)."""
        trunk, branch = torch.empty_like(total), torch.empty_like(total)
        sums = self._add_norm_back(number, (gradient.contiguous(), total, *moments, scale), (trunk, branch))
        return trunk, branch, sums

    def linear(self, x_TF: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the rows, multiplied by the transposed weights, and the bias."""
        return linear(x_TF, weight, bias)

    def linear_gelu(
        self, x_TF: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what ``back_gelu`` needs, of no use if it is not to be kept, and GELU of the same."""
        before = self.linear(x_TF, weight, bias)
        return before, gelu(before) if keep else torch.ops.aten.gelu_(before)

    def back(
        self, gradient_TF: torch.Tensor, weight: torch.Tensor, *, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the gradient of what a product was given from that of its result, and what is added."""
        if added is None:
            return gradient_TF @ weight
        return torch.addmm(added, gradient_TF, weight)

    def back_gelu(
        self, gradient_TF: torch.Tensor, weight: torch.Tensor, saved_TF: torch.Tensor
    ) -> torch.Tensor:
        """Return the gradient of what GELU was given from that of the result of the product after it."""
        gradient: torch.Tensor = torch.ops.aten.gelu_backward(self.back(gradient_TF, weight), saved_TF)
        return gradient

    def back_weights(self, gradient_TF: torch.Tensor, x_TF: torch.Tensor) -> torch.Tensor:
        """Return the gradient of weights."""
        return gradient_TF.t() @ x_TF

    def back_linear(self, gradient_TF: torch.Tensor, x_TF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of weights and bias."""
        return self.back_weights(gradient_TF, x_TF), self.sum_tokens(gradient_TF)

    @abc.abstractmethod
    def sum_tokens(self, values_TF: torch.Tensor) -> torch.Tensor:
        """Return the sum over all tokens, (F,)."""

    @abc.abstractmethod
    def _add_norm(self, number: int, given: Tensors, results: Tensors) -> None:
        """Write sum, norm, mean and inverse deviation, from branch, trunk, scale and shift."""

    @abc.abstractmethod
    def _add_norm_back(self, number: int, given: Tensors, results: Tensors) -> torch.Tensor:
        """Write those of trunk and branch, from that of the norm, sum, mean, inverse deviation and scale.

        Returns:
            The gradients of scale, shift and the branch's bias, (3, F).
        """
