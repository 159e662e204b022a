"""What lies between the products of an encoder layer, several operations in one pass over the memory.

Values are float32, or bfloat16 as the int16 with the same bits, since numpy and numba do not know it; sums
are in float32. Dropout draws nothing: whether a value is kept is a function of a key and of its place,
computed again on the way back. Each kernel is given the team of threads that share its rows, whose number
changes no bit.

Shape letters: T tokens, F values of a token, a multiple of 16, C chunks of the tokens.
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

from durabert.bert import kernel_cache
from durabert.bert.threads import on_team, share
from durabert.bert.vectors import (
    INLINED,
    LANES,
    kept,
    loaded,
    minus,
    plus,
    plus_product,
    spread,
    store,
    times,
    total,
)

_FAST: Final = {"contract", "reassoc", "nsz", "arcp"}
"""Sums may be taken in another order, the same in each run; not numbers stay what they are."""
OPTIONS: Final[dict[str, Any]] = {"nogil": True, "cache": True, "fastmath": _FAST, "error_model": "numpy"}
"""How numba compiles kernels."""
kernel_cache.install()

LINE: Final = 64
"""Bytes of a line of the cache."""
CHUNKS: Final = 8
"""Parts of the tokens of which sums are taken one by one, however many threads there are."""


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


@register_jitable
def halves_at(address, rows, width):
    """Return a matrix of bfloat16 that begins at an address; inside of kernels."""
    return carray(_pointer(address), (rows, width), np.int16)


@register_jitable
def words_at(address, rows, width):
    """Return a matrix of float32 that begins at an address; inside of kernels."""
    return carray(_pointer(address), (rows, width), np.float32)


@register_jitable
def halves(rows, width):
    """Return memory for a matrix of bfloat16; inside of kernels.

    It begins with a line of the cache: a row of a tile that lies in two of them takes twice as long.
    """
    memory = np.empty(rows * width + LINE // 2, np.int16)
    return memory[-memory.ctypes.data % LINE // 2 :][: rows * width].reshape((rows, width))


@register_jitable
def words(rows, width):
    """Return memory for a matrix of float32, which begins with a line of the cache; inside of kernels."""
    memory = np.empty(rows * width + LINE // 4, np.float32)
    return memory[-memory.ctypes.data % LINE // 4 :][: rows * width].reshape((rows, width))


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


@njit(**OPTIONS, _nrt=False)
def _dropout_add_norm(
    number, of, row_TF, branch_TF, trunk_TF, scale_F, shift_F, epsilon, key0, key1, dropped, kept_scale,
    sum_TF, out_TF, mean_T, inverse_T,
):  # fmt: skip
    width = branch_TF.shape[1]
    row = row_TF[number]
    begin, end = share(branch_TF.shape[0], number, of)
    for t in range(begin, end):
        first = t * width
        sums = spread(np.float32(0.0))
        for f in range(0, width, LANES):
            x = loaded(branch_TF, first + f)
            if dropped:
                x = times(x, kept(np.uint32(first + f), key0, key1, dropped, kept_scale))
            x = plus(x, loaded(trunk_TF, first + f))
            store(row, f, x)
            store(sum_TF, first + f, x)
            sums = plus(sums, x)
        mean = total(sums) / np.float32(width)
        squares = spread(np.float32(0.0))
        for f in range(0, width, LANES):
            x = minus(loaded(row, f), spread(mean))
            squares = plus_product(squares, x, x)
        inverse = np.float32(1.0) / np.float32(math.sqrt(total(squares) / np.float32(width) + epsilon))
        for f in range(0, width, LANES):
            x = times(minus(loaded(row, f), spread(mean)), spread(inverse))
            store(out_TF, first + f, plus_product(loaded(shift_F, f), x, loaded(scale_F, f)))
        mean_T[t] = mean
        inverse_T[t] = inverse


@njit(**OPTIONS, _nrt=False)
def _dropout_add_norm_backward(
    number, of, gradient_TF, sum_TF, mean_T, inverse_T, scale_F, key0, key1, dropped, kept_scale,
    trunk_TF, branch_TF, sums_C3F,
):  # fmt: skip
    first, last = share(len(sums_C3F), number, of)
    for chunk in range(first, last):
        begin, end = share(gradient_TF.shape[0], chunk, len(sums_C3F))
        _rows_backward(
            begin, end, gradient_TF, sum_TF, mean_T, inverse_T, scale_F, key0, key1, dropped, kept_scale,
            trunk_TF, branch_TF, sums_C3F[chunk],
        )  # fmt: skip


@register_jitable(**INLINED)
def _rows_backward(
    begin, end, gradient_TF, sum_TF, mean_T, inverse_T, scale_F, key0, key1, dropped, kept_scale,
    trunk_TF, branch_TF, sums_3F,
):  # fmt: skip
    width = gradient_TF.shape[1]
    share_of_one = np.float32(1.0) / np.float32(width)
    for t in range(begin, end):
        start = t * width
        mean, inverse = spread(mean_T[t]), spread(inverse_T[t])
        first, second = spread(np.float32(0.0)), spread(np.float32(0.0))
        for f in range(0, width, LANES):
            change = loaded(gradient_TF, start + f)
            x = times(minus(loaded(sum_TF, start + f), mean), inverse)
            store(sums_3F, f, plus_product(loaded(sums_3F, f), change, x))
            store(sums_3F, width + f, plus(loaded(sums_3F, width + f), change))
            scaled = times(change, loaded(scale_F, f))
            first = plus(first, scaled)
            second = plus_product(second, scaled, x)
        first, second = spread(total(first) * share_of_one), spread(total(second) * share_of_one)
        for f in range(0, width, LANES):
            x = times(minus(loaded(sum_TF, start + f), mean), inverse)
            change = minus(times(loaded(gradient_TF, start + f), loaded(scale_F, f)), first)
            change = times(minus(change, times(x, second)), inverse)
            store(trunk_TF, start + f, change)
            if dropped:
                change = times(change, kept(np.uint32(start + f), key0, key1, dropped, kept_scale))
            store(branch_TF, start + f, change)
            place = 2 * width + f
            store(sums_3F, place, plus(loaded(sums_3F, place), change))


@njit(**OPTIONS, _nrt=False)
def _sum_rows(number, of, values_TF, sum_F):
    rows, width = values_TF.shape
    begin, end = share(width // LANES, number, of)
    for t in range(rows):
        for f in range(begin * LANES, end * LANES, LANES):
            store(sum_F, f, plus(loaded(sum_F, f), loaded(values_TF, t * width + f)))


@njit(**OPTIONS, _nrt=False)
def _draw(number, of, key0, key1, dropped, kept_scale, mask_X):
    begin, end = share(len(mask_X) // LANES, number, of)
    for place in range(begin * LANES, end * LANES, LANES):
        store(mask_X, place, kept(np.uint32(place), key0, key1, dropped, kept_scale))


@njit(**OPTIONS)
def draw(team, *arguments):
    """Write what dropout multiplies values by, whole vectors of them."""
    on_team(_draw, team, arguments)


@njit(**OPTIONS)
def sum_rows(team, *arguments):
    """Add all rows to ``sum_F``, in float32."""
    on_team(_sum_rows, team, arguments)


@njit(**OPTIONS)
def dropout_add_norm(team, *arguments):
    """Write the layer norm of trunk and dropped branch, and their sum and its moments for the way back.

    Source:
        Ba et al. 2016; dropout: Srivastava et al. 2014, scaled while training.
    """
    row_TF = np.empty((team[3], arguments[0].shape[1]), np.float32)
    on_team(_dropout_add_norm, team, (row_TF, *arguments))


@njit(**OPTIONS)
def dropout_add_norm_backward(team, *arguments):
    """Write the gradients of trunk and branch, and those of scale, shift and bias.

    The latter are in the first of ``sums_C3F`` then; all of these shall be 0 before.
    """
    on_team(_dropout_add_norm_backward, team, arguments)
    sums_C3F = arguments[-1]
    for chunk in range(1, len(sums_C3F)):
        # One by one: a sum of arrays takes numba seconds to compile.
        for row in range(3):
            for f in range(sums_C3F.shape[2]):
                sums_C3F[0, row, f] += sums_C3F[chunk, row, f]
