"""The tile registers of Intel's AMX, for kernels that say themselves what is multiplied in them.

A tile is 16 rows of 64 bytes. The result of a block is four of them, 32 x 32 sums in float32. The left factor
is two tiles of 16 rows, with 32 values of bfloat16 each; the right one is two tiles, too, with 32 values of
16 columns each: of those, two that lie below each other are side by side.

All but ``has_tiles`` is for use inside of kernels.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ARG001 - numba compiles by the types that it is called with

from __future__ import annotations

import functools
from typing import Any, Final

import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core.cgutils import voidptr_t
from numba.extending import intrinsic
from numpy.typing import NDArray

from durabert.bert.vectors import address_of, compiles_for

TILE: Final = 16
"""Rows of a tile, and columns of one of sums."""
BLOCK: Final = 2 * TILE
"""Rows and columns of a block."""
DEPTH: Final = 32
"""Values of a row of the left factor, and of a column of the right one, that are multiplied at once."""
RIGHT: Final = DEPTH * BLOCK
"""Values of the right factor that are."""
_FEATURES: Final = ("amx-tile", "amx-bf16", "avx512bf16")
_BYTES: Final = 64
_SUMS: Final = ((0, 1), (2, 3))
"""Tiles of the result, as they lie in it."""
_LEFT: Final = (4, 5)
_RIGHT: Final = (6, 7)


def _shapes() -> NDArray[np.uint8]:
    """Return what a thread tells its processor: all eight tiles are whole."""
    shapes = np.zeros(_BYTES, np.uint8)
    shapes[0] = 1
    shapes[16:32].view(np.uint16)[:] = _BYTES
    shapes[48:56] = TILE
    return shapes


SHAPES: Final = _shapes()


@functools.cache
def has_tiles() -> bool:
    """Return whether this process can use tiles, which it asks the kernel of Linux for."""
    return compiles_for(*_FEATURES) and bool(torch.cpu._init_amx())  # noqa: SLF001 - torch shows no other


def _call(builder: ir.IRBuilder, name: str, *arguments: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [one.type for one in arguments])
    builder.call(builder.module.declare_intrinsic(f"llvm.x86.{name}", fnty=kind), arguments)


def _tile(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(8), number)


def _stride(number: int) -> ir.Constant:
    return ir.Constant(ir.IntType(64), number)


def _pointer(context, builder, array_type, array, index):
    return builder.bitcast(address_of(context, builder, array_type, array, index), voidptr_t)


@intrinsic
def begin_tiles(_, shapes):
    """Let this thread use tiles, of ``SHAPES``."""

    def generate(context, builder, signature, arguments):
        _call(builder, "ldtilecfg", _pointer(context, builder, signature.args[0], arguments[0], _stride(0)))
        return context.get_dummy_value()

    return types.void(shapes), generate


@intrinsic
def end_tiles(_):
    """Leave the tiles as they were found, to others that use them on this thread."""

    def generate(context, builder, _signature, _arguments):
        _call(builder, "tilerelease")
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def clear_sums(_):
    """Let the sums of a block be 0."""

    def generate(context, builder, _signature, _arguments):
        for tile in sum(_SUMS, ()):
            _call(builder, "tilezero", _tile(tile))
        return context.get_dummy_value()

    return types.void(), generate


def _of_sums(instruction: str):
    """Return what moves the sums of a block between tiles and an array of float32, in rows of ``BLOCK``."""

    @intrinsic
    def move(_, array, place):
        def generate(context, builder, signature, arguments):
            array, place = arguments
            for row, tiles in enumerate(_SUMS):
                for column, tile in enumerate(tiles):
                    there = builder.add(place, _stride(TILE * (row * BLOCK + column)))
                    pointer = _pointer(context, builder, signature.args[0], array, there)
                    _call(builder, instruction, _tile(tile), pointer, _stride(4 * BLOCK))
            return context.get_dummy_value()

        return types.void(array, types.int64), generate

    return move


take_sums: Final = _of_sums("tileloadd64")
keep_sums: Final = _of_sums("tilestored64")


def _of_rows(rows: int):
    """Return what adds a product to the sums of so many tiles of rows."""

    @intrinsic
    def add(_, left, first, step, right, place):
        def generate(context, builder, signature, arguments):
            left, first, step, right, place = arguments
            of_left, of_right = signature.args[0], signature.args[3]

            def load(tile, of_array, array, index, stride):
                pointer = _pointer(context, builder, of_array, array, index)
                _call(builder, "tileloadd64", _tile(tile), pointer, stride)

            for number, tile in enumerate(_RIGHT):
                behind = builder.add(place, _stride(number * DEPTH * TILE))
                load(tile, of_right, right, behind, _stride(_BYTES))
            for number, tile in enumerate(_LEFT[:rows]):
                below = builder.add(first, builder.mul(step, _stride(number * TILE)))
                load(tile, of_left, left, below, builder.mul(step, _stride(2)))
            for number, tile in enumerate(_LEFT[:rows]):
                for column, other in enumerate(_RIGHT):
                    _call(builder, "tdpbf16ps", _tile(_SUMS[number][column]), _tile(tile), _tile(other))
            return context.get_dummy_value()

        return types.void(left, types.int64, types.int64, right, types.int64), generate

    return add


add_product: Final = _of_rows(2)
"""Add to the sums a product of 32 rows: ``DEPTH`` values of each from a place on, ``step`` values apart, and
``RIGHT`` values from another place on."""
add_product_of_half: Final = _of_rows(1)
"""The same of 16 rows."""
