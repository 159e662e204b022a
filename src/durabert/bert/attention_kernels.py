"""Attention within short sequences, forward and back in one pass each, on the tokens as they lie.

A thread takes one head of one sequence after the other. All that it computes of them stays in the cache of
its core, and what the way back needs is computed there again, which is quicker than to keep it.

Values are float32, or bfloat16 as the int16 with the same bits; sums are in float32.

Shape letters: T tokens, F values of a token, H heads, D values of a head, N sequences, L tokens of one of
them, W the same in whole vectors.
"""

# ruff: noqa: ANN001, ANN002, ANN201, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

from typing import Final

import numpy as np
from numba import njit
from numba.extending import register_jitable

from durabert.bert.kernels import OPTIONS
from durabert.bert.threads import on_team, share
from durabert.bert.vectors import (
    INLINED,
    LANES,
    exponential,
    first_lanes,
    kept,
    larger,
    largest,
    loaded,
    minus,
    plus,
    plus_product,
    spread,
    spread_from,
    store,
    times,
    total,
    turn,
)

LONGEST: Final = 128
"""Tokens of a sequence at most, and values of a head: what is computed of it is to stay in a core's cache."""
PLACES: Final = 8
"""Matrices of a thread: queries, keys, values, keys transposed, weights; on the way back also the gradient
of what is attended to, values transposed, gradients of weights."""
PLACE: Final = LONGEST * LONGEST + 17 * LANES
"""Values of each; no power of two, as a cache does not hold many values that are so far apart."""


@register_jitable(**INLINED)
def _take(values_TX, start, length, column, width, wide, rows_WD):
    """Copy a head of a sequence, as float32, and 0 behind it up to ``wide`` rows."""
    size = values_TX.shape[1]
    for i in range(length):
        for d in range(0, width, LANES):
            store(rows_WD, i * width + d, loaded(values_TX, (start + i) * size + column + d))
    for place in range(length * width, wide * width, LANES):
        store(rows_WD, place, spread(np.float32(0.0)))


@register_jitable(**INLINED)
def _turn(rows_WD, width, wide, columns_DW):
    """Transpose a head of a sequence."""
    for j in range(0, wide, LANES):
        for d in range(0, width, LANES):
            turn(rows_WD, j * width + d, width, columns_DW, d * wide + j, wide)


@register_jitable(**INLINED)
def _multiply(left, row_step, step, num_rows, count, right, width, target, place, stride):
    """Write the product of two matrices, of whose sums each stays in a register.

    Args:
        left: float32.
        row_step: values between two rows of ``left``.
        step: values between two values of a row of ``left``.
        num_rows: of ``left`` and of the product.
        count: values of a row of ``left``, and rows of ``right``.
        right: float32, row by row.
        width: of the rows of ``right`` and of the product, whole vectors.
        target: what the product is written to.
        place: of the first row there.
        stride: values between two rows there.
    """
    for i in range(num_rows):
        first = i * row_step
        for c in range(0, width, LANES):
            even, odd = spread(np.float32(0.0)), spread(np.float32(0.0))
            for k in range(0, count - 1, 2):
                # Two sums at a time, as each waits for itself.
                even = plus_product(even, spread_from(left, first + k * step), loaded(right, k * width + c))
                odd = plus_product(
                    odd, spread_from(left, first + (k + 1) * step), loaded(right, (k + 1) * width + c)
                )
            if count % 2:
                k = count - 1
                even = plus_product(even, spread_from(left, first + k * step), loaded(right, k * width + c))
            store(target, place + i * stride + c, plus(even, odd))


@register_jitable(**INLINED)
def _soften(score_LW, rows, length, wide, scaling):
    """Turn scores into the weights by which a token sees the others."""
    for first in range(0, rows * wide, wide):
        top = spread(np.float32(-np.inf))
        for j in range(0, wide, LANES):
            score = loaded(score_LW, first + j)
            top = larger(top, first_lanes(score, length - j, np.float32(-np.inf)))
        most = spread(largest(top))
        sums = spread(np.float32(0.0))
        for j in range(0, wide, LANES):
            weight = exponential(times(minus(loaded(score_LW, first + j), most), spread(scaling)))
            weight = first_lanes(weight, length - j, np.float32(0.0))
            store(score_LW, first + j, weight)
            sums = plus(sums, weight)
        inverse = spread(np.float32(1.0) / total(sums))
        for j in range(0, wide, LANES):
            store(score_LW, first + j, times(loaded(score_LW, first + j), inverse))


@register_jitable(**INLINED)
def _place_of(token, num_heads, head):
    """Return the number of the first weight of a row, among all of a batch."""
    return np.uint32((token * num_heads + head) * LONGEST)


@register_jitable(**INLINED)
def _drop(weight_LW, rows, wide, start, num_heads, head, key0, key1, dropped, kept_scale):
    """Let dropout strike the weights."""
    for i in range(rows):
        place = _place_of(start + i, num_heads, head)
        for j in range(0, wide, LANES):
            factor = kept(place + np.uint32(j), key0, key1, dropped, kept_scale)
            store(weight_LW, i * wide + j, times(loaded(weight_LW, i * wide + j), factor))


@register_jitable(**INLINED)
def _drop_back(
    change_LW, weight_LW, rows, wide, start, num_heads, head, scaling, key0, key1, dropped, kept_scale
):  # fmt: skip
    """Turn the gradient of what dropout leaves of weights into that of scores, and let it strike weights."""
    for i in range(rows):
        first, place = i * wide, _place_of(start + i, num_heads, head)
        mean = spread(np.float32(0.0))
        for j in range(0, wide, LANES):
            factor = kept(place + np.uint32(j), key0, key1, dropped, kept_scale)
            change = times(loaded(change_LW, first + j), factor)
            mean = plus_product(mean, change, loaded(weight_LW, first + j))
        mean = spread(total(mean))
        for j in range(0, wide, LANES):
            factor = kept(place + np.uint32(j), key0, key1, dropped, kept_scale)
            weight = loaded(weight_LW, first + j)
            change = minus(times(loaded(change_LW, first + j), factor), mean)
            store(change_LW, first + j, times(times(weight, change), spread(scaling)))
            store(weight_LW, first + j, times(weight, factor))


@register_jitable(**INLINED)
def _weigh(one, projected_T3F, start_N, num_heads, most_rows, scaling, memory):
    """Take a head of a sequence, and compute the weights by which its tokens see each other.

    Returns:
        The head, the first token, how many there are, how many of them attend, and that in whole vectors how
        many there are.
    """
    size = projected_T3F.shape[1] // 3
    width = size // num_heads
    query, key, value, keys, weights = memory[0], memory[1], memory[2], memory[3], memory[4]
    # Head by head, as the sequences are sorted by length and a thread shall not get the longest ones.
    head, n = divmod(one, len(start_N) - 1)
    start, length = start_N[n], start_N[n + 1] - start_N[n]
    rows, wide = min(length, most_rows), (length + LANES - 1) // LANES * LANES
    column = head * width
    _take(projected_T3F, start, rows, column, width, 0, query)
    _take(projected_T3F, start, length, size + column, width, wide, key)
    _take(projected_T3F, start, length, 2 * size + column, width, wide, value)
    _turn(key, width, wide, keys)
    _multiply(query, width, 1, rows, width, keys, wide, weights, 0, wide)
    _soften(weights, rows, length, wide, scaling)
    return head, start, length, rows, wide


@njit(**OPTIONS, _nrt=False)
def _attend(
    number, of, memory, projected_T3F, start_N, num_heads, most_rows, scaling, key0, key1, dropped,
    kept_scale, out_TF,
):  # fmt: skip
    size = out_TF.shape[1]
    width = size // num_heads
    value, weights = memory[number, 2], memory[number, 4]
    begin, end = share(num_heads * (len(start_N) - 1), number, of)
    for one in range(begin, end):
        head, start, length, rows, wide = _weigh(
            one, projected_T3F, start_N, num_heads, most_rows, scaling, memory[number]
        )
        if dropped:
            _drop(weights, rows, wide, start, num_heads, head, key0, key1, dropped, kept_scale)
        place = start * size + head * width
        _multiply(weights, wide, 1, rows, length, value, width, out_TF, place, size)


@njit(**OPTIONS, _nrt=False)
def _attend_backward(
    number, of, memory, gradient_TF, projected_T3F, start_N, num_heads, most_rows, scaling, key0, key1,
    dropped, kept_scale, change_T3F,
):  # fmt: skip
    size = gradient_TF.shape[1]
    width = size // num_heads
    query, key, value, weights = memory[number, 0], memory[number, 1], memory[number, 2], memory[number, 4]
    out, values, changes = memory[number, 5], memory[number, 6], memory[number, 7]
    begin, end = share(num_heads * (len(start_N) - 1), number, of)
    for one in range(begin, end):
        head, start, length, rows, wide = _weigh(
            one, projected_T3F, start_N, num_heads, most_rows, scaling, memory[number]
        )
        column = head * width
        _take(gradient_TF, start, rows, column, width, 0, out)
        _turn(value, width, wide, values)
        _multiply(out, width, 1, rows, width, values, wide, changes, 0, wide)
        _drop_back(
            changes, weights, rows, wide, start, num_heads, head, scaling, key0, key1, dropped, kept_scale
        )
        place = start * 3 * size + column
        _multiply(changes, wide, 1, rows, length, key, width, change_T3F, place, 3 * size)
        for j in range(rows, length):
            for d in range(0, width, LANES):
                store(change_T3F, place + j * 3 * size + d, spread(np.float32(0.0)))
        _multiply(changes, 1, wide, length, rows, query, width, change_T3F, place + size, 3 * size)
        _multiply(weights, 1, wide, length, rows, out, width, change_T3F, place + 2 * size, 3 * size)


@njit(**OPTIONS)
def attend(team, *arguments):
    """Write what each token attends to within its sequence.

    Args:
        team: of threads.
        arguments: queries, keys and values side by side, (T, 3 F), D a multiple of 16; first token of each
            sequence and the end of the last; H; tokens of a sequence that attend, the first ones: gradients
            of the others are 0; what scores are multiplied by; the site of dropout; what is written, (T, F),
            but for tokens that are in no sequence or do not attend.

    Source:
        Vaswani et al. 2017, section 3.2.1; dropout: Srivastava et al. 2014, scaled while training.
    """
    memory = np.empty((team[3], PLACES, PLACE), np.float32)
    on_team(_attend, team, (memory, *arguments))


@njit(**OPTIONS)
def attend_backward(team, *arguments):
    """Write the gradient of queries, keys and values, (T, 3 F).

    Args:
        team: of threads.
        arguments: gradient of what ``attend`` wrote, and then as for it.
    """
    memory = np.empty((team[3], PLACES, PLACE), np.float32)
    on_team(_attend_backward, team, (memory, *arguments))
