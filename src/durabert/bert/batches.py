"""Which rows are in which batch, and batches as padded tensors.

Shape letters: B examples, T tokens of the longest example, padded to a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.determinism import Draw, stream
from durabert.bert.device import to_device
from durabert.bert.tokens import Tokens

Indices = NDArray[np.int64]
PAD_TO = 8
"""Matrix units work on multiples of 8, and fewer distinct shapes mean fewer kernels to set up."""


def epoch_order(num_rows: int, *, seed: int, epoch: int) -> Indices:
    """Return the order of the rows in an epoch, counted from 0."""
    generator = np.random.Generator(np.random.PCG64(stream(seed, Draw.ORDER, epoch)))
    return generator.permutation(num_rows)


@dataclass
class BatchOrder:
    """The batches of a training: batch n is a pure function of the number of rows, the seed and n."""

    num_rows: int
    batch_size: int
    seed: int
    _epoch: int = field(default=-1, repr=False)
    _order: Indices = field(default_factory=lambda: np.empty(0, np.int64), repr=False)

    @property
    def per_epoch(self) -> int:
        """Number of batches in an epoch, the last one possibly smaller."""
        return -(-self.num_rows // self.batch_size)

    def indices(self, step: int) -> Indices:
        """Return the rows of the batch of ``step``, counted from 0 over all epochs."""
        epoch, number = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._epoch, self._order = epoch, epoch_order(self.num_rows, seed=self.seed, epoch=epoch)
        return self._order[number * self.batch_size : (number + 1) * self.batch_size]


def micro_batches(indices: Indices, parts: int) -> list[Indices]:
    """Split a batch into at most ``parts`` non-empty pieces of nearly equal size."""
    return np.array_split(indices, min(parts, len(indices)))


@dataclass(frozen=True)
class Batch:
    """Examples of a batch as tensors."""

    inputs: dict[str, Any]
    """What the model is called with: ``input_ids`` and more, int64 tensors."""
    num_tokens: int
    """Tokens without padding."""


class Layout(Protocol):
    """How the examples of a batch lie in memory."""

    def batch(self, tokens: Tokens, indices: Indices) -> Batch:
        """Return the examples of these numbers, whose logits the model gives in their order."""


@dataclass(frozen=True)
class PaddedLayout:
    """Each example in a row of its own, padded to the longest of the batch."""

    pad_id: int
    """Token that fills up."""
    max_length: int
    """T is never above it, as the model may have no more positions."""
    device: torch.device

    def batch(self, tokens: Tokens, indices: Indices) -> Batch:
        """Return ``input_ids``, ``attention_mask`` and possibly ``token_type_ids``, each (B, T)."""
        return collate(tokens, indices, pad_id=self.pad_id, max_length=self.max_length, device=self.device)


def collate(tokens: Tokens, indices: Indices, *, pad_id: int, max_length: int, device: torch.device) -> Batch:
    """Pad the examples of a batch to the longest of them.

    Args:
        tokens: all examples.
        indices: B of them.
        pad_id: token that fills up.
        max_length: T is never above it, as the model may have no more positions.
        device: where the tensors go.
    """
    starts, lengths = tokens.offsets[indices], tokens.lengths[indices]
    longest = int(lengths.max())
    width = max(longest, min(-(-longest // PAD_TO) * PAD_TO, max_length))
    mask_BT = np.arange(width) < lengths[:, None]
    source = (starts[:, None] + np.arange(width))[mask_BT]
    ids_BT = np.full(mask_BT.shape, pad_id, np.int64)
    ids_BT[mask_BT] = tokens.ids[source]
    inputs = {"input_ids": ids_BT, "attention_mask": mask_BT.astype(np.int64)}
    if tokens.types is not None:
        types_BT = np.zeros(mask_BT.shape, np.int64)
        types_BT[mask_BT] = tokens.types[source]
        inputs["token_type_ids"] = types_BT
    tensors = {name: to_device(array, device) for name, array in inputs.items()}
    return Batch(tensors, int(lengths.sum()))


def by_length(lengths: Sequence[int] | NDArray[np.int64], *, token_budget: int) -> Iterator[Indices]:
    """Yield batches of rows of similar length, longest first, each of about ``token_budget`` tokens at most.

    The longest batch comes first, so that too little memory shows at once.
    """
    sizes = np.asarray(lengths)
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, token_budget // max(1, int(sizes[order[start]])))
        yield order[start : start + count]
        start += count
