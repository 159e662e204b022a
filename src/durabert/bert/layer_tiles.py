"""An encoder layer on the tiles of AMX, each way as one call.

A step of a small batch takes as long as Python needs for a few thousand lines: where each product and each
norm of a layer was a call, a quarter of a step went by between them. Here they follow each other in compiled
code.

Values are bfloat16 as the int16 with the same bits; sums are in float32.

Shape letters: T tokens, F values of a token, R tokens that go on after attention, I values between the two
products of feed-forward, N sequences, S sites of dropout.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from durabert.bert.attention_kernels import attend, attend_backward
from durabert.bert.attention_tiles import attend_on_team
from durabert.bert.kernels import (
    CHUNKS,
    OPTIONS,
    dropout_add_norm,
    dropout_add_norm_backward,
    halves,
    halves_at,
    words_at,
)
from durabert.bert.products import multiply, multiply_tokens
from durabert.bert.tiles import DEPTH
from durabert.bert.vectors import LANES, loaded, store

SITES: Final = 3
"""Of dropout: in attention, after it, and after feed-forward."""
BYTES: Final = 2
"""Of a value."""


class Sizes(NamedTuple):
    """Of a layer and a batch."""

    tokens: int
    """T."""
    there: int
    """Tokens that are in a sequence, the first ones."""
    rows: int
    """R."""
    width: int
    """F."""
    inner: int
    """I."""
    heads: int
    longest: int
    """Tokens of a sequence at most."""


class Numbers(NamedTuple):
    """Of a layer and a step."""

    scaling: np.float32
    """Of the scores of attention."""
    epsilon: np.float32
    """Of the norms."""
    site_S3: NDArray[np.uint32]  # noqa: N815
    """Key and what is dropped, as ``Site`` has them."""
    scale_S: NDArray[np.float32]  # noqa: N815


class Places(NamedTuple):
    """Where in memory the tensors of a pass lie."""

    weights: NDArray[np.int64]
    """Weight and bias of the joined projections, of the product after attention, of the norm after that, of
    the two products of feed-forward, and of the last norm."""
    hidden: int
    """What goes in, (T, F)."""
    saved: int
    """So many values as ``num_saved`` tells, of which the way back needs all."""


def num_saved(sizes: Sizes) -> int:
    """Return how many values there are between the two passes."""
    tokens, rows, width, inner = sizes.tokens, sizes.rows, sizes.width, sizes.inner
    return 3 * tokens * width + rows * (4 * width + 2 * inner) + 2 * 2 * rows * BYTES


@register_jitable
def _saved(address, sizes):
    """Return what the first pass writes for the second.

    Returns:
        The projections, (T, 3 F); what is attended to, the sum after that and its norm, (R, F); slope and
        value of GELU, (R, I); the last sum, (R, F); the moments of the two sums, (2, R) each.
    """
    tokens, rows, width, inner = sizes.tokens, sizes.rows, sizes.width, sizes.inner
    projected = halves_at(address, tokens, 3 * width)
    address += BYTES * tokens * 3 * width
    narrow = BYTES * rows * width
    attended, total1 = halves_at(address, rows, width), halves_at(address + narrow, rows, width)
    between, total2 = halves_at(address + 2 * narrow, rows, width), halves_at(address + 3 * narrow, rows, width)
    address += 4 * narrow
    wide = BYTES * rows * inner
    slope, after = halves_at(address, rows, inner), halves_at(address + wide, rows, inner)
    address += 2 * wide
    moments1, moments2 = words_at(address, 2, rows), words_at(address + 2 * 4 * rows, 2, rows)
    return projected, attended, total1, between, slope, after, total2, moments1, moments2


@register_jitable
def _vector(address, size):
    return halves_at(address, 1, size)[0]


@register_jitable
def _weight(address, rows, width):
    """Return a matrix as it is, and as float32."""
    return halves_at(address, rows, width), words_at(address, rows, width // 2)


@register_jitable
def _clear(values_XF, first):
    for row in range(first, values_XF.shape[0]):
        for f in range(values_XF.shape[1]):
            values_XF[row, f] = 0


@register_jitable
def _pick(values_TF, first_N, picked_RF):
    """Copy the first token of each sequence; 0 fills up."""
    for n in range(len(first_N)):
        for f in range(values_TF.shape[1]):
            picked_RF[n, f] = values_TF[first_N[n], f]
    _clear(picked_RF, len(first_N))


@register_jitable
def _put(picked_RF, first_N, values_TF):
    """Undo ``_pick``, with 0 for other tokens."""
    _clear(values_TF, 0)
    for n in range(len(first_N)):
        for f in range(values_TF.shape[1]):
            values_TF[first_N[n], f] = picked_RF[n, f]


@njit(**OPTIONS)
def forward(team, shapes, sizes, numbers, places, start_N, first_N, is_kept, out):
    """Write what a layer makes of the tokens.

    Args:
        team: of threads.
        shapes: ``SHAPES``.
        sizes: ``Sizes``.
        numbers: ``Numbers``.
        places: ``Places``.
        start_N: first token of each sequence, and the end of the last.
        first_N: first tokens in the order in which they go on; none if all go on.
        is_kept: whether the way back follows.
        out: address of (R, F).

    Source:
        Vaswani et al. 2017, section 3.1, with the norm after each sum; Devlin et al. 2019, appendix A.2.
    """
    tokens, rows, width, inner = sizes.tokens, sizes.rows, sizes.width, sizes.inner
    projected, attended, total1, between, slope, after, total2, moments1, moments2 = _saved(places.saved, sizes)
    of, site, scale, epsilon = places.weights, numbers.site_S3, numbers.scale_S, numbers.epsilon
    trunk, picks = halves_at(places.hidden, tokens, width), len(first_N) > 0

    weight, weight_words = _weight(of[0], 3 * width, width)
    bias = _vector(of[1], 3 * width)
    multiply(team, shapes, trunk, weight, weight_words, projected, bias, None, None, None)
    all_attended = halves(tokens, width) if picks else attended
    _clear(all_attended, sizes.there)
    queries = 1 if picks else sizes.longest
    if is_kept or site[0, 2] > 0 or width // sizes.heads % DEPTH > 0:
        attend(
            team, projected, start_N, sizes.heads, queries, numbers.scaling, site[0, 0], site[0, 1], site[0, 2],
            scale[0], all_attended,
        )  # fmt: skip
    else:
        attend_on_team(
            team, shapes, projected, start_N, sizes.heads, queries, numbers.scaling, all_attended, sizes.longest
        )
    if picks:
        _pick(all_attended, first_N, attended)
        all_trunk, trunk = trunk, halves(rows, width)
        _pick(all_trunk, first_N, trunk)

    branch = halves(rows, width)
    weight, weight_words = _weight(of[2], width, width)
    multiply(team, shapes, attended, weight, weight_words, branch, _vector(of[3], width), None, None, None)
    dropout_add_norm(
        team, branch, trunk, _vector(of[4], width), _vector(of[5], width), epsilon, site[1, 0], site[1, 1],
        site[1, 2], scale[1], total1, between, moments1[0], moments1[1],
    )  # fmt: skip

    weight, weight_words = _weight(of[6], inner, width)
    multiply(team, shapes, between, weight, weight_words, after, _vector(of[7], inner), slope, None, None)
    weight, weight_words = _weight(of[8], width, inner)
    multiply(team, shapes, after, weight, weight_words, branch, _vector(of[9], width), None, None, None)
    dropout_add_norm(
        team, branch, between, _vector(of[10], width), _vector(of[11], width), epsilon, site[2, 0], site[2, 1],
        site[2, 2], scale[2], total2, halves_at(out, rows, width), moments2[0], moments2[1],
    )  # fmt: skip


def gradient_sizes(sizes: Sizes) -> list[int]:
    """Return how many values the gradients have: of all matrices, then of all vectors.

    Those of queries, keys and values are one by one.
    """
    width, inner = sizes.width, sizes.inner
    return [*[width * width] * 4, *[inner * width] * 2, *[width] * 6, inner, *[width] * 3]


@register_jitable
def _round(values, address):
    """Write a vector of float32 as bfloat16; return where the next one begins."""
    rounded = _vector(address, len(values))
    for i in range(0, len(values), LANES):
        store(rounded, i, loaded(values, i))
    return address + BYTES * len(values)


@njit(**OPTIONS)
def backward(team, shapes, sizes, numbers, places, start_N, first_N, gradient, out, of_weights):
    """Write the gradients of what went into a layer, and of its weights.

    Args:
        team: of threads.
        shapes: ``SHAPES``.
        sizes: ``Sizes``.
        numbers: ``Numbers``.
        places: ``Places``.
        start_N: as for ``forward``.
        first_N: as for ``forward``.
        gradient: address of that of what came out, (R, F).
        out: address of that of what went in, (T, F).
        of_weights: address of those of the weights, as ``gradient_sizes`` tells them.
    """
    tokens, rows, width, inner = sizes.tokens, sizes.rows, sizes.width, sizes.inner
    projected, attended, total1, between, slope, after, total2, moments1, moments2 = _saved(places.saved, sizes)
    of, site, scale = places.weights, numbers.site_S3, numbers.scale_S
    hidden = halves_at(places.hidden, tokens, width)
    trunk, branch = halves(rows, width), halves(rows, width)
    square, oblong = BYTES * width * width, BYTES * width * inner
    d_ow, d_iw, d_pw = of_weights + 3 * square, of_weights + 4 * square, of_weights + 4 * square + oblong
    vectors = of_weights + 4 * square + 2 * oblong

    sums2 = np.zeros((CHUNKS, 3, width), np.float32)
    dropout_add_norm_backward(
        team, halves_at(gradient, rows, width), total2, moments2[0], moments2[1], _vector(of[10], width),
        site[2, 0], site[2, 1], site[2, 2], scale[2], trunk, branch, sums2,
    )  # fmt: skip
    # Of the bias of a product that a norm follows the norm has taken the sum.
    unused = np.empty(width, np.float32)
    multiply_tokens(team, shapes, branch, after, halves_at(d_pw, width, inner), unused)
    d_inner, inner_sums = halves(rows, inner), np.empty(inner, np.float32)
    multiply(team, shapes, branch, halves_at(of[8], width, inner), None, d_inner, None, None, None, slope)
    multiply_tokens(team, shapes, d_inner, between, halves_at(d_iw, inner, width), inner_sums)
    d_between = halves(rows, width)
    multiply(team, shapes, d_inner, halves_at(of[6], inner, width), None, d_between, None, None, trunk, None)

    sums1 = np.zeros((CHUNKS, 3, width), np.float32)
    dropout_add_norm_backward(
        team, d_between, total1, moments1[0], moments1[1], _vector(of[4], width), site[1, 0], site[1, 1],
        site[1, 2], scale[1], trunk, branch, sums1,
    )  # fmt: skip
    multiply_tokens(team, shapes, branch, attended, halves_at(d_ow, width, width), unused)
    d_attended = halves(rows, width)
    multiply(team, shapes, branch, halves_at(of[2], width, width), None, d_attended, None, None, None, None)
    queries = sizes.longest
    if len(first_N) > 0:
        queries = 1
        picked, d_attended = d_attended, halves(tokens, width)
        _put(picked, first_N, d_attended)
        picked, trunk = trunk, halves(tokens, width)
        _put(picked, first_N, trunk)

    d_projected, sums = halves(tokens, 3 * width), np.empty(3 * width, np.float32)
    _clear(d_projected, sizes.there)
    attend_backward(
        team, d_attended, projected, start_N, sizes.heads, queries, numbers.scaling, site[0, 0], site[0, 1],
        site[0, 2], scale[0], d_projected,
    )  # fmt: skip
    multiply_tokens(team, shapes, d_projected, hidden, halves_at(of_weights, 3 * width, width), sums)
    weight = halves_at(of[0], 3 * width, width)
    multiply(team, shapes, d_projected, weight, None, halves_at(out, tokens, width), None, None, trunk, None)

    vectors = _round(sums, vectors)
    for row in (2, 0, 1):
        vectors = _round(sums1[0, row], vectors)
    vectors = _round(inner_sums, vectors)
    for row in (2, 0, 1):
        vectors = _round(sums2[0, row], vectors)
