"""Compiled kernels on the very threads that torch computes with.

Between two products torch's threads wait busily for the next one. Threads of another kind would have to share
the cores with them: an optimizer step on a pool of Python's took twice as long as the work in it. So a kernel
is handed to the team that GNU's OpenMP keeps for torch, which begins with it within microseconds.

Without that library, which torch brings along on Linux, a kernel runs on one thread.
"""

# ruff: noqa: ANN001, ANN201, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, register_jitable

LIBRARY: Final = Path(torch.__file__).parent / "lib" / "libgomp.so.1"
_WORD: Final = ir.IntType(32)

FUNCTIONS: Final = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")
"""What begins a team's work, and what tells each thread its number and how many there are."""
Team = tuple[int, int, int, int]
"""The addresses of ``FUNCTIONS``, and how many threads are asked for."""
ALONE: Final[Team] = (0, 0, 0, 1)
"""The thread that calls."""


@dataclass
class _Process:
    """What is known of this process."""

    is_alone: bool = False
    has_team: bool = False


_PROCESS: Final = _Process()


def team() -> Team:
    """Return the threads that torch computes with now."""
    addresses = _addresses()
    if _PROCESS.is_alone or addresses is None:
        return ALONE
    _PROCESS.has_team = True
    return *addresses, torch.get_num_threads()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Let each team be the thread that calls: in a process that forks, whose children could have no team."""
    before, _PROCESS.is_alone = _PROCESS.is_alone, True
    try:
        yield
    finally:
        _PROCESS.is_alone = before


def _leave_team() -> None:
    # Its threads are not there after a fork, and it would wait for them.
    _PROCESS.is_alone = _PROCESS.is_alone or _PROCESS.has_team


os.register_at_fork(after_in_child=_leave_team)


@register_jitable(inline="always")
def share(size, number, of):
    """Return where the part of a thread begins and ends; inside of kernels."""
    return size * number // of, size * (number + 1) // of


@functools.cache
def _addresses() -> tuple[int, int, int] | None:
    if not LIBRARY.exists():
        return None
    # The one that torch has loaded already.
    library = ctypes.CDLL(str(LIBRARY))
    begin, number, count = (ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in FUNCTIONS)
    assert begin
    assert number
    assert count
    return begin, number, count


@intrinsic
def on_team(typing_context, kernel, team, arguments):
    """Call a kernel once on each thread of a team; inside of kernels.

    The kernel takes the number of the thread, how many there are, and the arguments, which lie where all
    threads see them. It raises and returns nothing.
    """
    signature = types.void(kernel, team, arguments)
    inner = kernel.get_call_type(typing_context, (types.int64, types.int64, *arguments), {})

    def generate(context, builder, _, values):
        _, packed_team, packed = values
        compiled = kernel.dispatcher.get_compile_result(inner)
        context.active_code_library.add_linking_library(compiled.library)
        *functions, wanted = cgutils.unpack_tuple(builder, packed_team)
        one = wanted.type(1)
        with builder.if_else(builder.icmp_signed("==", wanted, one)) as (is_alone, has_others):
            with is_alone:
                given = [wanted.type(0), one, *cgutils.unpack_tuple(builder, packed)]
                context.call_internal_no_propagate(builder, compiled.fndesc, inner, given)
            with has_others:
                _begin(context, builder, compiled.fndesc, inner, functions, wanted, packed)
        return context.get_dummy_value()

    return signature, generate


def _begin(
    context: Any, builder: Any, kernel: Any, signature: Any, functions: list[Any], wanted: Any, packed: Any
) -> None:
    """Write the call that has a team begin, and waits for it."""
    begin, number, count = functions
    shown = ir.LiteralStructType([packed.type, number.type, count.type])
    thread = _of_a_thread(context, builder.module, kernel, signature, shown)
    place = cgutils.alloca_once(builder, shown)
    for index, value in enumerate((packed, number, count)):
        builder.store(value, cgutils.gep_inbounds(builder, place, 0, index))
    call = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, cgutils.voidptr_t, _WORD, _WORD])
    builder.call(
        builder.inttoptr(begin, call.as_pointer()),
        [
            builder.bitcast(thread, cgutils.voidptr_t),
            builder.bitcast(place, cgutils.voidptr_t),
            builder.trunc(wanted, _WORD),
            ir.Constant(_WORD, 0),
        ],
    )


def _of_a_thread(context: Any, module: Any, kernel: Any, signature: Any, shown: Any) -> Any:
    """Write the function that each thread of a team calls."""
    function = ir.Function(
        module, ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t]), module.get_unique_name("of_a_thread")
    )
    function.linkage = "internal"
    builder = ir.IRBuilder(function.append_basic_block())
    place = builder.bitcast(function.args[0], shown.as_pointer())
    packed, *asked = (builder.load(cgutils.gep_inbounds(builder, place, 0, index)) for index in range(3))
    tells = ir.FunctionType(_WORD, []).as_pointer()
    # As many as there are, which may be fewer than were asked for.
    number, count = (
        builder.sext(builder.call(builder.inttoptr(address, tells), []), address.type) for address in asked
    )
    arguments = [number, count, *cgutils.unpack_tuple(builder, packed)]
    context.call_internal_no_propagate(builder, kernel, signature, arguments)
    builder.ret_void()
    return function
