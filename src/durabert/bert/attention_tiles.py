"""Attention on the tiles of a processor with AMX, for what is scored: the way back has no use for it.

A thread takes one head of one sequence after the other, and 32 queries of it at once. Their scores, and the
weights that become of them, stay in the cache of its core.

Values are bfloat16 as the int16 with the same bits; sums are in float32.

Shape letters: T tokens, F values of a token, H heads, D values of a head, N sequences, L tokens of one of
them, filled up to whole blocks with 0.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from durabert.bert.kernels import OPTIONS, array_of, halves, words
from durabert.bert.threads import on_team, team
from durabert.bert.tiles import (
    BLOCK,
    DEPTH,
    SHAPES,
    TILE,
    add_product,
    begin_tiles,
    clear_sums,
    end_tiles,
    has_tiles,
    keep_sums,
)
from durabert.bert.vectors import (
    INLINED,
    LANES,
    exponential,
    first_lanes,
    larger,
    largest,
    loaded,
    minus,
    plus,
    spread,
    store,
    store_pairs,
    times,
    total,
    turn,
)

PARTS: Final = 5
"""Of what is kept of a head: queries, keys, values, and the latter two as tiles."""


def takes(width: int, dtype: torch.dtype) -> bool:
    """Return whether heads of so many values are attended to here."""
    return dtype is torch.bfloat16 and width % DEPTH == 0 and has_tiles()


def attend(
    projected_T3F: torch.Tensor,
    starts_N: NDArray[np.int64],
    num_heads: int,
    *,
    queries: int,
    scaling: np.float32,
    out_TF: torch.Tensor,
) -> None:
    """Write what the first tokens of each sequence attend to.

    Args:
        projected_T3F: queries, keys and values of all heads.
        starts_N: first token of each sequence, and the end of the last.
        num_heads: H.
        queries: tokens of a sequence, at most, of which that is asked.
        scaling: of the scores.
        out_TF: gets it.

    Source:
        Vaswani et al. 2017, section 3.2.1.
    """
    attend_on_team(
        team(), SHAPES, array_of(projected_T3F), starts_N, num_heads, queries, scaling, array_of(out_TF),
        int(np.diff(starts_N).max()),
    )  # fmt: skip


@register_jitable(**INLINED)
def _take(values_T3F, start, length, column, width, wide, heads, place):
    """Copy a head of a sequence, and 0 behind it up to ``wide`` rows."""
    size = values_T3F.shape[1]
    for i in range(length):
        for d in range(0, width, LANES):
            store(heads, place + i * width + d, loaded(values_T3F, (start + i) * size + column + d))
    for d in range(length * width, wide * width, LANES):
        store(heads, place + d, spread(np.float32(0.0)))


@register_jitable(**INLINED)
def _soften(scores, row, length, wide, scaling, weights):
    """Write the weights of a query before they are divided by their sum, and return that."""
    most = spread(np.float32(-np.inf))
    for block in range(0, wide, BLOCK):
        for lane in range(0, BLOCK, LANES):
            place = block * BLOCK + row * BLOCK + lane
            x = loaded(scores, place)
            if block + lane + LANES > length:
                x = first_lanes(x, length - block - lane, np.float32(-np.inf))
                store(scores, place, x)
            most = larger(most, x)
    top = spread(largest(most))
    sums = spread(np.float32(0.0))
    for block in range(0, wide, BLOCK):
        for lane in range(0, BLOCK, LANES):
            x = times(minus(loaded(scores, block * BLOCK + row * BLOCK + lane), top), spread(scaling))
            x = exponential(x)
            store(weights, row * wide + block + lane, x)
            sums = plus(sums, x)
    return total(sums)


@register_jitable(**INLINED)
def _tiled(head, head_words, part, wide, width):
    """Copy keys, transposed, and values of a head as tiles."""
    for block in range(0, wide, BLOCK):
        for d in range(0, width, DEPTH):
            place = block * width + d * BLOCK
            for tile in range(2):
                turn(
                    head_words, (part + (block + tile * TILE) * width + d) // 2, width // 2,
                    head_words, (3 * part + place) // 2 + tile * TILE * TILE, TILE,
                )  # fmt: skip
            place = 4 * part + d * wide + block * BLOCK
            for i in range(0, DEPTH, 2):
                for tile in range(2):
                    store_pairs(
                        head, 2 * part + (block + i) * width + d + tile * TILE, 0, width,
                        head, place + i * TILE + tile * DEPTH * TILE,
                    )  # fmt: skip


@register_jitable(**INLINED)
def _score(head, row, part, wide, width, scores):
    """Write the scores of 32 queries."""
    for block in range(0, wide, BLOCK):
        clear_sums()
        for d in range(0, width, DEPTH):
            add_product(head, row * width + d, width, head, 3 * part + block * width + d * BLOCK)
        keep_sums(scores, block * BLOCK)


@register_jitable(**INLINED)
def _weigh(head, weights, part, wide, d, results, place):
    """Write the sums of 32 of the values that weights are multiplied by."""
    clear_sums()
    for block in range(0, wide, DEPTH):
        add_product(weights, block, wide, head, 4 * part + d * wide + block * BLOCK)
    keep_sums(results, place)


@njit(**OPTIONS, _nrt=False)
def _attend(
    number, of, shapes, projected_T3F, start_N, num_heads, queries, scaling, out_TF, longest,
    heads, heads_words, weights, scores,
):  # fmt: skip
    size = out_TF.shape[1]
    width = size // num_heads
    head, weight, score = heads[number], weights[number], scores[number]
    part = longest * width
    begin_tiles(shapes)
    # In turn, since the sequences are sorted by their length.
    for item in range(number, (len(start_N) - 1) * num_heads, of):
        start, column = start_N[item // num_heads], item % num_heads * width
        length = start_N[item // num_heads + 1] - start
        wide = (length + BLOCK - 1) // BLOCK * BLOCK
        for kind in range(3):
            _take(projected_T3F, start, length, kind * size + column, width, wide, head, kind * part)
        _tiled(head, heads_words[number], part, wide, width)
        results = BLOCK * wide
        sums = results + BLOCK * BLOCK
        asked = min(length, queries)
        for row in range(0, asked, BLOCK):
            _score(head, row, part, wide, width, score)
            rows = min(BLOCK, asked - row)
            for i in range(rows):
                score[sums + i] = _soften(score, i, length, wide, scaling, weight)
            for d in range(0, width, BLOCK):
                _weigh(head, weight, part, wide, d, score, results)
                for i in range(rows):
                    inverse = spread(np.float32(1.0) / score[sums + i])
                    place = (start + row + i) * size + column + d
                    for lane in range(0, BLOCK, LANES):
                        x = loaded(score, results + i * BLOCK + lane)
                        store(out_TF, place + lane, times(x, inverse))
    end_tiles()


@njit(**OPTIONS)
def attend_on_team(team, shapes, projected_T3F, start_N, num_heads, queries, scaling, out_TF, longest):
    """Write what ``attend`` does; no sequence has more than ``longest`` tokens."""
    width = out_TF.shape[1] // num_heads
    longest = (longest + BLOCK - 1) // BLOCK * BLOCK
    heads = halves(team[3], PARTS * longest * width)
    weights = halves(team[3], BLOCK * longest)
    scores = words(team[3], BLOCK * (longest + BLOCK + 1))
    arguments = (
        shapes, projected_T3F, start_N, num_heads, queries, scaling, out_TF, longest,
        heads, heads.view(np.float32), weights, scores,
    )  # fmt: skip
    on_team(_attend, team, arguments)


def make_ready() -> None:
    """Call the kernel."""
    if not has_tiles():
        return
    projected = torch.zeros((2, 3 * DEPTH), dtype=torch.bfloat16)
    starts, out = np.array([0, 2], np.int64), projected.new_empty((2, DEPTH))
    attend(projected, starts, 1, queries=1, scaling=np.float32(1.0), out_TF=out)
