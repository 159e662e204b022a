"""An encoder layer on the tiles of AMX, each way as one call.

A step of a small batch takes as long as Python needs for a few thousand lines: where each product and each
norm of a layer was a call, a fifth of a step went by between them. Here they follow each other in compiled
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
    words,
    words_at,
)
from durabert.bert.products import multiply, multiply_tokens
from durabert.bert.tiles import DEPTH
from durabert.bert.vectors import LANES, loaded, store

SITES: Final = 3
"""Of dropout: in attention, after it, and after feed-forward."""
BYTES: Final = 2
"""Of a value."""
WORD: Final = 4
"""Bytes of a sum."""


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
    saved: NDArray[np.int64]
    """Of so many values as ``saved_sizes`` tells, all for the way back; of no use if none follows."""


def saved_sizes(sizes: Sizes) -> list[int]:
    """Return how many values there are between the two passes, of each of the parts that they lie in."""
    rows, inner = sizes.rows, sizes.rows * sizes.inner
    moments = 2 * 2 * rows * WORD // BYTES
    return [3 * sizes.tokens * sizes.width, 4 * rows * sizes.width + moments, inner, inner]


class _Saved(NamedTuple):
    """What the first pass writes for the second."""

    projected: NDArray[np.int16]
    """Queries, keys and values, (T, 3 F)."""
    attended: NDArray[np.int16]
    """(R, F), as are sums before a norm, and norms."""
    total1: NDArray[np.int16]
    between: NDArray[np.int16]
    """Norm after attention."""
    slope: NDArray[np.int16]
    """Of GELU, (R, I)."""
    after: NDArray[np.int16]
    """GELU."""
    total2: NDArray[np.int16]
    moments1: NDArray[np.float32]
    """Mean and inverse deviation of the first sum, (2, R)."""
    moments2: NDArray[np.float32]


@register_jitable
def _saved(at, sizes):
    """Return what lies at addresses."""
    rows, width, inner = sizes.rows, sizes.width, sizes.inner
    one = BYTES * rows * width
    moments = at[1] + 4 * one
    return _Saved(
        halves_at(at[0], sizes.tokens, 3 * width),
        halves_at(at[1], rows, width),
        halves_at(at[1] + one, rows, width),
        halves_at(at[1] + 2 * one, rows, width),
        halves_at(at[2], rows, inner),
        halves_at(at[3], rows, inner),
        halves_at(at[1] + 3 * one, rows, width),
        words_at(moments, 2, rows),
        words_at(moments + 2 * rows * WORD, 2, rows),
    )


@register_jitable
def _unsaved(sizes):
    """Return memory for the same where no second pass follows, which is as little as can be."""
    rows, width = sizes.rows, sizes.width
    attended, between, total = halves(rows, width), halves(rows, width), halves(rows, width)
    after, moments = halves(rows, sizes.inner), words(2, rows)
    projected = halves(sizes.tokens, 3 * width)
    return _Saved(projected, attended, total, between, after, after, total, moments, moments)


@register_jitable
def _site(numbers, number):
    """Return key, what is dropped and scale of a site of dropout."""
    site_3 = numbers.site_S3[number]
    return site_3[0], site_3[1], site_3[2], numbers.scale_S[number]


class _Weights(NamedTuple):
    """Of a layer."""

    projecting: NDArray[np.int16]
    """Of queries, keys and values, (3 F, F), and their biases, (3 F,)."""
    biases: NDArray[np.int16]
    after_attention: NDArray[np.int16]
    """(F, F), and its bias."""
    bias_after: NDArray[np.int16]
    scale1: NDArray[np.int16]
    shift1: NDArray[np.int16]
    widening: NDArray[np.int16]
    """(I, F), and its bias."""
    bias_inner: NDArray[np.int16]
    narrowing: NDArray[np.int16]
    """(F, I), and its bias."""
    bias_outer: NDArray[np.int16]
    scale2: NDArray[np.int16]
    shift2: NDArray[np.int16]


@register_jitable
def _weights(of, sizes):
    """Return what lies at addresses."""
    width, inner = sizes.width, sizes.inner
    return _Weights(
        halves_at(of[0], 3 * width, width),
        _vector(of[1], 3 * width),
        halves_at(of[2], width, width),
        _vector(of[3], width),
        _vector(of[4], width),
        _vector(of[5], width),
        halves_at(of[6], inner, width),
        _vector(of[7], inner),
        halves_at(of[8], width, inner),
        _vector(of[9], width),
        _vector(of[10], width),
        _vector(of[11], width),
    )


@register_jitable
def _vector(address, size):
    return halves_at(address, 1, size)[0]


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


@register_jitable
def _linear(team, shapes, x, weight, bias, out, slope):
    multiply(team, shapes, x, weight, weight.view(np.float32), out, bias, slope, None, None)


@register_jitable
def _back(team, shapes, gradient, weight, added, factor, out):
    multiply(team, shapes, gradient, weight, None, out, None, None, added, factor)


@register_jitable
def _add_norm(team, numbers, number, branch, trunk, scale, shift, total, out, moments):
    dropout_add_norm(
        team,
        branch,
        trunk,
        scale,
        shift,
        numbers.epsilon,
        *_site(numbers, number),
        total,
        out,
        *_rows(moments),
    )


@register_jitable
def _add_norm_back(team, numbers, number, gradient, total, moments, scale, trunk, branch):
    """Return the gradients of scale, shift and the branch's bias, (3, F)."""
    sums = np.zeros((CHUNKS, 3, len(scale)), np.float32)
    dropout_add_norm_backward(
        team, gradient, total, *_rows(moments), scale, *_site(numbers, number), trunk, branch, sums
    )
    return sums[0]


@register_jitable
def _rows(moments):
    return moments[0], moments[1]


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
    of = _weights(places.weights, sizes)
    saved = _saved(places.saved, sizes) if is_kept else _unsaved(sizes)
    trunk, picks = halves_at(places.hidden, sizes.tokens, sizes.width), len(first_N) > 0

    _linear(team, shapes, trunk, of.projecting, of.biases, saved.projected, None)
    attended = halves(sizes.tokens, sizes.width) if picks else saved.attended
    # What fills up is in no sequence, but in the products.
    _clear(attended, sizes.there)
    how = start_N, sizes.heads, 1 if picks else sizes.longest, numbers.scaling
    if is_kept or numbers.site_S3[0, 2] > 0 or sizes.width // sizes.heads % DEPTH > 0:
        attend(team, saved.projected, *how, *_site(numbers, 0), attended)
    else:
        attend_on_team(team, shapes, saved.projected, *how, attended, sizes.longest)
    if picks:
        _pick(attended, first_N, saved.attended)
        all_trunk, trunk = trunk, halves(sizes.rows, sizes.width)
        _pick(all_trunk, first_N, trunk)

    branch = halves(sizes.rows, sizes.width)
    _linear(team, shapes, saved.attended, of.after_attention, of.bias_after, branch, None)
    _add_norm(
        team, numbers, 1, branch, trunk, of.scale1, of.shift1, saved.total1, saved.between, saved.moments1
    )
    _linear(team, shapes, saved.between, of.widening, of.bias_inner, saved.after, saved.slope)
    _linear(team, shapes, saved.after, of.narrowing, of.bias_outer, branch, None)
    result = halves_at(out, sizes.rows, sizes.width)
    _add_norm(
        team, numbers, 2, branch, saved.between, of.scale2, of.shift2, saved.total2, result, saved.moments2
    )


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
    of, saved = _weights(places.weights, sizes), _saved(places.saved, sizes)
    tokens, rows, width, inner = sizes.tokens, sizes.rows, sizes.width, sizes.inner
    hidden = halves_at(places.hidden, tokens, width)
    trunk, branch, inner_sums = halves(rows, width), halves(rows, width), np.empty(inner, np.float32)
    # A norm takes the sum of the bias of the product before it.
    unused = np.empty(width, np.float32)
    square, oblong = BYTES * width * width, BYTES * width * inner
    d_after, d_widening = of_weights + 3 * square, of_weights + 4 * square
    d_narrowing, vectors = d_widening + oblong, d_widening + 2 * oblong

    sums2 = _add_norm_back(
        team,
        numbers,
        2,
        halves_at(gradient, rows, width),
        saved.total2,
        saved.moments2,
        of.scale2,
        trunk,
        branch,
    )
    multiply_tokens(team, shapes, branch, saved.after, halves_at(d_narrowing, width, inner), unused)
    d_inner, d_between = halves(rows, inner), halves(rows, width)
    _back(team, shapes, branch, of.narrowing, None, saved.slope, d_inner)
    multiply_tokens(team, shapes, d_inner, saved.between, halves_at(d_widening, inner, width), inner_sums)
    _back(team, shapes, d_inner, of.widening, trunk, None, d_between)

    sums1 = _add_norm_back(
        team, numbers, 1, d_between, saved.total1, saved.moments1, of.scale1, trunk, branch
    )
    multiply_tokens(team, shapes, branch, saved.attended, halves_at(d_after, width, width), unused)
    d_attended = halves(rows, width)
    _back(team, shapes, branch, of.after_attention, None, None, d_attended)
    picks = len(first_N) > 0
    if picks:
        picked, d_attended = d_attended, halves(tokens, width)
        _put(picked, first_N, d_attended)
        picked, trunk = trunk, halves(tokens, width)
        _put(picked, first_N, trunk)

    d_projected, sums = halves(tokens, 3 * width), np.empty(3 * width, np.float32)
    _clear(d_projected, sizes.there)
    how = start_N, sizes.heads, 1 if picks else sizes.longest, numbers.scaling
    attend_backward(team, d_attended, saved.projected, *how, *_site(numbers, 0), d_projected)
    multiply_tokens(team, shapes, d_projected, hidden, halves_at(of_weights, 3 * width, width), sums)
    _back(team, shapes, d_projected, of.projecting, trunk, None, halves_at(out, tokens, width))

    vectors = _round(sums, vectors)
    for row in (2, 0, 1):
        vectors = _round(sums1[row], vectors)
    vectors = _round(inner_sums, vectors)
    for row in (2, 0, 1):
        vectors = _round(sums2[row], vectors)
