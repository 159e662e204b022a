"""No padding: the tokens of a batch lie end to end, and attention stays within each sequence.

Shape letters: B sequences, T tokens of all of them, H heads, D values of a head, F = H x D, N sequences of a
bucket, L places of each of them, R rows of all buckets: one for each sequence, head and place.

Everything but attention works on single tokens and does not see the difference. Attention comes in by
Transformers' own interface, so that every encoder which uses that gains; ``durabert.bert.layout`` tries it on
the model at hand, and one that gives other logits is padded instead.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface

from durabert.bert.batches import Batch, Indices
from durabert.bert.dropout import Masks
from durabert.bert.tokens import Tokens

ATTENTION: Final = "durabert_packed"
"""Under this name Transformers knows the attention of this module."""
HIDDEN: Final = -1e30
"""Added to the score of what is not to be seen; finite, so that a row of nothing else is no NaN."""
# A matrix product of a new shape is compiled first, which takes longer than the product: hence few shapes.
ROUND_TOKENS: Final = 16
"""T is a multiple of it."""
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

    start: int
    """First row."""
    count: int
    """N, with some that are not there."""
    length: int
    """L."""
    sizes_N: NDArray[np.int64]  # noqa: N815
    """Tokens of each sequence, without those that are not there."""
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
    num_heads: int

    @cached_property
    def sources_3R(self) -> torch.Tensor:  # noqa: N802
        """``source_R`` for queries, keys and values that lie side by side, token by token."""
        heads = self.num_heads
        base = self.source_R // heads * (3 * heads) + self.source_R % heads
        return torch.cat((base, base + heads, base + 2 * heads))

    @cached_property
    def row_T3H(self) -> torch.Tensor:  # noqa: N802
        """``row_TH`` for queries, keys and values that shall lie side by side, token by token."""
        row_T1H = self.row_TH.view(-1, 1, self.num_heads)
        shifts = torch.arange(3, device=row_T1H.device)[:, None] * len(self.source_R)
        return (row_T1H + shifts).flatten()


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

    @property
    def num_tokens(self) -> int:
        """Number of tokens of all sequences; those after them fill up and belong to none."""
        return int(self.starts[-1])

    @cached_property
    def rows(self) -> Rows:
        """How the sequences lie in buckets."""
        return _rows(self)


@dataclass(frozen=True)
class PackedLayout:
    """The examples of a batch end to end in one row."""

    num_heads: int
    first_position: int
    """Number of the first position of a sequence, 0 for most models."""
    device: torch.device

    def batch(self, tokens: Tokens, indices: Indices) -> Batch:
        """Return ``packing``, and ``input_ids``, ``position_ids``, maybe ``token_type_ids``, each (1, T)."""
        lengths = tokens.lengths[indices]
        order = np.argsort(lengths, kind="stable")
        sizes = lengths[order]
        starts = np.concatenate([[0], np.cumsum(sizes)])
        num_tokens = int(starts[-1])
        within = np.arange(num_tokens) - np.repeat(starts[:-1], sizes)
        source = np.repeat(tokens.offsets[indices][order], sizes) + within
        arrays = {"input_ids": tokens.ids[source], "position_ids": within + self.first_position}
        if tokens.types is not None:
            arrays["token_type_ids"] = tokens.types[source]
        # What fills up belongs to no sequence: nothing attends to it, and its gradient is 0.
        fill = -num_tokens % ROUND_TOKENS
        inputs: dict[str, Any] = {
            name: self._tensor(np.pad(array.astype(np.int64), (0, fill), mode="edge"))[None]
            for name, array in arrays.items()
        }
        first = np.empty_like(order)
        first[order] = starts[:-1]
        sequence = np.concatenate([np.repeat(order, sizes), np.full(fill, len(order))])
        inputs["packing"] = Packing(
            sizes, starts, self._tensor(first), self._tensor(sequence), self.num_heads
        )
        return Batch(inputs, num_tokens)

    def _tensor(self, array: NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(array).to(self.device)


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
        buckets.append(
            Bucket(row, num_places, length, sizes[done : done + count], tensor(bias_NL)[:, None, None])
        )
        done, row = done + count, row + rows_NHL.size
    return Rows(
        buckets=tuple(buckets),
        num_rows=tuple(map(len, sources)),
        source_R=tensor(np.concatenate(sources)),
        absent=tensor(np.concatenate(absent)),
        row_TH=tensor(row_TH.ravel()),
        num_heads=num_heads,
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


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    masks: Masks | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **_: object,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence; the signature is that of Transformers.

    Args:
        query: (1, H, T, D).
        key: (1, H, T, D).
        value: (1, H, T, D).
        attention_mask: none, as nothing is padded.
        packing: where the sequences lie.
        masks: where dropout comes from; none: from torch.
        scaling: of the scores; default: 1 over the root of D.
        dropout: share of the weights that are dropped.
        sliding_window: tokens that are so far apart or further do not see each other.

    Returns:
        (1, T, H, D), and no weights.
    """
    assert attention_mask is None
    heads, width = query.shape[1], query.shape[3]
    flat = [tensor[0].transpose(0, 1).reshape(-1, width) for tensor in (query, key, value)]
    how = _How(packing, width**-0.5 if scaling is None else scaling, dropout, masks, sliding_window)
    attend: Any = _Attention.apply if torch.is_grad_enabled() else _without_gradient
    attended = attend(*flat, how)
    return attended.view(1, -1, heads, width), None


@dataclass(frozen=True)
class _How:
    packing: Packing
    scaling: float
    dropout: float
    masks: Masks | None
    sliding_window: int | None

    def buckets(self, *tensors_RD: torch.Tensor) -> Iterator[tuple[Any, ...]]:
        """Yield each bucket with a view of its rows of each tensor, (N, H, L, D)."""
        places = self.packing.rows
        parts = (tensor.split(places.num_rows) for tensor in tensors_RD)
        for bucket, *rows in zip(places.buckets, *parts, strict=True):
            yield bucket, *map(bucket.of, rows)

    def bias(self, bucket: Bucket) -> torch.Tensor:
        """Return what is added to the scores of a bucket."""
        window = self.sliding_window
        if window is None or bucket.length <= window:
            return bucket.bias_N11L
        places = torch.arange(bucket.length, device=bucket.bias_N11L.device)
        return bucket.bias_N11L.masked_fill((places[:, None] - places).abs() >= window, HIDDEN)

    def mask(self, weights: torch.Tensor) -> torch.Tensor | None:
        """Return what weights are multiplied by; none without dropout."""
        if not self.dropout:
            return None
        if self.masks is None:
            return functional.dropout(torch.ones_like(weights), self.dropout)
        return self.masks.draw(weights.shape, self.dropout, weights.dtype)


def _without_gradient(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: _How) -> torch.Tensor:
    places = how.packing.rows
    rows = (tensor.index_select(0, places.source_R) for tensor in (query, key, value))
    attended = [
        functional.scaled_dot_product_attention(
            q, k, v, attn_mask=how.bias(bucket).to(q.dtype), dropout_p=how.dropout, scale=how.scaling
        ).reshape(-1, query.shape[1])
        for bucket, q, k, v in how.buckets(*rows)
    ]
    return torch.cat(attended).index_select(0, places.row_TH)


class _Attention(torch.autograd.Function):
    """Attention in all buckets as one operation: as many small ones they cost more than the products.

    Source:
        Vaswani et al. 2017, section 3.2.1.
    """

    @staticmethod
    def forward(
        context: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: _How
    ) -> torch.Tensor:
        places = how.packing.rows
        q, k, v = (tensor.index_select(0, places.source_R) for tensor in (query, key, value))
        attended, weights, masks = [], [], []
        for bucket, queries, keys, values in how.buckets(q, k, v):
            scores = torch.add(how.bias(bucket), queries @ keys.transpose(2, 3), alpha=how.scaling)
            soft = functional.softmax(scores, dim=-1).to(v.dtype)
            mask = how.mask(soft)
            attended.append(((soft if mask is None else soft * mask) @ values).view(-1, v.shape[1]))
            weights.append(soft)
            masks.append(mask)
        context.how = how
        context.save_for_backward(q, k, v, *weights, *masks)
        return torch.cat(attended).index_select(0, places.row_TH)

    @staticmethod
    def backward(
        context: Any, *gradients: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, None]:
        how: _How = context.how
        packing, places = how.packing, how.packing.rows
        q, k, v, *saved = context.saved_tensors
        weights, masks = saved[: len(places.buckets)], saved[len(places.buckets) :]
        attended = gradients[0].index_select(0, places.source_R)
        attended.index_fill_(0, places.absent, 0.0)
        moved: tuple[torch.Tensor, ...] = tuple(torch.empty_like(tensor) for tensor in (q, k, v))
        buckets = how.buckets(q, k, v, attended, *moved)
        for (_, queries, keys, values, out, dq, dk, dv), soft, mask in zip(
            buckets, weights, masks, strict=True
        ):
            dropped = soft if mask is None else soft * mask
            torch.matmul(dropped.transpose(2, 3), out, out=dv)
            change = out @ values.transpose(2, 3)
            if mask is not None:
                change *= mask
            change = torch.ops.aten._softmax_backward_data(change, soft, -1, soft.dtype)  # noqa: SLF001
            change *= how.scaling
            torch.matmul(change, keys, out=dq)
            torch.matmul(change.transpose(2, 3), queries, out=dk)
        dq, dk, dv = (tensor.index_select(0, places.row_TH) for tensor in moved)
        for tensor in (dq, dk, dv):
            tensor[packing.num_tokens * packing.num_heads :] = 0
        return dq, dk, dv, None


AttentionInterface.register(ATTENTION, packed_attention)


def install(model: Any) -> Callable[[], None]:
    """Let a model attend and classify without padding; return what undoes it.

    Raises:
        ValueError: the model does not know Transformers' attention interface.
    """
    before = model.config._attn_implementation  # noqa: SLF001 - Transformers has no other way to ask
    model.set_attn_implementation(ATTENTION)
    pooling = _Pooling(means=getattr(model.config, "classifier_pooling", None) == "mean")
    hooks = pooling.hooks(model)

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)

    return undo


def padded_first(packing: Packing) -> torch.Tensor:
    """Return the first token of each sequence, filled up so that there are few shapes here, too."""
    return functional.pad(packing.first_B, (0, -len(packing.first_B) % ROUND_FIRST))


class _Pooling:
    """Leaves one row of each sequence to the head, as early as it can be."""

    def __init__(self, *, means: bool) -> None:
        self._means = means
        self._packing: Packing | None = None

    def hooks(self, model: Any) -> list[RemovableHandle]:
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
    lengths = torch.bincount(packing.sequence_T, minlength=count + 1)
    return sums[:count] / lengths[:count, None]
