"""What an encoder layer does between its products, whichever device has them: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token.
"""

from __future__ import annotations

import abc
import itertools
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
    def forward(self, hidden: torch.Tensor, weights: Tensors, *, keep: bool) -> tuple[torch.Tensor, Tensors]:
        """Compute a layer.

        Args:
            hidden: what goes in, (T, F).
            weights: weight and bias of queries, keys, values, of the product after attention, of the norm
                after that, of the two products of feed-forward, and of the last norm.
            keep: whether the way back follows; if not, memory is free for what comes next as soon as can be.

        Returns:
            What comes out, and what the way back needs.

        Source:
            Vaswani et al. 2017, section 3.1, with the norm after each sum; Devlin et al. 2019, appendix A.2.
        """

    @abc.abstractmethod
    def backward(self, gradient: torch.Tensor, saved: Tensors) -> Tensors:
        """Return the gradients of what went in and of the weights, from that of what came out."""


class PartsHow(How[D]):
    """A layer that is computed part by part."""

    def forward(self, hidden: torch.Tensor, weights: Tensors, *, keep: bool) -> tuple[torch.Tensor, Tensors]:
        """Compute a layer."""
        qw, qb, kw, kb, vw, vb, ow, ob, scale1, shift1, iw, ib, pw, pb, scale2, shift2 = weights
        projecting = joined(qw, kw, vw)
        attended, *attention = self.attend(self.linear(hidden, projecting, joined(qb, kb, vb)), keep=keep)
        if not keep:
            attention.clear()
        trunk = hidden
        if self.first_B is not None:
            attended, trunk = attended.index_select(0, self.first_B), hidden.index_select(0, self.first_B)
        between, total1, moments1 = self.add_norm(1, self.linear(attended, ow, ob), trunk, scale1, shift1)
        of_gelu, after = self.linear_gelu(between, iw, ib, keep=keep)
        out, total2, moments2 = self.add_norm(2, self.linear(after, pw, pb), between, scale2, shift2)
        saved = (
            hidden, projecting, attended, total1, moments1, between, of_gelu, after, total2, moments2, ow,
            scale1, iw, pw, scale2, *attention,
        )  # fmt: skip
        return out, saved

    def backward(self, gradient: torch.Tensor, saved: Tensors) -> Tensors:
        """Return the gradients of what went in and of the weights, from that of what came out."""
        (
            hidden, projecting, attended, total1, moments1, between, of_gelu, after, total2, moments2, ow,
            scale1, iw, pw, scale2, *attention,
        ) = saved  # fmt: skip
        trunk, branch, sums2 = self.add_norm_back(2, gradient, total2, moments2, scale2)
        d_pw = self.back_weights(branch, after)
        inner = self.back_gelu(branch, pw, of_gelu)
        d_iw, d_ib = self.back_linear(inner, between)
        d_between = self.back(inner, iw, added=trunk)
        trunk, branch, sums1 = self.add_norm_back(1, d_between, total1, moments1, scale1)
        d_ow = self.back_weights(branch, attended)
        d_attended = self.back(branch, ow)
        if self.first_B is not None:
            # Added: what fills up is the first token of some sequence, with a gradient of 0.
            zeros = torch.zeros_like(hidden)
            d_attended = zeros.index_add(0, self.first_B, d_attended)
            trunk = zeros.index_add_(0, self.first_B, trunk)
        d_projected = self.attend_back(d_attended, *attention)
        d_projecting, d_biases = self.back_linear(d_projected, hidden)
        d_hidden = self.back(d_projected, projecting, added=trunk)
        (d_qw, d_kw, d_vw), (d_qb, d_kb, d_vb) = d_projecting.chunk(3), d_biases.chunk(3)
        return (
            d_hidden, d_qw, d_qb, d_kw, d_kb, d_vw, d_vb, d_ow, sums1[2], sums1[0], sums1[1], d_iw, d_ib,
            d_pw, sums2[2], sums2[0], sums2[1],
        )  # fmt: skip

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
        sums = self._add_norm_back(number, (gradient, total, *moments, scale), (trunk, branch))
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


def joined(*parts: torch.Tensor) -> torch.Tensor:
    """Return the parts as one tensor; a view of them if they lie one after the other."""
    first = parts[0]
    ends = itertools.accumulate((part.nbytes for part in parts), initial=first.data_ptr())
    memory = first.untyped_storage().data_ptr()
    lies_so = (
        part.data_ptr() == place and part.untyped_storage().data_ptr() == memory
        for part, place in zip(parts, ends, strict=False)
    )
    if not all(lies_so):
        return torch.cat(parts)
    return first.as_strided((sum(map(len, parts)), *first.shape[1:]), first.stride())
