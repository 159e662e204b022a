"""No padding: the tokens of a batch lie end to end, and attention stays within each sequence.

Shape letters: B sequences, T tokens of all of them, H heads, D values of a head, L tokens of one sequence.

Everything but attention works on single tokens and does not see the difference. Attention comes in by
Transformers' own interface, so that every encoder which uses that gains; ``can_pack`` tries it on the model at
hand, and one that gives other logits is padded instead.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from transformers import AttentionInterface

from durabert.bert.tokens import Tokens

ATTENTION: Final = "durabert_packed"
"""Under this name Transformers knows the attention of this module."""
PROBE_LENGTHS: Final = (5, 9, 9, 3)
PROBE_TOLERANCE: Final = 1e-3


@dataclass(frozen=True)
class Group:
    """Sequences of one length that lie next to each other."""

    start: int
    """First token."""
    count: int
    length: int

    @property
    def stop(self) -> int:
        """The token after the last one."""
        return self.start + self.count * self.length


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a batch lie; they are ordered by length."""

    groups: tuple[Group, ...]
    first_B: torch.Tensor
    """First token of each sequence, in the order in which the batch was asked for."""

    @classmethod
    def of(cls, lengths: NDArray[np.int64], device: torch.device) -> tuple[Packing, NDArray[np.int64]]:
        """Return how sequences of these lengths are packed, and their order: B indices, shortest first."""
        order = np.argsort(lengths, kind="stable")
        starts = np.zeros(len(lengths), np.int64)
        starts[order[1:]] = np.cumsum(lengths[order])[:-1]
        groups, start = [], 0
        for length, same in itertools.groupby(lengths[order].tolist()):
            group = Group(start, sum(1 for _ in same), length)
            groups.append(group)
            start = group.stop
        return cls(tuple(groups), torch.from_numpy(starts).to(device)), order


@dataclass(frozen=True)
class PackedBatch:
    """Examples of a batch as tensors without padding."""

    inputs: dict[str, Any]
    """``input_ids``, ``position_ids`` and possibly ``token_type_ids``, each (1, T) int64, and ``packing``."""
    num_tokens: int


def pack(
    tokens: Tokens, indices: NDArray[np.int64], *, first_position: int, device: torch.device
) -> PackedBatch:
    """Lay the examples of a batch end to end.

    Args:
        tokens: all examples.
        indices: B of them.
        first_position: number of the first position of a sequence, 0 for most models.
        device: where the tensors go.
    """
    lengths = tokens.lengths[indices]
    packing, order = Packing.of(lengths, device)
    sizes = lengths[order]
    ends = np.cumsum(sizes)
    within = np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)
    source = np.repeat(tokens.offsets[indices][order], sizes) + within
    arrays = {"input_ids": tokens.ids[source], "position_ids": within + first_position}
    if tokens.types is not None:
        arrays["token_type_ids"] = tokens.types[source]
    inputs = {
        name: torch.from_numpy(array.astype(np.int64, copy=False))[None].to(device)
        for name, array in arrays.items()
    }
    return PackedBatch({**inputs, "packing": packing}, int(ends[-1]))


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; the signature is that of Transformers.

    Args:
        module: the layer.
        query: (1, H, T, D); key and value, too.
        key: see above.
        value: see above.
        attention_mask: none, as nothing is padded.
        packing: where the sequences lie.
        scaling: of the scores; default: 1 over the root of D.
        dropout: share of the weights that are dropped.
        sliding_window: tokens that are so far apart or further do not see each other.

    Returns:
        (1, T, H, D), and no weights.
    """
    assert attention_mask is None
    query, key, value = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    parts = [
        functional.scaled_dot_product_attention(
            *(_rows(tensor, group) for tensor in (query, key, value)),
            attn_mask=_window(group.length, sliding_window, query.device),
            dropout_p=dropout,
            scale=scaling,
        )
        .transpose(1, 2)
        .reshape(-1, *query.shape[1:])
        for group in packing.groups
    ]
    return torch.cat(parts)[None], None


def _rows(tensor_THD: torch.Tensor, group: Group) -> torch.Tensor:
    rows = tensor_THD[group.start : group.stop]
    return rows.view(group.count, group.length, *rows.shape[1:]).transpose(1, 2)


def _window(length: int, sliding_window: int | None, device: torch.device) -> torch.Tensor | None:
    if sliding_window is None or length <= sliding_window:
        return None
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() < sliding_window


AttentionInterface.register(ATTENTION, packed_attention)
