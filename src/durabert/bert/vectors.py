"""Vectors of 16 values of float32, for kernels that say themselves what is done to 16 values at once.

LLVM finds vectors in loops by itself, but not that the sums of a product of small matrices could stay in
registers. And by where arrays lie in memory it decides at run time whether a loop goes by vectors at all. The
values of an array of int16 are bfloat16 with the same bits. On a processor with narrower vectors LLVM takes
several for one.

All functions are for use inside of kernels.
"""

# ruff: noqa: ANN001, ANN201, ANN202, ARG001 - numba compiles by the types that it is called with

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.datamodel import models
from numba.core.registry import cpu_target
from numba.extending import intrinsic, register_jitable, register_model

LANES: Final = 16
"""Values of a vector."""
INLINED: Final = {"forceinline": True, "_nrt": False}
"""How functions that work on vectors are compiled: within their callers, and without counting references."""
_FLOATS: Final = ir.VectorType(ir.FloatType(), LANES)
_WORDS: Final = ir.VectorType(ir.IntType(32), LANES)
_HALVES: Final = ir.VectorType(ir.IntType(16), LANES)


class _BFloat(ir.Type):
    """Of LLVM, which llvmlite does not name."""

    def _to_string(self) -> str:
        return "bfloat"


_ROUNDED: Final = ir.VectorType(_BFloat(), LANES)
_PAIRS: Final = ir.VectorType(ir.IntType(16), 2 * LANES)
_FUSED: Final = ("contract",)
"""A product and a sum may be one operation."""


class _Vector(types.Type):
    """Of 16 values in float32."""

    def __init__(self) -> None:
        super().__init__(name="vector of 16 float32")


_VECTOR: Final = _Vector()


@register_model(_Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _splat(builder, value, kind):
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(_WORDS, [0] * LANES))


def _words(number: int) -> ir.Constant:
    return ir.Constant(_WORDS, [number] * LANES)


def _floats(number: float) -> ir.Constant:
    return ir.Constant(_FLOATS, [number] * LANES)


def address_of(context, builder, array_type, array, index):
    """Return the address of a value of an array."""
    return builder.gep(context.make_array(array_type)(context, builder, array).data, [index])


def _place(context, builder, array_type, array, index, kind):
    """Return the address of a vector in an array, and its alignment, which is that of one value."""
    address = address_of(context, builder, array_type, array, index)
    return builder.bitcast(address, kind.as_pointer()), 2 if kind is _HALVES else 4


@functools.cache
def compiles_for(*features: str) -> bool:
    """Return whether numba compiles for a processor that has these, by their names in LLVM."""
    of_target = cpu_target.target_context.codegen().magic_tuple()[2].split(",")
    return all(f"+{feature}" in of_target for feature in features)


def _rounded(builder, value):
    """Return values of float32 as bfloat16, rounded to the nearest even."""
    if compiles_for("avx512bf16"):
        return builder.bitcast(builder.fptrunc(value, _ROUNDED), _HALVES)
    # Elsewhere LLVM would call a function of a library that is not there.
    bits = builder.bitcast(value, _WORDS)
    odd = builder.and_(builder.lshr(bits, _words(16)), _words(1))
    rounded = builder.add(builder.add(bits, _words(0x7FFF)), odd)
    return builder.trunc(builder.lshr(rounded, _words(16)), _HALVES)


def _tree(builder, vector, combine: Callable[[ir.IRBuilder, Any, Any], Any]):
    """Combine all values of a vector, in the same order each time."""
    for distance in (8, 4, 2, 1):
        order = [(lane + distance) % LANES for lane in range(LANES)]
        turned = builder.shuffle_vector(vector, vector, ir.Constant(_WORDS, order))
        vector = combine(builder, vector, turned)
    return builder.extract_element(vector, ir.IntType(32)(0))


@intrinsic
def spread(_, value):
    """Return 16 times a value."""

    def generate(_context, builder, _signature, arguments):
        return _splat(builder, arguments[0], _FLOATS)

    return _VECTOR(types.float32), generate


@intrinsic
def spread_from(_, array, index):
    """Return 16 times the value at a place of an array of float32, in C order."""

    def generate(context, builder, signature, arguments):
        array, index = arguments
        value = builder.load(address_of(context, builder, signature.args[0], array, index))
        return _splat(builder, value, _FLOATS)

    return _VECTOR(array, types.int64), generate


@intrinsic
def loaded(_, array, index):
    """Return the 16 values of an array, in C order, from a place on."""
    is_half = array.dtype == types.int16

    def generate(context, builder, signature, arguments):
        array, index = arguments
        kind = _HALVES if is_half else _FLOATS
        address, alignment = _place(context, builder, signature.args[0], array, index, kind)
        value = builder.load(address, align=alignment)
        if not is_half:
            return value
        return builder.bitcast(builder.shl(builder.zext(value, _WORDS), _words(16)), _FLOATS)

    return _VECTOR(array, types.int64), generate


@intrinsic
def store(_, array, index, vector):
    """Write 16 values to an array, in C order, from a place on; bfloat16 is rounded to the nearest even."""
    is_half = array.dtype == types.int16

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        kind = _HALVES if is_half else _FLOATS
        address, alignment = _place(context, builder, signature.args[0], array, index, kind)
        if is_half:
            value = _rounded(builder, value)
        builder.store(value, address, align=alignment)
        return context.get_dummy_value()

    return types.void(array, types.int64, _VECTOR), generate


@intrinsic
def store_pairs(_, array, index, upper, lower, target, place):
    """Write 16 values of bfloat16 from ``upper`` on, each with the one from ``lower`` on beside it."""

    def generate(context, builder, signature, arguments):
        array, index, upper, lower, target, place = arguments
        of_array, of_target = signature.args[0], signature.args[4]
        rows = []
        for first in (upper, lower):
            address, alignment = _place(context, builder, of_array, array, builder.add(index, first), _HALVES)
            rows.append(builder.load(address, align=alignment))
        order = [lane // 2 + LANES * (lane % 2) for lane in range(2 * LANES)]
        pairs = builder.shuffle_vector(*rows, ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order))
        address, _ = _place(context, builder, of_target, target, place, _PAIRS)
        builder.store(pairs, address, align=2)
        return context.get_dummy_value()

    return types.void(array, *[types.int64] * 3, target, types.int64), generate


@intrinsic
def turn(_, source, first, step, target, place, stride):
    """Transpose 16 times 16 values of float32, whose rows are ``step`` and ``stride`` values apart."""

    def generate(context, builder, signature, arguments):
        source, first, step, target, place, stride = arguments
        of_source, of_target = signature.args[0], signature.args[3]
        rows = []
        for _ in range(LANES):
            address, alignment = _place(context, builder, of_source, source, first, _FLOATS)
            rows.append(builder.load(address, align=alignment))
            first = builder.add(first, step)
        for distance in (8, 4, 2, 1):
            rows = _swapped(builder, rows, distance)
        for row in rows:
            address, alignment = _place(context, builder, of_target, target, place, _FLOATS)
            builder.store(row, address, align=alignment)
            place = builder.add(place, stride)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, target, types.int64, types.int64), generate


def _swapped(builder, rows, distance):
    """Exchange, in each pair of rows so far apart, the values that lie on the wrong side by that bit."""
    lanes = range(LANES)
    upper = [lane if not lane & distance else lane - distance + LANES for lane in lanes]
    lower = [lane + distance if not lane & distance else lane + LANES for lane in lanes]
    swapped = list(rows)
    for number in lanes:
        if not number & distance:
            pair = rows[number], rows[number + distance]
            swapped[number] = builder.shuffle_vector(*pair, ir.Constant(_WORDS, upper))
            swapped[number + distance] = builder.shuffle_vector(*pair, ir.Constant(_WORDS, lower))
    return swapped


@intrinsic
def plus_product(_, total, one, other):
    """Return a sum and a product of two vectors, added."""

    def generate(_context, builder, _signature, arguments):
        total, one, other = arguments
        return builder.fadd(total, builder.fmul(one, other, flags=_FUSED), flags=_FUSED)

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), generate


def _of_two(operation: Callable[[ir.IRBuilder, Any, Any], Any]):
    """Return what combines the values of two vectors one by one."""

    @intrinsic
    def combine(_, one, other):
        def generate(_context, builder, _signature, arguments):
            return operation(builder, *arguments)

        return _VECTOR(_VECTOR, _VECTOR), generate

    return combine


def _larger(builder, one, other):
    """Return the larger value; the second where either is no number."""
    return builder.select(builder.fcmp_ordered(">", one, other), one, other)


plus: Final = _of_two(ir.IRBuilder.fadd)
minus: Final = _of_two(ir.IRBuilder.fsub)
times: Final = _of_two(ir.IRBuilder.fmul)
larger: Final = _of_two(_larger)


@intrinsic
def _rough_reciprocal(_, vector):
    def generate(_context, builder, _signature, arguments):
        number = ir.IntType(16)
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _FLOATS, number])
        function = builder.module.declare_intrinsic("llvm.x86.avx512.rcp14.ps.512", fnty=kind)
        return builder.call(function, [arguments[0], _floats(0.0), number(-1)])

    return _VECTOR(_VECTOR), generate


@register_jitable(**INLINED)
def reciprocal(vector):
    """Return 1 over the values of a vector, to 1e-7, on a processor with AVX-512.

    Source:
        A step of Newton's method after a table; a division takes four times as long.
    """
    rough = _rough_reciprocal(vector)
    error = minus(spread(np.float32(1.0)), times(vector, rough))
    return plus_product(rough, rough, error)


@intrinsic
def where_negative(_, vector, one, other):
    """Return the values of one vector where those of the first are below 0, and of the other elsewhere."""

    def generate(_context, builder, _signature, arguments):
        vector, one, other = arguments
        return builder.select(builder.fcmp_ordered("<", vector, _floats(0.0)), one, other)

    return _VECTOR(_VECTOR, _VECTOR, _VECTOR), generate


@intrinsic
def largest(_, vector):
    """Return the largest value of a vector."""

    def generate(_context, builder, _signature, arguments):
        return _tree(builder, arguments[0], _larger)

    return types.float32(_VECTOR), generate


@intrinsic
def total(_, vector):
    """Return the sum of the values of a vector."""

    def generate(_context, builder, _signature, arguments):
        return _tree(builder, arguments[0], ir.IRBuilder.fadd)

    return types.float32(_VECTOR), generate


@intrinsic
def first_lanes(_, vector, count, otherwise):
    """Return the first values of a vector, and another value behind them."""

    def generate(_context, builder, _signature, arguments):
        vector, count, otherwise = arguments
        lanes = ir.Constant(_WORDS, list(range(LANES)))
        limit = _splat(builder, builder.trunc(count, ir.IntType(32)), _WORDS)
        return builder.select(
            builder.icmp_signed("<", lanes, limit), vector, _splat(builder, otherwise, _FLOATS)
        )

    return _VECTOR(_VECTOR, types.int64, types.float32), generate


@intrinsic
def _whole(_, vector):
    """Return the values rounded towards 0."""

    def generate(_context, builder, _signature, arguments):
        return builder.sitofp(builder.fptosi(arguments[0], _WORDS), _FLOATS)

    return _VECTOR(_VECTOR), generate


@intrinsic
def _power_of_two(_, vector):
    """Return 2 to whole values from -126 to 127."""

    def generate(_context, builder, _signature, arguments):
        exponent = builder.add(builder.fptosi(arguments[0], _WORDS), _words(127))
        return builder.bitcast(builder.shl(exponent, _words(23)), _FLOATS)

    return _VECTOR(_VECTOR), generate


@intrinsic
def _not_below(_, vector, limit):
    """Return the values, none of them below a limit; what is no number stays so."""

    def generate(_context, builder, _signature, arguments):
        vector, limit = arguments[0], _splat(builder, arguments[1], _FLOATS)
        return builder.select(builder.fcmp_ordered("<", vector, limit), limit, vector)

    return _VECTOR(_VECTOR, types.float32), generate


@intrinsic
def kept(_, place, key0, key1, dropped, scale):
    """Return what dropout multiplies 16 values by that lie side by side: 0, or ``scale``.

    Whether a value is kept is decided by 16 bits of a hash of its place.

    Source:
        The idea of random numbers by counter: Salmon et al. 2011. The mixing function is ``triple32`` of
        C. Wellons, https://nullprogram.com/blog/2018/07/31/, with a key before and within it.
    """

    def generate(_context, builder, _signature, arguments):
        place, key0, key1, dropped = (_splat(builder, one, _WORDS) for one in arguments[:4])
        x = builder.xor(builder.add(place, ir.Constant(_WORDS, list(range(LANES)))), key0)
        x = builder.xor(x, builder.lshr(x, _words(17)))
        x = builder.mul(x, _words(0xED5AD4BB))
        x = builder.xor(x, builder.lshr(x, _words(11)))
        x = builder.mul(builder.add(x, key1), _words(0xAC4C1B51))
        x = builder.xor(x, builder.lshr(x, _words(15)))
        x = builder.lshr(builder.mul(x, _words(0x31848BAB)), _words(16))
        is_kept = builder.icmp_unsigned(">=", x, dropped)
        return builder.select(is_kept, _splat(builder, arguments[4], _FLOATS), _floats(0.0))

    return _VECTOR(types.uint32, types.uint32, types.uint32, types.uint32, types.float32), generate


@register_jitable(**INLINED)
def exponential(x):
    """Return e to the values of a vector, each at most 0; within 2 units of the last place.

    Source:
        Reduction by powers of two and a Taylor polynomial: Muller, Elementary Functions, chapter 11.
    """
    x = _not_below(x, np.float32(-87.0))
    n = _whole(plus_product(spread(np.float32(-0.5)), x, spread(np.float32(1.44269504))))
    r = plus_product(x, n, spread(np.float32(-0.693359375)))
    r = plus_product(r, n, spread(np.float32(2.12194440e-4)))
    p = plus_product(spread(np.float32(1 / 120)), r, spread(np.float32(1 / 720)))
    p = plus_product(spread(np.float32(1 / 24)), r, p)
    p = plus_product(spread(np.float32(1 / 6)), r, p)
    p = plus_product(spread(np.float32(0.5)), r, p)
    p = plus_product(spread(np.float32(1.0)), r, p)
    p = plus_product(spread(np.float32(1.0)), r, p)
    return times(p, _power_of_two(n))
