"""What an encoder layer does between its products on a GPU in bf16: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token, H heads, D values of a head.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import triton

from durabert.bert import triton_kernels
from durabert.bert.dropout import LEVELS_ON_GPU, Chance
from durabert.bert.fused_parts import How
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


class GpuHow(How[Chance]):
    """A layer and a batch on a GPU."""

    def attend(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""
        tokens, size = len(projected_T3F), projected_T3F.shape[1] // 3
        packing = self.packing
        if self._is_short(size):
            # What fills up is in no sequence, but in the products.
            out = projected_T3F.new_zeros((tokens, size))
            self._launch(triton_kernels.attend, projected_T3F, out=out)
            return out, projected_T3F
        query, key, value = self._heads(projected_T3F)
        attended, *saved, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no public one drops
            query, key, value, packing.boundaries, packing.boundaries, packing.longest_fill,
            packing.longest_fill, self.chances[0], is_causal=False, return_debug_mask=False,
            scale=float(self.scaling),
        )  # fmt: skip
        return attended.view(tokens, size), projected_T3F, attended, *saved

    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""
        projected, *flash = saved
        packing = self.packing
        if not flash:
            change = torch.zeros_like(projected)
            self._launch(triton_kernels.attend_backward, projected, gradient_TF, out=change)
            return change
        attended, logsumexp, generator, unused = flash
        changes = torch.ops.aten._flash_attention_backward(  # noqa: SLF001 - as the way forward
            gradient_TF.view(attended.shape), *self._heads(projected), attended, logsumexp,
            packing.boundaries, packing.boundaries, packing.longest_fill, packing.longest_fill,
            self.chances[0], False, generator, unused, scale=float(self.scaling),
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

    def add_norm(
        self, number: int, branch: torch.Tensor, trunk: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the norm of trunk and dropped branch, their sum, and its moments, (2, T)."""
        rows, size = branch.shape
        total, out = torch.empty_like(branch), torch.empty_like(branch)
        moments = branch.new_empty((2, rows), dtype=torch.float32)
        site, dropped, grown = self._site(number)
        triton_kernels.dropout_add_norm[(rows,)](
            branch, trunk, scale, shift, self.masks.key, site, dropped, grown, float(self.epsilon),
            total, out, moments[0], moments[1], size, DROPS=dropped > 0, BLOCK=triton.next_power_of_2(size),
        )  # fmt: skip
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
        rows, size = total.shape
        trunk, branch = torch.empty_like(total), torch.empty_like(total)
        parts = torch.empty((PARTS, 3, size), device=total.device)
        sums = total.new_empty((3, size))
        site, dropped, grown = self._site(number)
        triton_kernels.dropout_add_norm_backward[(PARTS,)](
            gradient.contiguous(), total, moments[0], moments[1], scale, self.masks.key, site, dropped,
            grown, trunk, branch, parts, rows, size, DROPS=dropped > 0,
            BLOCK=triton.next_power_of_2(size), PARTS=PARTS,
        )  # fmt: skip
        triton_kernels.sum_parts[(triton.cdiv(3 * size, COLUMNS),)](
            parts, sums, 3 * size, PARTS=PARTS, BLOCK=COLUMNS
        )
        return trunk, branch, sums

    def sum_tokens(self, values_TF: torch.Tensor) -> torch.Tensor:
        """Return the sum over all tokens, (F,)."""
        # A product is twice as fast as torch's sum, and adds up in float32, too.
        return (values_TF.new_ones((ROWS_OF_ONES, len(values_TF))) @ values_TF)[0]

    def _heads(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
        heads = projected_T3F.view(len(projected_T3F), 3, self.packing.num_heads, -1)
        return heads.unbind(1)

    def _site(self, number: int) -> tuple[int, int, float]:
        """Return the number of a site in the model, and what is dropped there out of ``LEVELS_ON_GPU``."""
        p = self.chances[number]
        dropped = round(p * LEVELS_ON_GPU)
        return len(self.chances) * self.layer_number + number, dropped, 1 / (1 - p) if p < 1 else 0.0
