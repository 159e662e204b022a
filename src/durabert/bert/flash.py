"""Flash attention of torch for sequences that lie end to end on a GPU.

``torch.nn.attention.varlen`` has it without dropout, which training needs; the operation below it has both.

Shape letters: T tokens of all sequences, H heads, D values of a head, B sequences.
"""

from __future__ import annotations

from typing import Final

import torch

DTYPES: Final = (torch.bfloat16, torch.float16)
WIDEST: Final = 256
"""D is a multiple of 8 up to it."""


def takes(width: int, dtype: torch.dtype) -> bool:
    """Return whether it takes D of this size in this type."""
    return dtype in DTYPES and width <= WIDEST and width % 8 == 0


def flash_attention(
    query_THD: torch.Tensor,
    key_THD: torch.Tensor,
    value_THD: torch.Tensor,
    *,
    boundaries: torch.Tensor,
    longest: int,
    scaling: float,
    dropout: float,
    sliding_window: int | None,
) -> torch.Tensor:
    """Attend within each sequence.

    Args:
        query_THD: in half precision.
        key_THD: as the query.
        value_THD: as the query.
        boundaries: where each sequence begins, and T, (B + 1,), int32.
        longest: no sequence has more tokens.
        scaling: of the scores.
        dropout: share of the weights that are dropped, drawn from torch's generator.
        sliding_window: tokens that are so far apart or further do not see each other.

    Returns:
        (T, H, D).

    Source:
        Dao 2023, FlashAttention-2.
    """
    side = -1 if sliding_window is None else sliding_window - 1
    attended: torch.Tensor = torch.ops.aten._flash_attention_forward(  # noqa: SLF001 - no public one drops
        query_THD, key_THD, value_THD, boundaries, boundaries, longest, longest, dropout,
        is_causal=False, return_debug_mask=False, scale=scaling,
        window_size_left=side, window_size_right=side,
    )[0]  # fmt: skip
    return attended
