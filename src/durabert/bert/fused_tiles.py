"""Encoder layers on the tiles of AMX: see ``durabert.bert.fused``.

Shape letters: T tokens, F values of a token, B sequences and what fills them up.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import torch
from torch.nn.functional import pad

from durabert.bert import layer_tiles
from durabert.bert.dropout import Masks
from durabert.bert.fused_cpu import NO_DROPOUT
from durabert.bert.fused_parts import How, Tensors, joined
from durabert.bert.layer_tiles import SITES, Numbers, Places, Sizes
from durabert.bert.packing import Packing
from durabert.bert.threads import team
from durabert.bert.tiles import BLOCK, SHAPES, TILE, has_tiles

NONE: Final = np.zeros(0, np.int64)
PARTS: Final = 4
"""Tensors of what is between the two passes."""
INNER: Final = 10
"""Place of the weight of the first product of feed-forward among those of a layer."""


def takes(hidden: torch.Tensor, weights: Tensors) -> bool:
    """Return whether a layer of these weights is computed here: in bfloat16, and of whole tiles."""
    return (
        all(one.dtype is torch.bfloat16 and one.is_contiguous() for one in (hidden, *weights))
        and len(hidden) % TILE == 0
        and len(weights[0]) % BLOCK == 0
        and len(weights[INNER]) % BLOCK == 0
        and has_tiles()
    )


class TilesHow(How[Masks]):
    """A layer and a batch on tiles, and a draw."""

    def __init__(self, layer: Any, packing: Packing, masks: Masks, *, number: int, first_only: bool) -> None:
        super().__init__(layer, packing, masks, number=number, first_only=first_only)
        sites = [masks.site(p) if p else NO_DROPOUT for p in self.chances]
        self._numbers = Numbers(
            self.scaling,
            self.epsilon,
            np.array([(*site.key, site.dropped) for site in sites]),
            np.array([site.scale for site in sites]),
        )
        self._first = NONE if self.first_B is None else packing.first_B.numpy()

    def forward(self, hidden: torch.Tensor, weights: Tensors, *, keep: bool) -> tuple[torch.Tensor, Tensors]:
        """Compute a layer."""
        qw, qb, kw, kb, vw, vb, *others = weights
        together = joined(qw, kw, vw), joined(qb, kb, vb), *others
        sizes = self._sizes(hidden, len(weights[INNER]))
        # In parts, as the allocator keeps no memory for later that is more than some MiB.
        between = [hidden.new_empty(size if keep else 0) for size in layer_tiles.saved_sizes(sizes)]
        out = hidden.new_empty((sizes.rows, sizes.width))
        layer_tiles.forward(
            team(), SHAPES, sizes, self._numbers, _places(hidden, together, between), self.packing.starts,
            self._first, keep, out.data_ptr(),
        )  # fmt: skip
        if self.first_B is not None:
            out = out[: len(self.first_B)]
        return out, (hidden, *between, *together)

    def backward(self, gradient: torch.Tensor, saved: Tensors) -> Tensors:
        """Return the gradients of what went in and of the weights, from that of what came out."""
        hidden, *others = saved
        between, together = others[:PARTS], others[PARTS:]
        sizes = self._sizes(hidden, len(together[INNER - 4]))
        if len(gradient) < sizes.rows:
            gradient = pad(gradient, (0, 0, 0, sizes.rows - len(gradient)))
        each = layer_tiles.gradient_sizes(sizes)
        d_hidden, of_weights = torch.empty_like(hidden), hidden.new_empty(sum(each))
        layer_tiles.backward(
            team(), SHAPES, sizes, self._numbers, _places(hidden, together, between), self.packing.starts,
            self._first, gradient.data_ptr(), d_hidden.data_ptr(), of_weights.data_ptr(),
        )  # fmt: skip
        *matrices, qb, kb, vb, ob, scale1, shift1, ib, pb, scale2, shift2 = of_weights.split(each)
        lengths = *[sizes.width] * 4, sizes.inner, sizes.width
        qw, kw, vw, ow, iw, pw = (one.view(length, -1) for one, length in zip(matrices, lengths, strict=True))
        return (
            d_hidden, qw, qb, kw, kb, vw, vb, ow, ob, scale1, shift1, iw, ib, pw, pb, scale2, shift2,
        )  # fmt: skip

    def _sizes(self, hidden: torch.Tensor, inner: int) -> Sizes:
        (tokens, width), packing = hidden.shape, self.packing
        rows = tokens if self.first_B is None else -(-len(self.first_B) // TILE) * TILE
        return Sizes(
            tokens, packing.num_tokens, rows, width, inner, packing.num_heads, int(packing.sizes[-1])
        )


def _places(
    hidden: torch.Tensor, together: Sequence[torch.Tensor], between: Sequence[torch.Tensor]
) -> Places:
    weights, saved = (np.array([one.data_ptr() for one in several]) for several in (together, between))
    return Places(weights, hidden.data_ptr(), saved)


def make_ready() -> None:
    """Call each kernel."""
    if not has_tiles():
        return
    size, starts, none = Sizes(TILE, TILE, TILE, BLOCK, BLOCK, 1, TILE), np.array([0, TILE]), NONE
    one = np.float32(1.0)
    numbers = Numbers(one, one, np.zeros((SITES, 3), np.uint32), np.ones(SITES, np.float32))
    memory = torch.zeros(16 * BLOCK * BLOCK, dtype=torch.bfloat16)
    place = memory.data_ptr()
    places = Places(np.full(12, place), place, np.full(PARTS, place))
    layer_tiles.forward(team(), SHAPES, size, numbers, places, starts, none, True, place)
    layer_tiles.backward(team(), SHAPES, size, numbers, places, starts, none, place, place, place)
