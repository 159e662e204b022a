"""Products of matrices in bfloat16 on the tiles of a processor with AMX, with what follows them.

A library compiles a product of each new shape, which takes longer than some products of it; it often leaves
one of two threads idle where a matrix is narrow, and it is slow at a transposed one. Here the shape is no
matter, threads share columns or rows, and biases, GELU and sums are taken while the result is at hand.

Values are bfloat16 as the int16 with the same bits; sums are in float32, and rounded once. They are taken in
an order that depends on neither the number of threads nor the number of rows.

Shape letters: M rows and N columns of a product, K values that are summed up; T tokens, and D of them filled
up to whole tiles.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from numba import njit
from numba.extending import register_jitable

from durabert.bert.kernels import OPTIONS, array_of, halves, words
from durabert.bert.threads import on_team, share, team
from durabert.bert.tiles import (
    BLOCK,
    DEPTH,
    RIGHT,
    SHAPES,
    TILE,
    add_product,
    add_product_of_half,
    begin_tiles,
    clear_sums,
    end_tiles,
    has_tiles,
    keep_sums,
    take_sums,
)
from durabert.bert.vectors import (
    INLINED,
    LANES,
    exponential,
    larger,
    loaded,
    minus,
    plus,
    plus_product,
    reciprocal,
    spread,
    store,
    store_pairs,
    times,
    turn,
    where_negative,
)

ROWS: Final = 1024
"""Of a product that are computed with a panel of 32 columns of the right factor, at most."""
SUMMED: Final = 2048
"""Values of a sum that are, at most; a multiple of ``DEPTH``."""
PANELS: Final = 8
"""Of so many values that lie in the cache of a core at a time; more of fewer."""
WORDS: Final = DEPTH // 2
"""Values of float32 in whose place those of a row of a tile lie."""
DENSITY: Final = np.float32((2 * np.pi) ** -0.5)
"""Of the normal distribution at 0."""


def takes(rows: torch.Tensor, other: torch.Tensor, width: int) -> bool:
    """Return whether a product of these is computed here, whose result has so many columns.

    The way back of a layer has the sizes of its way there, so that both are computed here, or none.
    """
    return (
        all(one.dtype is torch.bfloat16 and one.device.type == "cpu" for one in (rows, other))
        and rows.shape[0] % TILE == 0
        and rows.shape[1] % BLOCK == 0
        and width % BLOCK == 0
        and has_tiles()
    )


def linear(x_MK: torch.Tensor, weight_NK: torch.Tensor, bias_N: torch.Tensor) -> torch.Tensor:
    """Return the rows, multiplied by the transposed weights, and the bias."""
    out = x_MK.new_empty((len(x_MK), len(weight_NK)))
    _product(x_MK, weight_NK, out, is_turned=True, bias_N=bias_N)
    return out


def linear_gelu(
    x_MK: torch.Tensor, weight_NK: torch.Tensor, bias_N: torch.Tensor, *, keep: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the slope of GELU at the same, nothing of use if it is not to be kept, and GELU.

    Source:
        Hendrycks and Gimpel 2016, with the normal distribution function.
    """
    after = x_MK.new_empty((len(x_MK), len(weight_NK)))
    slope = torch.empty_like(after) if keep else after
    _product(x_MK, weight_NK, after, is_turned=True, bias_N=bias_N, slope_MN=slope)
    return slope, after


def back(
    gradient_MK: torch.Tensor, weight_KN: torch.Tensor, *, added: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the gradient of what a layer was given from that of what it gave, and what is added to it."""
    out = gradient_MK.new_empty((len(gradient_MK), weight_KN.shape[1]))
    _product(gradient_MK, weight_KN, out, added_MN=added)
    return out


def back_gelu(gradient_MK: torch.Tensor, weight_KN: torch.Tensor, slope_MN: torch.Tensor) -> torch.Tensor:
    """Return the gradient of what GELU was given from that of the layer after it."""
    out = torch.empty_like(slope_MN)
    _product(gradient_MK, weight_KN, out, factor_MN=slope_MN)
    return out


def back_linear(gradient_TM: torch.Tensor, x_TN: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the gradients of weights, (M, N), and of a bias, (M,) in float32."""
    rows = gradient_TM.shape[1]
    out, sums = gradient_TM.new_empty((rows, x_TN.shape[1])), torch.empty(rows)
    multiply_tokens(team(), SHAPES, array_of(gradient_TM), array_of(x_TN), array_of(out), array_of(sums))
    return out, sums


def _product(
    left_MK: torch.Tensor,
    right: torch.Tensor,
    out_MN: torch.Tensor,
    *,
    is_turned: bool = False,
    bias_N: torch.Tensor | None = None,
    slope_MN: torch.Tensor | None = None,
    added_MN: torch.Tensor | None = None,
    factor_MN: torch.Tensor | None = None,
) -> None:
    """Write a product; the right factor is (N, K) if it is turned, and (K, N) if not."""
    values = array_of(right)
    optional = (None if one is None else array_of(one) for one in (bias_N, slope_MN, added_MN, factor_MN))
    multiply(
        team(), SHAPES, array_of(left_MK), values, values.view(np.float32) if is_turned else None,
        array_of(out_MN), *optional,
    )  # fmt: skip


@register_jitable(**INLINED)
def _take_turned(right_NW, first, word, count, panel_words, there):
    """Copy 32 rows of the right factor, which is transposed, as tiles."""
    width = right_NW.shape[1]
    for k in range(0, count, WORDS):
        for tile in range(2):
            turn(
                right_NW, (first + tile * TILE) * width + word + k, width,
                panel_words, there + (2 * k + tile * TILE) * TILE, TILE,
            )  # fmt: skip


@register_jitable(**INLINED)
def _take_pairs(right_KN, first, size, start, count, panel):
    """Copy so many times 32 columns of the right factor as tiles; 0 where it has no rows."""
    rows, width = right_KN.shape
    for k in range(0, count, 2):
        at, there = (start + k) * width + first, k // DEPTH * RIGHT + k % DEPTH * TILE
        is_zero = start + k >= rows
        # Along the rows, as a processor foresees what is read next.
        for p in range(size):
            for tile in range(2):
                here = there + p * count * BLOCK + tile * DEPTH * TILE
                if is_zero:
                    for i in range(2 * LANES):
                        panel[here + i] = 0
                else:
                    store_pairs(right_KN, at + p * BLOCK + tile * TILE, 0, width, panel, here)


@register_jitable(**INLINED)
def _normal(x):
    """Return the normal distribution function, to 1e-7, and e to the power of minus half the square.

    Source:
        Abramowitz and Stegun 1964, 7.1.26.
    """
    size = larger(x, minus(spread(np.float32(0.0)), x))
    # Not so small that products of it are: a processor takes a hundred times as long for those.
    power = exponential(larger(spread(np.float32(-80.0)), times(times(x, x), spread(np.float32(-0.5)))))
    one = spread(np.float32(1.0))
    t = reciprocal(plus_product(one, size, spread(np.float32(0.3275911 * 0.5**0.5))))
    p = plus_product(spread(np.float32(-0.5 * 1.453152027)), t, spread(np.float32(0.5 * 1.061405429)))
    p = plus_product(spread(np.float32(0.5 * 1.421413741)), t, p)
    p = plus_product(spread(np.float32(-0.5 * 0.284496736)), t, p)
    p = plus_product(spread(np.float32(0.5 * 0.254829592)), t, p)
    tail = times(times(t, p), power)
    return where_negative(x, tail, minus(one, tail)), power


@register_jitable(**INLINED)
def _finish(sums, place, rows, row, column, out_MN, bias_N, slope_MN, added_MN, factor_MN):
    """Write a block of the result."""
    width = out_MN.shape[1]
    for i in range(rows):
        for lane in range(0, BLOCK, LANES):
            x = loaded(sums, place + i * BLOCK + lane)
            at = (row + i) * width + column + lane
            if bias_N is not None:
                x = plus(x, loaded(bias_N, column + lane))
            if added_MN is not None:
                x = plus(x, loaded(added_MN, at))
            if factor_MN is not None:
                x = times(x, loaded(factor_MN, at))
            if slope_MN is not None:
                below, power = _normal(x)
                store(slope_MN, at, plus_product(below, times(x, spread(DENSITY)), power))
                x = times(x, below)
            store(out_MN, at, x)


@register_jitable(**INLINED)
def _take(right, right_words, column, size, start, count, panel, panel_words):
    """Copy so many panels of the right factor as tiles."""
    if right_words is None:
        _take_pairs(right, column, size, start, count, panel)
    else:
        for p in range(size):
            there = p * count * WORDS
            _take_turned(right_words, column + p * BLOCK, start // 2, count // 2, panel_words, there)


@register_jitable(**INLINED)
def _add(left_MK, at, rows, panel, there, count):
    """Add a product to the sums of a block."""
    depth = left_MK.shape[1]
    if rows == BLOCK:
        for k in range(0, count, DEPTH):
            add_product(left_MK, at + k, depth, panel, there + k * BLOCK)
    else:
        for k in range(0, count, DEPTH):
            add_product_of_half(left_MK, at + k, depth, panel, there + k * BLOCK)


@register_jitable(**INLINED)
def _multiply_rows(
    left_MK, start, count, first, last, panel, left_out, size, sums,
    out_MN, bias_N, slope_MN, added_MN, factor_MN,
):  # fmt: skip
    """Multiply rows by panels, and write the result if there is no more to be added."""
    depth = left_MK.shape[1]
    row, column, place = first, 0, 0
    for block in range((last - first + BLOCK - 1) // BLOCK * size):
        row_before, column_before, place_before = row, column, place
        row, p = first + block // size * BLOCK, block % size
        column = (left_out + p) * BLOCK
        # Sums that are done soon make way for others.
        place = (block if depth > SUMMED else block % 2) * BLOCK * BLOCK
        if start == 0:
            clear_sums()
        else:
            take_sums(sums, place)
        _add(left_MK, row * depth + start, min(BLOCK, last - row), panel, p * count * BLOCK, count)
        if start + count == depth and block > 0:
            # The one before, which the processor does while it still multiplies.
            _finish(
                sums, place_before, min(BLOCK, last - row_before), row_before, column_before,
                out_MN, bias_N, slope_MN, added_MN, factor_MN,
            )  # fmt: skip
        keep_sums(sums, place)
    if start + count == depth:
        _finish(
            sums, place, min(BLOCK, last - row), row, column, out_MN, bias_N, slope_MN, added_MN, factor_MN
        )


@njit(**OPTIONS, _nrt=False)
def _multiply(
    number, of, shapes, left_MK, right, right_words, out_MN, bias_N, slope_MN, added_MN, factor_MN,
    panels, panels_words, sums,
):  # fmt: skip
    num_rows, depth = left_MK.shape
    columns = out_MN.shape[1] // BLOCK
    most_rows, most_panels = ROWS, panels.shape[1] // (min(depth, SUMMED) * BLOCK)
    if num_rows > out_MN.shape[1]:
        # Each thread its rows, which it may have in its cache.
        most_rows = min(ROWS, (num_rows + of * BLOCK - 1) // (of * BLOCK) * BLOCK)
    item, end = share(columns * ((num_rows + most_rows - 1) // most_rows), number, of)
    begin_tiles(shapes)
    while item < end:
        first, left_out = item // columns * most_rows, item % columns
        last, size = min(first + most_rows, num_rows), min(most_panels, end - item, columns - left_out)
        for start in range(0, depth, SUMMED):
            count = min(SUMMED, depth - start)
            _take(
                right, right_words, left_out * BLOCK, size, start, count, panels[number], panels_words[number]
            )
            _multiply_rows(
                left_MK, start, count, first, last, panels[number], left_out, size, sums[number],
                out_MN, bias_N, slope_MN, added_MN, factor_MN,
            )  # fmt: skip
        item += size
    end_tiles()


@njit(**OPTIONS, _nrt=False)
def _turn_share(number, of, values_TM, turned_MD, words_MD, sum_M, squares):
    tokens, width = values_TM.shape
    depth = turned_MD.shape[1]
    square, square_words = squares[number], squares[number].view(np.float32)
    begin, end = share(width // TILE, number, of)
    for column in range(begin * TILE, end * TILE, TILE):
        sums = spread(np.float32(0.0))
        for t in range(0, depth, DEPTH):
            for i in range(DEPTH):
                if t + i < tokens:
                    sums = plus(sums, loaded(values_TM, (t + i) * width + column))
            for i in range(0, DEPTH, 2):
                if t + i < tokens:
                    store_pairs(values_TM, (t + i) * width + column, 0, width, square, i * TILE)
                else:
                    for lane in range(2 * LANES):
                        square[i * TILE + lane] = 0
            turn(square_words, 0, TILE, words_MD, (column * depth + t) // 2, depth // 2)
        store(sum_M, column, sums)


@njit(**OPTIONS)
def multiply(
    team, shapes, left_MK, right, right_words, out_MN, bias_N, slope_MN, added_MN, factor_MN
):  # fmt: skip
    """Write a product, and what follows it.

    Args:
        team: of threads.
        shapes: ``SHAPES``.
        left_MK: the left factor.
        right: the right one, (K, N).
        right_words: the same as float32 if it is (N, K); none if not.
        out_MN: gets the product.
        bias_N: what is added to each row; none: nothing.
        slope_MN: gets the slope of GELU, of which ``out_MN`` gets the value; none: no GELU.
        added_MN: what is added; none: nothing.
        factor_MN: what it is multiplied by; none: nothing.
    """
    depth, width = left_MK.shape[1], out_MN.shape[1]
    panels = halves(team[3], min(PANELS * SUMMED * BLOCK, width * min(depth, SUMMED)))
    blocks = 2 if depth <= SUMMED else PANELS * ROWS // BLOCK
    sums = words(team[3], blocks * BLOCK * BLOCK)
    arguments = (
        shapes, left_MK, right, right_words, out_MN, bias_N, slope_MN, added_MN, factor_MN,
        panels, panels.view(np.float32), sums,
    )  # fmt: skip
    on_team(_multiply, team, arguments)


@njit(**OPTIONS)
def multiply_tokens(team, shapes, left_TM, right_TN, out_MN, sum_M):
    """Write the product of the transposed left factor and the right one, and the left one's sums."""
    tokens, rows = left_TM.shape
    turned = halves(rows, (tokens + DEPTH - 1) // DEPTH * DEPTH)
    squares = halves(team[3], DEPTH * TILE)
    on_team(_turn_share, team, (left_TM, turned, turned.view(np.float32), sum_M, squares))
    multiply(team, shapes, turned, right_TN, None, out_MN, None, None, None, None)


def make_ready() -> None:
    """Call each kernel."""
    if not has_tiles():
        return
    x, weight, bias = torch.zeros(TILE, BLOCK), torch.zeros(BLOCK, BLOCK), torch.zeros(BLOCK)
    x, weight, bias = (one.bfloat16() for one in (x, weight, bias))
    linear(x, weight, bias)
    linear_gelu(x, weight, bias, keep=True)
    back(x, weight)
    back(x, weight, added=x)
    back_gelu(x, weight, x)
    back_linear(x, x)
