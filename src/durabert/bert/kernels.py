"""What lies between the products of an encoder layer, several operations in one pass over the memory.

Values are float32, or bfloat16 as the int16 with the same bits, since numpy and numba do not know it; sums
are in float32. Dropout draws nothing: whether a value is kept is a function of a key and of its place,
computed again on the way back. Each kernel is given the team of threads that share its rows, whose number
changes no bit.

Shape letters: T tokens, F values of a token, N sequences, L places of a sequence, R sequences and heads, C
chunks of the tokens.
"""

# ruff: noqa: ANN001, ANN002, ANN201, ANN202, ARG001, ARG005 - numba compiles by the types that it is called with

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from numba import carray, njit, types
from numba.core.cgutils import voidptr_t
from numba.extending import intrinsic, overload, register_jitable
from numpy.typing import NDArray

from durabert.bert.threads import on_team, share

_FAST: Final = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be taken in another order, the same in each run; not numbers stay what they are."""
OPTIONS: Final[dict[str, Any]] = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}
"""How numba compiles kernels."""

LEVELS: Final = 1 << 16
"""A draw has 16 bits: probabilities are multiples of 1/65,536."""
LONGEST: Final = 1 << 9
"""Places of a sequence at most, for the place of a weight of attention as a number of 32 bits."""


LANES: Final = 16
"""Values of float32 in a vector."""
CHUNKS: Final = 8
"""Parts of the tokens of which sums are taken one by one, however many threads there are."""
APART: Final = 1024
"""Values of float32, a page, between a kernel's own memory and what lies before and after it."""


def array_of(tensor: torch.Tensor) -> NDArray[Any]:
    """Return a tensor on the CPU as the array that kernels take, in the same memory."""
    if tensor.requires_grad:
        tensor = tensor.detach()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


@intrinsic
def _pointer(_, address):
    def generate(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], voidptr_t)

    return types.voidptr(address), generate


@register_jitable(inline="always")
def values_at(address, size, like):
    """Return the values that begin at an address, of the type of those of ``like``; inside of kernels."""
    return carray(_pointer(address), (size,), like.dtype)


def widened(value):
    """Return a value as float32; inside of kernels."""
    raise NotImplementedError


def narrowed(value, like):
    """Return a float32 as the kind of value that ``like`` is; inside of kernels."""
    raise NotImplementedError


@overload(widened, inline="always")
def _(value):
    if value == types.int16:
        return lambda value: np.int32(np.int32(value) << np.int32(16)).view(np.float32)
    return lambda value: value


@overload(narrowed, inline="always")
def _(value, like):
    if like != types.int16:
        return lambda value, like: value

    def round_to_even(value, like):
        bits = np.float32(value).view(np.uint32)
        odd = np.uint32((bits >> np.uint32(16)) & np.uint32(1))
        return np.int16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))

    return round_to_even


@register_jitable(inline="always")
def _own_row(width):
    """Return memory for one row, in which nothing else lies, nor close to it.

    LLVM asks at run time whether what a loop writes begins within a few vectors after what it reads. If so it
    goes value by value, and sums are taken in another order: the bits would depend on where in memory a row
    happens to lie.
    """
    return np.empty(APART + width + APART, np.float32)[APART : APART + width]


@register_jitable(inline="always")
def _is_kept(place, key0, key1, dropped):
    """Return whether dropout keeps a value: 16 bits of a hash of its place against a threshold.

    Source:
        The idea of random numbers by counter: Salmon et al. 2011. The mixing function is ``triple32`` of
        C. Wellons, https://nullprogram.com/blog/2018/07/31/, with a key before and within it.
    """
    x = np.uint32(place ^ key0)
    x = np.uint32(x ^ (x >> np.uint32(17)))
    x = np.uint32(x * np.uint32(0xED5AD4BB))
    x = np.uint32(x ^ (x >> np.uint32(11)))
    x = np.uint32(x + key1)
    x = np.uint32(x * np.uint32(0xAC4C1B51))
    x = np.uint32(x ^ (x >> np.uint32(15)))
    x = np.uint32(x * np.uint32(0x31848BAB))
    return np.uint32(x >> np.uint32(16)) >= dropped


@register_jitable(inline="always")
def _exp(x):
    """Return e to the ``x``, for x of at most 0; within 2 units of the last place of float32.

    Source:
        Reduction by powers of two and a Taylor polynomial: Muller, Elementary Functions, chapter 11.
    """
    x = max(x, np.float32(-87.0))
    n = np.int32(x * np.float32(1.44269504) - np.float32(0.5))
    whole = np.float32(n)
    r = (x - whole * np.float32(0.693359375)) + whole * np.float32(2.12194440e-4)
    p = np.float32(1.0 / 720)
    p = p * r + np.float32(1.0 / 120)
    p = p * r + np.float32(1.0 / 24)
    p = p * r + np.float32(1.0 / 6)
    p = p * r + np.float32(0.5)
    p = p * r + np.float32(1.0)
    p = p * r + np.float32(1.0)
    return p * np.int32((n + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**OPTIONS)
def _dropout_add_norm(
    number, of, branch_TF, trunk_TF, scale_F, shift_F, epsilon, key0, key1, dropped, kept_scale,
    sum_TF, out_TF, mean_T, spread_T,
):  # fmt: skip
    width = branch_TF.shape[1]
    row = _own_row(width)
    begin, end = share(branch_TF.shape[0], number, of)
    for t in range(begin, end):
        total = np.float32(0.0)
        for f in range(width):
            x = widened(branch_TF[t, f]) * kept_scale
            kept = _is_kept(np.uint32(t * width + f), key0, key1, dropped)
            x = (x if kept else np.float32(0.0)) + widened(trunk_TF[t, f])
            row[f] = x
            total += x
        mean = total / np.float32(width)
        squares = np.float32(0.0)
        for f in range(width):
            squares += (row[f] - mean) * (row[f] - mean)
        spread = np.float32(1.0) / np.float32(math.sqrt(squares / np.float32(width) + epsilon))
        for f in range(width):
            sum_TF[t, f] = narrowed(row[f], sum_TF[t, f])
            x = (row[f] - mean) * spread * widened(scale_F[f]) + widened(shift_F[f])
            out_TF[t, f] = narrowed(x, out_TF[t, f])
        mean_T[t] = mean
        spread_T[t] = spread


@njit(**OPTIONS)
def _dropout_add_norm_backward(
    number, of, gradient_TF, sum_TF, mean_T, spread_T, scale_F, key0, key1, dropped, kept_scale,
    trunk_TF, branch_TF, sums_C3F,
):  # fmt: skip
    first, last = share(len(sums_C3F), number, of)
    for chunk in range(first, last):
        begin, end = share(gradient_TF.shape[0], chunk, len(sums_C3F))
        _rows_backward(
            begin, end, gradient_TF, sum_TF, mean_T, spread_T, scale_F, key0, key1, dropped, kept_scale,
            trunk_TF, branch_TF, sums_C3F[chunk],
        )  # fmt: skip


@njit(**OPTIONS)
def _rows_backward(
    begin, end, gradient_TF, sum_TF, mean_T, spread_T, scale_F, key0, key1, dropped, kept_scale,
    trunk_TF, branch_TF, sums_3F,
):  # fmt: skip
    width = gradient_TF.shape[1]
    one = np.float32(1.0) / np.float32(width)
    for t in range(begin, end):
        mean, spread = mean_T[t], spread_T[t]
        first = np.float32(0.0)
        second = np.float32(0.0)
        for f in range(width):
            change = widened(gradient_TF[t, f])
            x = (widened(sum_TF[t, f]) - mean) * spread
            sums_3F[0, f] += change * x
            sums_3F[1, f] += change
            scaled = change * widened(scale_F[f])
            first += scaled
            second += scaled * x
        first *= one
        second *= one
        for f in range(width):
            x = (widened(sum_TF[t, f]) - mean) * spread
            change = (widened(gradient_TF[t, f]) * widened(scale_F[f]) - first - x * second) * spread
            trunk_TF[t, f] = narrowed(change, trunk_TF[t, f])
            kept = _is_kept(np.uint32(t * width + f), key0, key1, dropped)
            change = change * kept_scale if kept else np.float32(0.0)
            branch_TF[t, f] = narrowed(change, branch_TF[t, f])
            sums_3F[2, f] += change


@njit(**OPTIONS)
def _weigh(
    number, of, scores_RLL, length_N, num_heads, scaling, key0, key1, dropped, kept_scale, start,
    weights_RLL, kept_RLL,
):  # fmt: skip
    places = scores_RLL.shape[2]
    row = _own_row(places)
    begin, end = share(len(scores_RLL), number, of)
    weights_RLL[begin:end] = 0
    kept_RLL[begin:end] = 0
    for r in range(begin, min(end, len(length_N) * num_heads)):
        length = length_N[r // num_heads]
        # Over whole vectors: a loop to the length goes value by value.
        wide = min(places, (length + LANES - 1) // LANES * LANES)
        for i in range(length):
            largest = np.float32(-np.inf)
            for j in range(length):
                largest = max(largest, widened(scores_RLL[r, i, j]))
            total = np.float32(0.0)
            for j in range(wide):
                x = _exp(min(widened(scores_RLL[r, i, j]) - largest, np.float32(0.0)) * scaling)
                x = x if j < length else np.float32(0.0)
                row[j] = x
                total += x
            inverse = np.float32(1.0) / total
            place = np.uint32((start + r * places + i) * LONGEST)
            for j in range(wide):
                x = row[j] * inverse
                kept = _is_kept(np.uint32(place + np.uint32(j)), key0, key1, dropped)
                weights_RLL[r, i, j] = narrowed(x, weights_RLL[r, i, j])
                x = x * kept_scale if kept else np.float32(0.0)
                kept_RLL[r, i, j] = narrowed(x, kept_RLL[r, i, j])


@njit(**OPTIONS)
def _weigh_backward(
    number, of, change_RLL, length_N, num_heads, weights_RLL, scaling, key0, key1, dropped, kept_scale, start
):  # fmt: skip
    places = change_RLL.shape[2]
    row = _own_row(places)
    begin, end = share(len(change_RLL), number, of)
    for r in range(begin, min(end, len(length_N) * num_heads)):
        length = length_N[r // num_heads]
        wide = min(places, (length + LANES - 1) // LANES * LANES)
        for i in range(length):
            place = np.uint32((start + r * places + i) * LONGEST)
            mean = np.float32(0.0)
            for j in range(wide):
                kept = _is_kept(np.uint32(place + np.uint32(j)), key0, key1, dropped)
                x = widened(change_RLL[r, i, j]) * kept_scale if kept else np.float32(0.0)
                row[j] = x
                mean += x * widened(weights_RLL[r, i, j])
            for j in range(wide):
                x = widened(weights_RLL[r, i, j]) * (row[j] - mean) * scaling
                change_RLL[r, i, j] = narrowed(x, change_RLL[r, i, j])
            for j in range(wide, places):
                change_RLL[r, i, j] = 0
        for i in range(length, places):
            for j in range(places):
                change_RLL[r, i, j] = 0


@njit(**OPTIONS)
def dropout_add_norm(team, *arguments):
    """Write the layer norm of trunk and dropped branch, and their sum and its moments for the way back.

    Source:
        Ba et al. 2016; dropout: Srivastava et al. 2014, scaled while training.
    """
    on_team(_dropout_add_norm, team, arguments)


@njit(**OPTIONS)
def dropout_add_norm_backward(team, *arguments):
    """Write the gradients of trunk and branch, and those of scale, shift and bias.

    The latter are in the first of ``sums_C3F`` then; all of these shall be 0 before.
    """
    on_team(_dropout_add_norm_backward, team, arguments)
    sums_C3F = arguments[-1]
    for chunk in range(1, len(sums_C3F)):
        sums_C3F[0] += sums_C3F[chunk]


@njit(**OPTIONS)
def weigh(team, *arguments):
    """Turn scores into the weights of attention, and write them also as dropout leaves them.

    A sequence of ``length_N`` places sees those alone. ``start`` is the number of the first row of this
    bucket among all rows of the batch: by it each weight has a place of its own.

    Source:
        Vaswani et al. 2017, section 3.2.1.
    """
    on_team(_weigh, team, arguments)


@njit(**OPTIONS)
def weigh_backward(team, *arguments):
    """Turn the gradient of the weights that dropout left into that of the scores, in place."""
    on_team(_weigh_backward, team, arguments)
