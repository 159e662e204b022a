"""What an encoder layer does between its products, whichever device has them: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token.
"""

from __future__ import annotations

import abc
from typing import Any, Generic, TypeVar

import numpy as np
import torch

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
    def attend(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
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
