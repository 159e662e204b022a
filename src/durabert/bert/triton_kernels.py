"""What lies between the products of an encoder layer on a GPU, and AdamW: several operations in one kernel.

Values are bfloat16, sums float32. Dropout draws nothing: whether a value is kept is a function of a key, of
the number of its site and of its place, computed again on the way back. Grids depend on shapes alone, so the
bits are those of any GPU of a kind.

Shape letters: T tokens, F values of a token, P parts of the tokens, C chunks of the parameters.
"""

# ruff: noqa: ANN001, ANN201, ANN202, D417 - Triton compiles by the types and constants that it is called with

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

PARTS: Final = 128
"""P: of each the sums over its tokens are taken one by one."""
CHUNK: Final = 1024
"""Parameters that one program moves: four for each of its threads, which is how they go fastest."""
WARPS: Final = 8
"""Of such a program."""
ROUNDS: Final = tl.constexpr(7)
"""Of Philox: so many are known to resist the tests of TestU01's BigCrush."""


@triton.jit
def _kept(key, place, site, dropped):
    """Return whether values are kept.

    Source:
        Philox: Salmon et al. 2011.
    """
    zero = place * 0
    bits, _, _, _ = tl.philox(tl.load(key), place, zero + site, zero, zero, n_rounds=ROUNDS)
    return bits.to(tl.uint32, bitcast=True).to(tl.int64) >= dropped


@triton.jit(do_not_specialize=["site"])
def dropout_add_norm(
    branch, trunk, scale, shift, key, site, dropped, grown, epsilon, total, out, mean, spread, size,
    DROPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the sum of trunk and dropped branch, its norm, and mean and inverse deviation, for each token."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    there = column < size
    place = row * size + column
    x = tl.load(branch + place, mask=there, other=0.0).to(tl.float32)
    if DROPS:
        x = tl.where(_kept(key, place, site, dropped), x * grown, 0.0)
    x += tl.load(trunk + place, mask=there, other=0.0).to(tl.float32)
    rounded = x.to(tl.bfloat16)
    tl.store(total + place, rounded, mask=there)
    x = tl.where(there, rounded.to(tl.float32), 0.0)
    average = tl.sum(x, axis=0) / size
    distance = tl.where(there, x - average, 0.0)
    inverse = 1.0 / tl.sqrt_rn(tl.sum(distance * distance, axis=0) / size + epsilon)
    a = tl.load(scale + column, mask=there, other=0.0).to(tl.float32)
    b = tl.load(shift + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + place, (distance * inverse * a + b).to(tl.bfloat16), mask=there)
    tl.store(mean + row, average)
    tl.store(spread + row, inverse)


@triton.jit(do_not_specialize=["site"])
def dropout_add_norm_backward(
    gradient, total, mean, spread, scale, key, site, dropped, grown, trunk, branch, sums, num_rows, size,
    DROPS: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr,
):  # fmt: skip
    """Write the gradients of trunk and branch, and those of scale, shift and bias of each part, (P, 3, F)."""
    part = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    there = column < size
    a = tl.load(scale + column, mask=there, other=0.0).to(tl.float32)
    of_scale = tl.zeros((BLOCK,), tl.float32)
    of_shift = tl.zeros((BLOCK,), tl.float32)
    of_bias = tl.zeros((BLOCK,), tl.float32)
    for row in range(part, num_rows, PARTS):
        place = row * size + column
        g = tl.load(gradient + place, mask=there, other=0.0).to(tl.float32)
        x = tl.load(total + place, mask=there, other=0.0).to(tl.float32)
        inverse = tl.load(spread + row)
        normed = tl.where(there, (x - tl.load(mean + row)) * inverse, 0.0)
        of_scale += g * normed
        of_shift += g
        h = g * a
        change = inverse * (h - tl.sum(h, axis=0) / size - normed * (tl.sum(h * normed, axis=0) / size))
        tl.store(trunk + place, change.to(tl.bfloat16), mask=there)
        if DROPS:
            change = tl.where(_kept(key, place, site, dropped), change * grown, 0.0)
        tl.store(branch + place, change.to(tl.bfloat16), mask=there)
        of_bias += tl.where(there, change, 0.0)
    first = sums + part * 3 * size + column
    tl.store(first, of_scale, mask=there)
    tl.store(first + size, of_shift, mask=there)
    tl.store(first + 2 * size, of_bias, mask=there)


@triton.jit
def sum_parts(values, out, size, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    """Write the sum over all parts of each value."""
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = column < size
    part = tl.arange(0, PARTS)
    found = tl.load(values + part[:, None] * size + column[None, :], mask=there[None, :], other=0.0)
    tl.store(out + column, tl.sum(found, axis=0).to(out.dtype.element_ty), mask=there)


@triton.jit
def _weights(query, key, there, scaling):
    scores = tl.where(there[None, :], tl.dot(query, tl.trans(key)) * scaling, float("-inf"))
    grown = tl.exp(scores - tl.max(scores, axis=1)[:, None])
    return grown / tl.sum(grown, axis=1)[:, None]


@triton.jit(do_not_specialize=["site"])
def attend(
    projected, boundaries, key, site, dropped, grown, scaling, out,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write what the tokens of a sequence of at most ``BLOCK`` attend to in one head.

    Args:
        projected: queries, keys and values, (T, 3 F).
        boundaries: first token of each sequence, and the end of the last.
        key: of dropout.
        site: of dropout.
        dropped: of 2 to the power of 32.
        grown: what weights that are kept are multiplied by.
        scaling: of the scores.
        out: (T, F).

    Source:
        Vaswani et al. 2017, section 3.2.1.
    """
    begin, head, size = tl.load(boundaries + tl.program_id(0)), tl.program_id(1), HEADS * WIDTH
    token = tl.arange(0, BLOCK)
    there = token < tl.load(boundaries + tl.program_id(0) + 1) - begin
    token += begin
    column = head * WIDTH + tl.arange(0, WIDTH)[None, :]
    place = projected + token[:, None] * (3 * size) + column
    q = tl.load(place, mask=there[:, None], other=0.0)
    k = tl.load(place + size, mask=there[:, None], other=0.0)
    v = tl.load(place + 2 * size, mask=there[:, None], other=0.0)
    weights = _weights(q, k, there, scaling)
    if DROPS:
        pair = (token * HEADS + head)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        weights = tl.where(_kept(key, pair, site, dropped), weights * grown, 0.0)
    attended = tl.dot(weights.to(tl.bfloat16), v)
    tl.store(out + token[:, None] * size + column, attended.to(tl.bfloat16), mask=there[:, None])


@triton.jit(do_not_specialize=["site"])
def attend_backward(
    projected, gradient, boundaries, key, site, dropped, grown, scaling, out,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, DROPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write the gradient of ``projected`` for a sequence and a head; arguments are as those of ``attend``."""
    begin, head, size = tl.load(boundaries + tl.program_id(0)), tl.program_id(1), HEADS * WIDTH
    token = tl.arange(0, BLOCK)
    there = token < tl.load(boundaries + tl.program_id(0) + 1) - begin
    token += begin
    column = head * WIDTH + tl.arange(0, WIDTH)[None, :]
    place = token[:, None] * (3 * size) + column
    q = tl.load(projected + place, mask=there[:, None], other=0.0)
    k = tl.load(projected + place + size, mask=there[:, None], other=0.0)
    v = tl.load(projected + place + 2 * size, mask=there[:, None], other=0.0)
    g = tl.load(gradient + token[:, None] * size + column, mask=there[:, None], other=0.0)
    weights = _weights(q, k, there, scaling)
    change = tl.dot(g, tl.trans(v))
    kept = weights
    if DROPS:
        pair = (token * HEADS + head)[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
        keeps = _kept(key, pair, site, dropped)
        kept = tl.where(keeps, weights * grown, 0.0)
        change = tl.where(keeps, change * grown, 0.0)
    of_value = tl.dot(tl.trans(kept.to(tl.bfloat16)), g)
    change = (weights * (change - tl.sum(change * weights, axis=1)[:, None]) * scaling).to(tl.bfloat16)
    tl.store(out + place, tl.dot(change, k).to(tl.bfloat16), mask=there[:, None])
    tl.store(out + place + size, tl.dot(tl.trans(change), q).to(tl.bfloat16), mask=there[:, None])
    tl.store(out + place + 2 * size, of_value.to(tl.bfloat16), mask=there[:, None])


@triton.jit
def squares(table, sums, LIKE: tl.constexpr, CHUNK: tl.constexpr):
    """Write the sum of the squares of the gradients of each chunk."""
    chunk = tl.program_id(0)
    size = tl.load(table + chunk * 6 + 5)
    place = tl.arange(0, CHUNK)
    gradient = tl.multiple_of(tl.load(table + chunk * 6 + 1).to(tl.pointer_type(LIKE)), 16)
    g = tl.load(gradient + place, mask=place < size, other=0.0).to(tl.float32)
    tl.store(sums + chunk, tl.sum(g * g, axis=0))


@triton.jit
def adamw(
    table, scale, decay, rate, spread, BETA1: tl.constexpr, BETA2: tl.constexpr, EPSILON: tl.constexpr,
    LIKE: tl.constexpr, HALVES: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Move the weights of each chunk, and write them in half precision, too.

    Args:
        table: addresses of weights, gradients, both moments and halves, and the number of values, (C, 6).
        scale: of the gradients.
        decay: what weights are multiplied by.
        rate: with the correction of the first moment.
        spread: correction of the root of the second moment.

    Source:
        Loshchilov and Hutter 2019, algorithm 2.
    """
    chunk = tl.program_id(0)
    entry = table + chunk * 6
    size = tl.load(entry + 5)
    place = tl.arange(0, CHUNK)
    there = place < size
    weight = tl.multiple_of(tl.load(entry).to(tl.pointer_type(tl.float32)), 16) + place
    gradient = tl.multiple_of(tl.load(entry + 1).to(tl.pointer_type(LIKE)), 16) + place
    first = tl.multiple_of(tl.load(entry + 2).to(tl.pointer_type(tl.float32)), 16) + place
    second = tl.multiple_of(tl.load(entry + 3).to(tl.pointer_type(tl.float32)), 16) + place
    g = tl.load(gradient, mask=there, other=0.0).to(tl.float32) * scale
    m = tl.load(first, mask=there, other=0.0)
    v = tl.load(second, mask=there, other=0.0)
    w = tl.load(weight, mask=there, other=0.0)
    m = BETA1 * m + (1.0 - BETA1) * g
    v = BETA2 * v + (1.0 - BETA2) * g * g
    w = w * decay - rate * m / (tl.sqrt_rn(v) * spread + EPSILON)
    tl.store(first, m, mask=there)
    tl.store(second, v, mask=there)
    tl.store(weight, w, mask=there)
    if HALVES:
        half = tl.multiple_of(tl.load(entry + 4).to(tl.pointer_type(tl.bfloat16)), 16) + place
        tl.store(half, w.to(tl.bfloat16), mask=there)
