"""What an encoder layer does between its products on a CPU: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch

from durabert.bert import attention_kernels, attention_tiles, kernels, products
from durabert.bert.dropout import Masks, Site
from durabert.bert.fused_parts import PartsHow, Tensors
from durabert.bert.kernels import array_of
from durabert.bert.packing import Packing
from durabert.bert.threads import team

NO_DROPOUT: Final = Site((np.uint32(0), np.uint32(0)), np.uint32(0), np.float32(1))


class CpuHow(PartsHow[Masks]):
    """A layer and a batch on a CPU, and a draw."""

    def __init__(self, layer: Any, packing: Packing, masks: Masks, *, number: int, first_only: bool) -> None:
        super().__init__(layer, packing, masks, number=number, first_only=first_only)
        self.sites = [masks.site(p) if p else NO_DROPOUT for p in self.chances]

    def linear(self, x_TF: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Return the rows, multiplied by the transposed weights, and the bias."""
        if products.takes(x_TF, weight, len(weight)):
            return products.linear(x_TF, weight, bias)
        return super().linear(x_TF, weight, bias)

    def linear_gelu(
        self, x_TF: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, *, keep: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what ``back_gelu`` needs, of no use if it is not to be kept, and GELU of the same."""
        if products.takes(x_TF, weight, len(weight)):
            return products.linear_gelu(x_TF, weight, bias, keep=keep)
        return super().linear_gelu(x_TF, weight, bias, keep=keep)

    def back(
        self, gradient_TF: torch.Tensor, weight: torch.Tensor, *, added: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return the gradient of what a product was given from that of its result, and what is added."""
        if products.takes(gradient_TF, weight, weight.shape[1]):
            return products.back(gradient_TF, weight, added=added)
        return super().back(gradient_TF, weight, added=added)

    def back_gelu(
        self, gradient_TF: torch.Tensor, weight: torch.Tensor, saved_TF: torch.Tensor
    ) -> torch.Tensor:
        """Return the gradient of what GELU was given from that of the result of the product after it."""
        if products.takes(gradient_TF, weight, weight.shape[1]):
            return products.back_gelu(gradient_TF, weight, saved_TF)
        return super().back_gelu(gradient_TF, weight, saved_TF)

    def back_weights(self, gradient_TF: torch.Tensor, x_TF: torch.Tensor) -> torch.Tensor:
        """Return the gradient of weights."""
        if products.takes(gradient_TF, x_TF, x_TF.shape[1]):
            return products.back_linear(gradient_TF, x_TF)[0]
        return super().back_weights(gradient_TF, x_TF)

    def back_linear(self, gradient_TF: torch.Tensor, x_TF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the gradients of weights and bias."""
        if products.takes(gradient_TF, x_TF, x_TF.shape[1]):
            return products.back_linear(gradient_TF, x_TF)
        return super().back_linear(gradient_TF, x_TF)

    def attend(self, projected_T3F: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, ...]:
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""
        out = projected_T3F.new_empty((len(projected_T3F), projected_T3F.shape[1] // 3))
        if keep or not attention_tiles.takes(out.shape[1] // self.packing.num_heads, out.dtype):
            self._each_head(attention_kernels.attend, projected_T3F, out=out)
            return out, projected_T3F
        out[self.packing.num_tokens :] = 0
        attention_tiles.attend(
            projected_T3F, self.packing.starts, self.packing.num_heads,
            queries=self._queries, scaling=self.scaling, out_TF=out,
        )  # fmt: skip
        return out, projected_T3F

    @property
    def _queries(self) -> int:
        """Tokens of a sequence at most whose attention is asked for."""
        return 1 if self.first_B is not None else self.packing.longest

    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""
        change = torch.empty_like(saved[0])
        self._each_head(attention_kernels.attend_backward, gradient_TF, *saved, out=change)
        return change

    def _each_head(self, kernel: Callable[..., None], *given: torch.Tensor, out: torch.Tensor) -> None:
        site, packing = self.sites[0], self.packing
        # What fills up is in no sequence, but in the products.
        out[packing.num_tokens :] = 0
        kernel(
            team(), *map(array_of, given), packing.starts, packing.num_heads,
            self._queries, self.scaling, *site.key, site.dropped, site.scale,
            array_of(out),
        )  # fmt: skip

    def sum_tokens(self, values_TF: torch.Tensor) -> torch.Tensor:
        """Return the sum over all tokens, (F,)."""
        sums = torch.zeros(values_TF.shape[1])
        kernels.sum_rows(team(), array_of(values_TF), array_of(sums))
        return sums

    def _add_norm(self, number: int, given: Tensors, results: Tensors) -> None:
        site = self.sites[number]
        numbers = (self.epsilon, *site.key, site.dropped, site.scale)
        kernels.dropout_add_norm(team(), *map(array_of, given), *numbers, *map(array_of, results))

    def _add_norm_back(self, number: int, given: Tensors, results: Tensors) -> torch.Tensor:
        site = self.sites[number]
        sums = torch.zeros((kernels.CHUNKS, 3, given[1].shape[1]))
        numbers = (*site.key, site.dropped, site.scale)
        kernels.dropout_add_norm_backward(
            team(), *map(array_of, given), *numbers, *map(array_of, (*results, sums))
        )
        return sums[0]
