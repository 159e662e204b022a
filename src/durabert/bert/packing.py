"""No padding: the tokens of a batch lie end to end, and it is known which belong to one sequence.

Shape letters: B sequences, T tokens of all of them, H heads, D values of a head, F = H x D, N sequences of a
bucket, L places of each of them, R rows of all buckets: one for each sequence, head and place.

Everything but attention works on single tokens and does not see the difference; attention is in
``durabert.bert.packed_attention``. ``durabert.bert.layout`` tries packing on the model at hand, and one that
gives other logits is padded instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from durabert.bert.batches import Batch, Indices
from durabert.bert.device import to_device
from durabert.bert.tokens import Tokens

HIDDEN: Final = -1e30
"""Added to the score of what is not to be seen; finite, so that a row of nothing else is no NaN."""
# A matrix product of a new shape is compiled first, which takes longer than the product: hence few shapes.
ROUND_TOKENS: Final = 16
"""T is a multiple of it."""
ROUND_ON_GPU: Final = 64
"""T is a multiple of it, and of a sixteenth of the power of two that T is below: each T is captured once."""
LONGEST_ON_GPU: Final = 64
"""So many places a sequence has there at least, which are one block of the kernels for attention."""
ROUND_FIRST: Final = 8
"""Of the first tokens of the sequences, where no others are needed any more."""
ROUND_COUNT: Final = 4
"""N is a power of two up to it, and a multiple of it beyond."""
FEW: Final = 4
"""Sequences that are not worth a bucket of their own."""
SHORT: Final = 16
LONG: Final = 64
"""L is a power of two from ``SHORT`` to ``LONG``, and a multiple of ``LONG`` beyond."""


@dataclass(frozen=True)
class Bucket:
    """Sequences of similar length, which attention sees padded to one."""

    count: int
    """N, with some that are not there."""
    length: int
    """L."""
    bias_N11L: torch.Tensor  # noqa: N815
    """``HIDDEN`` where nothing is, in fp32."""

    def of(self, rows_RD: torch.Tensor) -> torch.Tensor:
        """Return a view of the rows of this bucket, (N, H, L, D)."""
        count, length = self.count, self.length
        heads = rows_RD.shape[0] // count // length
        return rows_RD.view(count, heads, length, rows_RD.shape[1])


@dataclass(frozen=True)
class Rows:
    """The sequences of a batch in buckets."""

    buckets: tuple[Bucket, ...]
    num_rows: tuple[int, ...]
    """Of each bucket."""
    source_R: torch.Tensor  # noqa: N815
    """Token and head of each row, as a number below T x H; 0 where nothing is."""
    absent: torch.Tensor
    """Numbers of the rows where nothing is."""
    row_TH: torch.Tensor  # noqa: N815
    """Row of each token and head, 0 for what fills up."""


@dataclass(frozen=True)
class Packing:
    """Where the sequences of a batch lie, the shortest first."""

    sizes: NDArray[np.int64]
    """Tokens of each sequence, the shortest first."""
    starts: NDArray[np.int64]
    """First token of each, and the end of the last."""
    first_B: torch.Tensor  # noqa: N815
    """First token of each sequence, in the order in which the batch was asked for."""
    sequence_T: torch.Tensor  # noqa: N815
    """Number of the sequence, in the same order, to which each token belongs; B for what fills up."""
    num_heads: int
    ends_B2: torch.Tensor  # noqa: N815
    """First token of each sequence, and of what fills up, and T."""
    longest: int
    """No sequence has more tokens; a power of two."""
    longest_fill: int
    """Nor has what fills up, or a sequence, more than that; a power of two."""

    @cached_property
    def boundaries(self) -> torch.Tensor:
        """``ends_B2`` as flash attention takes them."""
        return self.ends_B2.int()

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all sequences; those after them fill up and belong to none."""
        return int(self.starts[-1])

    @cached_property
    def rows(self) -> Rows:
        """How the sequences lie in buckets."""
        return _rows(self)


class PackedShape(NamedTuple):
    """All that the kernels depend on which compute a batch on a GPU."""

    num_tokens: int
    """T."""
    num_examples: int
    """B."""
    has_types: bool
    longest: int
    """As in ``Packing``."""
    longest_fill: int
    """As in ``Packing``."""
    num_heads: int


@dataclass(frozen=True)
class PackedBatch(Batch):
    """A batch whose numbers lie one after the other, so that one copy brings them to a device."""

    shape: PackedShape
    flat: torch.Tensor

    def over(self, flat: torch.Tensor) -> Batch:
        """Return a batch of the same shape of what ``flat`` holds whenever it is computed."""
        nowhere = np.empty(0, np.int64)
        return Batch(_inputs(flat, self.shape, nowhere, nowhere), self.num_tokens)


@dataclass(frozen=True)
class PackedLayout:
    """The examples of a batch end to end in one row."""

    num_heads: int
    first_position: int
    """Number of the first position of a sequence, 0 for most models."""
    device: torch.device

    def batch(self, tokens: Tokens, indices: Indices) -> PackedBatch:
        """Return ``packing``, and ``input_ids``, ``position_ids``, maybe ``token_type_ids``, each (1, T)."""
        lengths = tokens.lengths[indices]
        order = np.argsort(lengths, kind="stable")
        sizes = lengths[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        num_tokens = int(starts[-1])
        within = np.arange(num_tokens) - np.repeat(starts[:-1], sizes)
        source = np.repeat(tokens.offsets[indices][order], sizes) + within
        rows = [tokens.ids[source], within + self.first_position]
        if tokens.types is not None:
            rows.append(tokens.types[source])
        # What fills up belongs to no sequence: nothing attends to it, and its gradient is 0.
        fill = -num_tokens % self._multiple(num_tokens)
        first = np.empty_like(order)
        first[order] = starts[:-1]
        sequence = np.concatenate([np.repeat(order, sizes), np.full(fill, len(order))])
        shape = PackedShape(
            num_tokens + fill,
            len(order),
            tokens.types is not None,
            _power_of_two(int(sizes[-1])),
            _power_of_two(max(int(sizes[-1]), fill)),
            self.num_heads,
        )
        padded = (np.pad(row.astype(np.int64), (0, fill), mode="edge") for row in rows)
        flat = to_device(np.concatenate([*padded, sequence, first, starts, [shape.num_tokens]]), self.device)
        return PackedBatch(_inputs(flat, shape, sizes, starts), num_tokens, shape, flat)

    def _multiple(self, num_tokens: int) -> int:
        """Return what T is a multiple of."""
        if self.device.type != "cuda":
            return ROUND_TOKENS
        return max(ROUND_ON_GPU, (1 << (num_tokens - 1).bit_length()) // 16)


def _inputs(
    flat: torch.Tensor, shape: PackedShape, sizes: NDArray[np.int64], starts: NDArray[np.int64]
) -> dict[str, Any]:
    names = ["input_ids", "position_ids", *(["token_type_ids"] if shape.has_types else [])]
    count, total = shape.num_examples, shape.num_tokens
    *rows, sequence, first, ends = flat.split([total] * (len(names) + 1) + [count, count + 2])
    inputs: dict[str, Any] = {name: row[None] for name, row in zip(names, rows, strict=True)}
    inputs["packing"] = Packing(
        sizes, starts, first, sequence, shape.num_heads, ends, shape.longest, shape.longest_fill
    )
    return inputs


def _power_of_two(size: int) -> int:
    return max(LONGEST_ON_GPU, 1 << (size - 1).bit_length())


def _rows(packing: Packing) -> Rows:
    sizes, starts, num_heads = packing.sizes, packing.starts, packing.num_heads

    def tensor(array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(packing.first_B.device)

    heads = np.arange(num_heads)
    row_TH = np.zeros((len(packing.sequence_T), num_heads), np.int64)
    buckets: list[Bucket] = []
    sources: list[NDArray[np.int64]] = []
    absent: list[NDArray[np.int64]] = []
    done = row = 0
    for length, count in _bucket_sizes(sizes):
        num_places = _round_count(count)
        there_NL = np.zeros((num_places, length), bool)
        there_NL[:count] = np.arange(length) < sizes[done : done + count, None]
        token_NL = np.zeros((num_places, length), np.int64)
        token_NL[:count] = starts[done : done + count, None] + np.arange(length)
        rows_NHL = row + np.arange(num_places * num_heads * length).reshape(num_places, -1, length)
        there_NHL = np.broadcast_to(there_NL[:, None], rows_NHL.shape)
        row_TH[token_NL[there_NL]] = rows_NHL.transpose(0, 2, 1)[there_NL]
        sources.append(np.where(there_NHL, token_NL[:, None] * num_heads + heads[:, None], 0).ravel())
        absent.append(rows_NHL[~there_NHL])
        bias_NL = np.where(there_NL, 0, HIDDEN).astype(np.float32)
        buckets.append(Bucket(num_places, length, tensor(bias_NL)[:, None, None]))
        done, row = done + count, row + rows_NHL.size
    return Rows(
        buckets=tuple(buckets),
        num_rows=tuple(map(len, sources)),
        source_R=tensor(np.concatenate(sources)),
        absent=tensor(np.concatenate(absent)),
        row_TH=tensor(row_TH.ravel()),
    )


def _bucket_sizes(sizes: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield the length of each bucket and its number of sequences; a few go along with the next longer."""
    count = 0
    groups = [(length, len(list(same))) for length, same in itertools.groupby(sizes, key=_round_length)]
    for number, (length, more) in enumerate(groups, start=1):
        count += more
        if count >= FEW or number == len(groups):
            yield length, count
            count = 0


def _round_length(size: np.int64) -> int:
    if size > LONG:
        return int(-(-size // LONG) * LONG)
    return max(SHORT, 1 << (int(size) - 1).bit_length())


def _round_count(count: int) -> int:
    if count > ROUND_COUNT:
        return -(-count // ROUND_COUNT) * ROUND_COUNT
    return 1 << (count - 1).bit_length()


def padded_first(packing: Packing) -> torch.Tensor:
    """Return the first token of each sequence, filled up so that there are few shapes here, too."""
    return functional.pad(packing.first_B, (0, -len(packing.first_B) % ROUND_FIRST))
