"""What an encoder layer does between its products on a GPU in bf16: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token, H heads, D values of a head.
"""

from __future__ import annotations

import torch
import triton

from durabert.bert import triton_kernels
from durabert.bert.dropout import LEVELS_ON_GPU, Chance
from durabert.bert.fused import How
from durabert.bert.triton_kernels import PARTS

ROWS_OF_ONES = 8
"""Of the matrix whose product with values gives sums over tokens."""
COLUMNS = 64
"""Values that one program sums over the parts."""


class GpuHow(How[Chance]):
    """A layer and a batch on a GPU."""

    def attend(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""
        tokens, width = len(projected_T3F), projected_T3F.shape[1] // 3
        query, key, value = self._heads(projected_T3F)
        packing = self.packing
        attended, *saved, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no public one drops
            query, key, value, packing.boundaries, packing.boundaries, packing.longest, packing.longest,
            self.chances[0], is_causal=False, return_debug_mask=False, scale=float(self.scaling),
        )  # fmt: skip
        return attended.view(tokens, width), projected_T3F, attended, *saved

    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""
        projected, attended, logsumexp, generator, unused = saved
        packing = self.packing
        changes = torch.ops.aten._flash_attention_backward(  # noqa: SLF001 - as the way forward
            gradient_TF.view(attended.shape), *self._heads(projected), attended, logsumexp,
            packing.boundaries, packing.boundaries, packing.longest, packing.longest, self.chances[0],
            False, generator, unused, scale=float(self.scaling),
        )  # fmt: skip
        return torch.cat([change.view(gradient_TF.shape) for change in changes], dim=1)

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
        return 2 * self.layer_number + number, dropped, 1 / (1 - p) if p < 1 else 0.0
