"""One row of each sequence for the head of a model, where batches are not padded.

Shape letters: B sequences, T tokens of all of them, F values of a token.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.hooks import RemovableHandle

from durabert.bert.packing import Packing, padded_first


class Pooling:
    """Leaves one row of each sequence to the head, as early as it can be."""

    def __init__(self, *, means: bool) -> None:
        self._means = means
        self._packing: Packing | None = None

    def hooks(self, model: Any) -> list[RemovableHandle]:
        """Hook into a model; the handles undo it."""
        base = model.base_model
        hooks = [
            base.register_forward_pre_hook(self._begin, with_kwargs=True),
            base.register_forward_hook(self._end),
        ]
        # What follows on attention in the last layer of BERT and its kin needs no more than the first tokens.
        last = [module for name, module in base.named_modules() if name.endswith(".attention.output")][-1:]
        if not self._means:
            hooks += [module.register_forward_pre_hook(self._shorten) for module in last]
        return hooks

    def _begin(self, _: Any, __: Any, keywords: dict[str, Any]) -> None:
        self._packing = keywords.get("packing")

    def _shorten(self, _: Any, rows: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...] | None:
        if self._packing is None:
            return None
        first = padded_first(self._packing)
        return tuple(tensor.index_select(1, first) for tensor in rows)

    def _end(self, base: Any, _: Any, output: Any) -> Any:
        packing = self._packing
        if packing is None:
            return output
        rows_TF = output.last_hidden_state[0]
        if self._means:
            rows_BF = _means(rows_TF, packing)
        else:
            is_short = len(rows_TF) < len(packing.sequence_T)
            rows_BF = rows_TF[: len(packing.first_B)] if is_short else rows_TF[packing.first_B]
        output.last_hidden_state = rows_BF[:, None]
        if output.get("pooler_output") is not None:
            output.pooler_output = base.pooler(output.last_hidden_state)
        return output


def _means(rows_TF: torch.Tensor, packing: Packing) -> torch.Tensor:
    count = len(packing.first_B)
    # The last row takes what fills up.
    sums = rows_TF.new_zeros((count + 1, rows_TF.shape[1])).index_add(0, packing.sequence_T, rows_TF)
    # Counted by a sum, which is exact, as it is captured on a GPU, where ``bincount`` would wait.
    ones_T = torch.ones(len(rows_TF), device=rows_TF.device)
    lengths = torch.zeros(count + 1, device=rows_TF.device).index_add(0, packing.sequence_T, ones_T)
    return sums[:count] / lengths[:count, None].to(sums.dtype)
