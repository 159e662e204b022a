"""What the kernels compute does not depend on where in memory their arrays lie."""

from __future__ import annotations

import ctypes
import itertools
import sys

import numpy as np
import pytest
from numba import njit

from durabert.bert import adamw, kernels

WIDTH = 32
SITE = (np.uint32(123), np.uint32(77), np.uint32(6554), np.float32(1.1))
CLOSE = 256
"""Bytes after an array within which LLVM takes what begins there for a part of it."""


@njit
def own_memory(width):
    return np.empty(width, np.float32)


def placed(order, shapes):
    """Return arrays of random values, one right after the other in this order, or apart."""
    apart = 0 if order else 4096
    memory = np.zeros(sum(int(np.prod(shape)) + apart for shape in shapes.values()), np.float32)
    arrays, start = {}, 0
    for name in order or shapes:
        end = start + int(np.prod(shapes[name]))
        arrays[name] = memory[start:end].reshape(shapes[name])
        start = end + apart
    rng = np.random.default_rng(7)
    for name in shapes:
        arrays[name][...] = np.abs(rng.standard_normal(shapes[name]))
    return arrays


def add_norm(branch, trunk, total, out, moments):
    scale, shift = np.ones(WIDTH, np.float32), np.zeros(WIDTH, np.float32)
    kernels.dropout_add_norm(
        branch, trunk, scale, shift, np.float32(1e-12), *SITE, total, out, moments[0], moments[1]
    )


def add_norm_back(gradient, total, moments, trunk, branch, sums):
    scale = np.linspace(0.5, 2, WIDTH, dtype=np.float32)
    kernels.dropout_add_norm_backward(
        gradient, total, moments[0], moments[1], scale, *SITE, trunk, branch, sums
    )


def weigh(scores, weights, kept):
    kernels.weigh(scores, np.array([29, 31]), 1, np.float32(0.3), *SITE, 0, weights, kept)


def weigh_back(change, weights):
    kernels.weigh_backward(change, np.array([29, 31]), 1, weights, np.float32(0.3), *SITE, 0)


def move(weight, change, first, second):
    numbers = [np.float32(number) for number in (0.7, 0.999, 1e-3, 1.3)]
    adamw._move(weight, change, first, second, None, *numbers)


ROWS = (9, WIDTH)
SQUARE = (2, WIDTH, WIDTH)
CASES = {
    "add_norm": (add_norm, {"branch": ROWS, "trunk": ROWS, "total": ROWS, "out": ROWS, "moments": (2, 9)}),
    "add_norm_back": (
        add_norm_back,
        {
            "gradient": ROWS, "total": ROWS, "moments": (2, 9), "trunk": ROWS, "branch": ROWS,
            "sums": (3, WIDTH),
        },
    ),
    "weigh": (weigh, {"scores": SQUARE, "weights": SQUARE, "kept": SQUARE}),
    "weigh_back": (weigh_back, {"change": SQUARE, "weights": SQUARE}),
    "move": (move, dict.fromkeys(("weight", "change", "first", "second"), (WIDTH,))),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_arrays_may_lie_side_by_side(case):
    kernel, shapes = CASES[case]
    apart = placed((), shapes)
    kernel(**apart)

    for order in itertools.permutations(shapes):
        found = placed(order, shapes)
        kernel(**found)
        for name in shapes:
            assert found[name].tobytes() == apart[name].tobytes(), (order, name)


@pytest.mark.skipif(sys.platform != "linux", reason="a hole in the heap of glibc")
def test_a_row_of_a_kernel_may_be_given_memory_right_after_an_array():
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    hole = hole_of(libc, WIDTH)
    trunk, branch = np.random.default_rng(7).standard_normal((2, 1, WIDTH)).astype(np.float32)
    places = sorted(libc.malloc(hole) for _ in range(400))
    pairs = [pair for pair in itertools.pairwise(places) if pair[1] - pair[0] == hole + 16][::2]
    results, close = set(), 0

    for before, place in pairs:
        end = ctypes.cast(before + hole - branch.nbytes, ctypes.POINTER(ctypes.c_float))
        last = np.ctypeslib.as_array(end, branch.shape)
        last[...] = branch
        total, out = np.zeros((2, 1, WIDTH), np.float32)
        moments = np.zeros((2, 1), np.float32)
        libc.free(place)
        add_norm(last, trunk, total, out, moments)
        # The place is free again: whoever asks for as much is given it.
        close += 0 <= own_memory(WIDTH).ctypes.data - last.ctypes.data < CLOSE
        results.add((total.tobytes(), out.tobytes(), moments.tobytes()))

    assert close, "no row lay close"
    assert len(results) == 1


def hole_of(libc, width):
    """Return the bytes that memory for a row of that width takes."""
    own_memory(width)
    place = own_memory(width).ctypes.data
    for size in range(4 * width, 4 * width + CLOSE, 16):
        given = libc.malloc(size + 8)
        libc.free(given)
        if 0 <= place - given < CLOSE:
            return size
    pytest.fail("the heap gives memory of no size again")
