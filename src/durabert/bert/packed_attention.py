"""Attention within each sequence of a batch whose tokens lie end to end.

It comes in by Transformers' own interface, so that every encoder which uses that gains.

Shape letters: T tokens of all sequences, H heads, D values of a head, N sequences of a bucket, L places of
each of them, R rows of all buckets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface

from durabert.bert import flash
from durabert.bert.dropout import Chance, Masks
from durabert.bert.packing import HIDDEN, Bucket, Packing
from durabert.bert.pooling import Pooling

ATTENTION: Final = "durabert_packed"
"""Under this name Transformers knows the attention of this module."""


def packed_attention(
    _module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing,
    masks: Masks | Chance | None = None,
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
    if query.is_cuda and flash.takes(width, query.dtype):
        attended, *_saved = flash.forward(
            *(tensor[0].transpose(0, 1) for tensor in (query, key, value)),
            packing=packing,
            scaling=width**-0.5 if scaling is None else scaling,
            dropout=dropout,
            sliding_window=sliding_window,
        )
        return attended[None], None
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
    masks: Masks | Chance | None
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
        if not isinstance(self.masks, Masks):
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
    pooling = Pooling(means=getattr(model.config, "classifier_pooling", None) == "mean")
    hooks = pooling.hooks(model)

    def undo() -> None:
        for hook in hooks:
            hook.remove()
        model.set_attn_implementation(before)

    return undo
