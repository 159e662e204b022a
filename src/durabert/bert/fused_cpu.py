"""What an encoder layer does between its products on a CPU: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token, H heads, N sequences.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import torch

from durabert.bert import kernels
from durabert.bert.dropout import Masks, Site
from durabert.bert.fused_parts import How, Tensors
from durabert.bert.kernels import array_of
from durabert.bert.packing import Packing, Rows
from durabert.bert.threads import team

NO_DROPOUT: Final = Site((np.uint32(0), np.uint32(0)), np.uint32(0), np.float32(1))


class CpuHow(How[Masks]):
    """A layer and a batch on a CPU, and a draw."""

    def __init__(self, layer: Any, packing: Packing, masks: Masks, *, number: int, first_only: bool) -> None:
        super().__init__(layer, packing, masks, number=number, first_only=first_only)
        self.sites = [masks.site(p) if p else NO_DROPOUT for p in self.chances]

    def attend(self, projected_T3F: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return what each token attends to, (T, F), and what ``attend_back`` needs."""
        places, site = self.packing.rows, self.sites[0]
        width = projected_T3F.shape[1] // 3 // self.packing.num_heads
        rows = projected_T3F.view(-1, width).index_select(0, places.sources_3R)
        attended, saved = [], []
        for bucket, queries, keys, values in _buckets(places, *rows.chunk(3)):
            scores = torch.bmm(queries, keys.transpose(1, 2))
            weights, kept = torch.empty_like(scores), torch.empty_like(scores)
            kernels.weigh(
                team(), array_of(scores), bucket.sizes_N, places.num_heads, self.scaling, *site.key,
                site.dropped, site.scale, bucket.start, array_of(weights), array_of(kept),
            )  # fmt: skip
            attended.append(torch.bmm(kept, values).view(-1, width))
            saved += [weights, kept]
        out = torch.cat(attended).index_select(0, places.row_TH).view(len(projected_T3F), -1)
        # What fills up is in no sequence, but in the products.
        out[self.packing.num_tokens :] = 0
        return out, rows, *saved

    def attend_back(self, gradient_TF: torch.Tensor, *saved: torch.Tensor) -> torch.Tensor:
        """Return the gradient of the projections, (T, 3 F)."""
        rows, *saved_weights = saved
        places, site = self.packing.rows, self.sites[0]
        width = rows.shape[1]
        attended = gradient_TF.view(-1, width).index_select(0, places.source_R)
        attended.index_fill_(0, places.absent, 0.0)
        moved = torch.empty_like(rows)
        buckets = _buckets(places, *rows.chunk(3), attended, *moved.chunk(3))
        for (bucket, queries, keys, values, out, dq, dk, dv), weights, kept in zip(
            buckets, saved_weights[::2], saved_weights[1::2], strict=True
        ):
            torch.bmm(kept.transpose(1, 2), out, out=dv)
            change = torch.bmm(out, values.transpose(1, 2))
            kernels.weigh_backward(
                team(), array_of(change), bucket.sizes_N, places.num_heads, array_of(weights), self.scaling,
                *site.key, site.dropped, site.scale, bucket.start,
            )  # fmt: skip
            torch.bmm(change, keys, out=dq)
            torch.bmm(change.transpose(1, 2), queries, out=dk)
        change_T3F = moved.index_select(0, places.row_T3H).view(len(gradient_TF), -1)
        change_T3F[self.packing.num_tokens :] = 0
        return change_T3F

    def sum_tokens(self, values_TF: torch.Tensor) -> torch.Tensor:
        """Return the sum over all tokens, (F,)."""
        return values_TF.sum(0)

    def _add_norm(self, number: int, given: Tensors, results: Tensors) -> None:
        site = self.sites[number]
        numbers = (self.epsilon, *site.key, site.dropped, site.scale)
        kernels.dropout_add_norm(team(), *map(array_of, given), *numbers, *map(array_of, results))

    def _add_norm_back(self, number: int, given: Tensors, results: Tensors) -> torch.Tensor:
        site = self.sites[number]
        sums = torch.zeros((kernels.CHUNKS, 3, given[1].shape[1]))
        numbers = (*site.key, site.dropped, site.scale)
        kernels.dropout_add_norm_backward(
            team(), *map(array_of, given), *numbers, *map(array_of, (*results, sums))
        )
        return sums[0]


def _buckets(places: Rows, *tensors_RD: torch.Tensor) -> Iterator[tuple[Any, ...]]:
    parts = (tensor.split(places.num_rows) for tensor in tensors_RD)
    for bucket, *rows in zip(places.buckets, *parts, strict=True):
        yield bucket, *(part.view(-1, bucket.length, part.shape[1]) for part in rows)
