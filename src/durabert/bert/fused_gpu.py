"""What an encoder layer does between its products on a GPU in bf16: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token, H heads, D values of a head.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton

from durabert.bert import flash, triton_kernels
from durabert.bert.dropout import LEVELS_ON_GPU, Chance
from durabert.bert.fused_parts import PartsHow, Tensors
from durabert.bert.packing import LONGEST_ON_GPU
from durabert.bert.triton_kernels import PARTS

LONGEST: Final = 128
"""Tokens of a sequence whose weights one program has all at once; flash attention is for more."""
WIDTHS: Final = (16, 32, 64, 128)
"""Values of a head that a product of Triton takes."""
ROWS_OF_ONES: Final = 8
"""Of the matrix whose product with values gives sums over tokens."""
COLUMNS: Final = 64
"""Values that one program sums over the parts."""


class GpuHow(PartsHow[Chance]):
    """A layer and a batch on a GPU."""

    def attend(self, projected_T3F: torch.Tensor, *, keep: bool) -> tuple[torch.Tensor, ...]:  # noqa: ARG002
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""
        tokens, size = len(projected_T3F), projected_T3F.shape[1] // 3
        if self._is_short(size):
            # What fills up is in no sequence, but in the products.
            out = projected_T3F.new_zeros((tokens, size))
            self._launch(triton_kernels.attend, projected_T3F, out=out)
            return out, projected_T3F
        attended, *saved = flash.forward(
            *self._heads(projected_T3F), packing=self.packing, scaling=float(self.scaling),
            dropout=self.chances[0],
        )  # fmt: skip
        return attended.view(tokens, size), projected_T3F, attended, *saved

    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""
        projected, *of_flash = saved
        if not of_flash:
            change = torch.zeros_like(projected)
            self._launch(triton_kernels.attend_backward, projected, gradient_TF, out=change)
            return change
        changes = flash.backward(
            gradient_TF, *self._heads(projected), *of_flash, packing=self.packing,
            scaling=float(self.scaling), dropout=self.chances[0],
        )  # fmt: skip
        return torch.cat([change.view(gradient_TF.shape) for change in changes], dim=1)

    def _is_short(self, size: int) -> bool:
        width = size // self.packing.num_heads
        return self.packing.longest <= LONGEST and width in WIDTHS

    def _launch(self, kernel: Any, *given: torch.Tensor, out: torch.Tensor) -> None:
        packing, (site, dropped, grown) = self.packing, self._site(0)
        kernel[(len(packing.boundaries) - 2, packing.num_heads)](
            *given, packing.boundaries, self.masks.key, site, dropped, grown, float(self.scaling), out,
            HEADS=packing.num_heads, WIDTH=given[0].shape[1] // 3 // packing.num_heads, DROPS=dropped > 0,
            BLOCK=packing.longest, num_warps=4 if packing.longest == LONGEST_ON_GPU else 8,
        )  # fmt: skip

    def sum_tokens(self, values_TF: torch.Tensor) -> torch.Tensor:
        """Return the sum over all tokens, (F,)."""
        # A product is twice as fast as torch's sum, and adds up in float32, too.
        return (values_TF.new_ones((ROWS_OF_ONES, len(values_TF))) @ values_TF)[0]

    def _add_norm(self, number: int, given: Tensors, results: Tensors) -> None:
        rows, size = given[0].shape
        site, dropped, grown = self._site(number)
        triton_kernels.dropout_add_norm[(rows,)](
            *given, self.masks.key, site, dropped, grown, float(self.epsilon), *results, size,
            DROPS=dropped > 0, BLOCK=triton.next_power_of_2(size),
        )  # fmt: skip

    def _add_norm_back(self, number: int, given: Tensors, results: Tensors) -> torch.Tensor:
        rows, size = given[1].shape
        parts = given[1].new_empty((PARTS, 3, size), dtype=torch.float32)
        sums = given[1].new_empty((3, size))
        site, dropped, grown = self._site(number)
        triton_kernels.dropout_add_norm_backward[(PARTS,)](
            *given, self.masks.key, site, dropped, grown, *results, parts, rows, size,
            DROPS=dropped > 0, BLOCK=triton.next_power_of_2(size), PARTS=PARTS,
        )  # fmt: skip
        triton_kernels.sum_parts[(triton.cdiv(3 * size, COLUMNS),)](
            parts, sums, 3 * size, PARTS=PARTS, BLOCK=COLUMNS
        )
        return sums

    def _heads(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = projected_T3F.view(len(projected_T3F), 3, self.packing.num_heads, -1)
        return heads.unbind(1)

    def _site(self, number: int) -> tuple[int, int, float]:
        """Return the number of a site in the model, and what is dropped there out of ``LEVELS_ON_GPU``."""
        p = self.chances[number]
        dropped = round(p * LEVELS_ON_GPU)
        return len(self.chances) * self.layer_number + number, dropped, 1 / (1 - p) if p < 1 else 0.0
