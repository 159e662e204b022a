"""Flash attention of torch for sequences that lie end to end on a GPU.

``torch.nn.attention.varlen`` has it without dropout, which training needs; the operation below it has both.

Shape letters: T tokens of all sequences, H heads, D values of a head, F = H x D.
"""

from __future__ import annotations

from typing import Final

import torch

from durabert.bert.packing import Packing

DTYPES: Final = (torch.bfloat16, torch.float16)
WIDEST: Final = 256
"""D is a multiple of 8 up to it."""


def takes(width: int, dtype: torch.dtype) -> bool:
    """Return whether it takes D of this size in this type."""
    return dtype in DTYPES and width <= WIDEST and width % 8 == 0


def forward(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    *,
    packing: Packing,
    scaling: float,
    dropout: float,
    sliding_window: int | None = None,
) -> tuple[torch.Tensor, ...]:
    """Attend within each sequence; autograd knows the way back.

    Args:
        query_THD: in half precision.
        key_THD: as the query.
        value_THD: as the query.
        packing: where the sequences lie.
        scaling: of the scores.
        dropout: share of the weights that are dropped, drawn from torch's generator.
        sliding_window: tokens that are so far apart or further do not see each other.

    Returns:
        What the tokens attend to, (T, H, D), and three tensors that ``backward`` needs beside it.

    Source:
        Dao 2023, FlashAttention-2.
    """
    ends, longest = packing.boundaries, packing.longest_fill
    side = None if sliding_window is None else sliding_window - 1
    *found, _ = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no public one drops
        query_THD, key_THD, value_THD, ends, ends, longest, longest, dropout,
        is_causal=False, return_debug_mask=False, scale=scaling,
        window_size_left=side, window_size_right=side,
    )  # fmt: skip
    return tuple(found)


def backward(
    gradient_TF: torch.Tensor,
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    attended_THD: torch.Tensor,
    *saved: torch.Tensor,
    packing: Packing,
    scaling: float,
    dropout: float,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of query, key and value, where autograd was not there on the way forward."""
    ends, longest = packing.boundaries, packing.longest_fill
    logsumexp, generator, unused = saved
    changes: tuple[torch.Tensor, ...] = torch.ops.aten._flash_attention_backward(  # noqa: SLF001 - as forward
        gradient_TF.view(attended_THD.shape), query_THD, key_THD, value_THD, attended_THD, logsumexp,
        ends, ends, longest, longest, dropout, False, generator, unused, scale=scaling,
    )  # fmt: skip
    return changes
