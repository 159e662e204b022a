"""What the kernels compute does not depend on where in memory their arrays lie."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import itertools
import os
import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit

from durabert.bert import adamw, attention_kernels, kernels, vectors
from durabert.bert.threads import ALONE, alone, on_team, team
from durabert.bert.vectors import LANES, loaded, store

WIDTH = 320
HEADS = WIDTH // 32
SITE = (np.uint32(123), np.uint32(77), np.uint32(6554), np.float32(1.1))
OWN_MEMORY = {
    "add_norm": WIDTH,
    "attend": attention_kernels.PLACES * attention_kernels.PLACE,
    "attend_back": attention_kernels.PLACES * attention_kernels.PLACE,
}
"""Values that a kernel asks for."""


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


def add_norm(branch, trunk, scale, shift, total, out, moments, threads=ALONE):
    kernels.dropout_add_norm(
        threads, branch, trunk, scale, shift, np.float32(1e-12), *SITE, total, out, moments[0], moments[1]
    )


def add_norm_back(gradient, total, moments, scale, trunk, branch, sums, threads=ALONE):
    kernels.dropout_add_norm_backward(
        threads, gradient, total, moments[0], moments[1], scale, *SITE, trunk, branch, sums
    )


def attend(projected, out, threads=ALONE):
    attention_kernels.attend(
        threads, projected, np.array([0, 3, 21]), HEADS, 128, np.float32(0.3), *SITE, out
    )


def attend_back(gradient, projected, change, threads=ALONE):
    attention_kernels.attend_backward(
        threads, gradient, projected, np.array([0, 3, 21]), HEADS, 128, np.float32(0.3), *SITE, change
    )


def sum_rows(values, total, threads=ALONE):
    kernels.sum_rows(threads, values, total)


def draw(mask, threads=ALONE):
    kernels.draw(threads, *SITE, mask.reshape(-1))


def move(weight, change, first, second):
    numbers = [np.float32(number) for number in (0.7, 0.999, 1e-3, 1.3)]
    adamw._move(weight, change, first, second, None, False, *numbers)


ROWS = (9, WIDTH)
TOKENS, PROJECTED = (21, WIDTH), (21, 3 * WIDTH)
CASES = {
    "add_norm": (
        add_norm,
        {
            "branch": ROWS, "trunk": ROWS, "scale": (WIDTH,), "shift": (WIDTH,), "total": ROWS, "out": ROWS,
            "moments": (2, 9),
        },
    ),
    "add_norm_back": (
        add_norm_back,
        {
            "gradient": ROWS, "total": ROWS, "moments": (2, 9), "scale": (WIDTH,), "trunk": ROWS,
            "branch": ROWS, "sums": (4, 3, WIDTH),
        },
    ),
    "attend": (attend, {"projected": PROJECTED, "out": TOKENS}),
    "attend_back": (attend_back, {"gradient": TOKENS, "projected": PROJECTED, "change": PROJECTED}),
    "draw": (draw, {"mask": ROWS}),
    "sum_rows": (sum_rows, {"values": ROWS, "total": (WIDTH,)}),
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


@pytest.mark.parametrize("case", [name for name in CASES if name != "move"])
def test_the_number_of_threads_changes_no_bit(case):
    kernel, shapes = CASES[case]
    alone, shared = placed((), shapes), placed((), shapes)
    kernel(**alone)
    with threads_of_torch(3):
        kernel(**shared, threads=team())

    for name in shapes:
        assert shared[name].tobytes() == alone[name].tobytes(), name


@contextlib.contextmanager
def threads_of_torch(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@njit
def _sign(number, of, number_N, of_N):
    number_N[number] += 1
    of_N[number] = of


@njit
def sign(team, *arguments):
    on_team(_sign, team, arguments)


def test_each_thread_of_a_team_is_there_once():
    counts, sizes = np.zeros((2, 3), np.int64)
    with threads_of_torch(3):
        sign(team(), counts, sizes)
        assert (counts.tolist(), sizes.tolist()) == ([1, 1, 1], [3, 3, 3])
        with alone():
            sign(team(), counts, sizes)

    assert (counts.tolist(), sizes.tolist()) == ([2, 1, 1], [1, 3, 3])


@pytest.mark.skipif(sys.platform != "linux", reason="OpenMP of GNU is there on Linux")
def test_a_system_that_grants_fewer_threads_has_all_the_work_done():
    code = """
from tests.unit.test_kernels import np, sign, team, threads_of_torch

counts, sizes = np.zeros((2, 3), np.int64)
with threads_of_torch(3):
    sign(team(), counts, sizes)
assert (counts.tolist(), sizes.tolist()) == ([1, 1, 0], [2, 2, 0]), (counts, sizes)
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env={**os.environ, "OMP_THREAD_LIMIT": "2"},
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="the fork server is there on Linux")
def test_a_process_that_is_forked_from_one_with_ready_kernels_has_a_team_of_its_own():
    code = """
import os, torch
from durabert.bert import compiled
from tests.unit.test_kernels import np, sign, team, threads_of_torch

child = os.fork()
if child == 0:
    counts, sizes = np.zeros((2, 3), np.int64)
    with threads_of_torch(3):
        sign(team(), counts, sizes)
    os._exit(counts.tolist() == [1, 1, 1])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip

    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="a hole in the heap of glibc")
def test_memory_of_a_kernel_may_be_between_two_arrays():
    # In a process of its own: the heap of this one is full of holes.
    code = """
from durabert.bert.allocator import keep_freed_memory
from tests.unit.test_kernels import OWN_MEMORY, lie_around_memory

# On the heap, and not each block by itself.
keep_freed_memory()
for case in OWN_MEMORY:
    lie_around_memory(case)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr


def lie_around_memory(case):
    """Give a kernel memory between every two of its arrays, which must change nothing."""
    kernel, shapes = CASES[case]
    expected = placed((), shapes)
    kernel(**expected)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    hits = 0
    for hole in holes(libc, OWN_MEMORY[case]):
        for before, after in itertools.permutations(shapes, 2):
            found = placed((), shapes)
            found[before] = moved(found[before], hole.place - HEADER - found[before].nbytes)
            found[after] = moved(found[after], hole.end + HEADER)
            with hole.free():
                kernel(**found)
                hits += hole.is_taken()
            for name in shapes:
                assert found[name].tobytes() == expected[name].tobytes(), (case, before, after, name)
    assert hits, f"no memory of {case} was between two arrays"


SMALL = 32
"""Values in so small a block that glibc gives it again by its exact size."""
HEADER = 16
"""Bytes of glibc between two blocks."""
BLOCK = 2**17
"""Bytes before and after a hole, which hold any of the arrays."""


def moved(array, address):
    """Return a copy of an array at an address."""
    pointer = ctypes.cast(address, ctypes.POINTER(ctypes.c_float))
    copy = np.ctypeslib.as_array(pointer, array.shape)
    copy[...] = array
    return copy


@dataclasses.dataclass
class Hole:
    """A block of the heap that a kernel is given when it asks for memory, with blocks around it."""

    libc: ctypes.CDLL
    place: int
    size: int
    values: int

    @property
    def end(self):
        return self.place + self.size

    @contextlib.contextmanager
    def free(self):
        self.libc.free(self.place)
        yield
        assert self.libc.malloc(self.size) == self.place, "somebody else has taken it"

    def is_taken(self):
        """Return whether it is what a kernel gets; it is free again by now."""
        memory = own_memory(self.values)
        return self.place <= memory.ctypes.data < self.end


def holes(libc, values):
    size = size_of_block(libc, values)
    if size < BLOCK:
        # Until those that others have left are used up.
        for _ in range(4096):
            libc.malloc(size)
    for _ in range(20):
        before, place, after = (libc.malloc(count) for count in (BLOCK, size, BLOCK))
        if place == before + BLOCK + HEADER and after == place + size + HEADER:
            yield Hole(libc, place, size, values)


def size_of_block(libc, count):
    """Return the bytes that are asked for when an array of so many values is made."""
    own_memory(SMALL)
    place = own_memory(SMALL).ctypes.data
    for size in range(4 * SMALL, 4 * SMALL + 256, 16):
        given = libc.malloc(size)
        libc.free(given)
        if 0 <= place - given < size:
            return size + 4 * (count - SMALL)
    pytest.fail("the heap gives memory of no size again")


@pytest.mark.parametrize("by_instruction", [None, False])
def test_a_value_is_rounded_to_the_nearest_even_whatever_it_is(monkeypatch, by_instruction):
    if by_instruction is False:
        monkeypatch.setattr(vectors, "compiles_for", lambda *_: False)

    @njit
    def rounded(values, halves):
        for place in range(0, len(values), LANES):
            store(halves, place, loaded(values, place))

    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31, (1 << 16,), dtype=torch.int64, generator=generator).int()
    # Halfway between two values of bfloat16, above an even one and above an odd one.
    bits[:1024] = (bits[:1024] & -0x10000) | 0x8000
    values = torch.cat([bits.view(torch.float32), torch.tensor([torch.inf, -torch.inf, 0.0, -0.0] * 4)])
    # Too small for all of their digits: some processors take them for 0.
    values = values[(values.abs() >= 2.0**-126) | (values == 0)]
    values = values[: len(values) // LANES * LANES]
    halves = torch.empty(len(values), dtype=torch.bfloat16)

    rounded(kernels.array_of(values), kernels.array_of(halves))

    assert torch.equal(halves, values.bfloat16())


@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for an x86-64")
def test_a_processor_that_has_no_instruction_for_it_rounds_as_well():
    code = """
        import numpy as np
        from numba import njit
        from durabert.bert.vectors import compiles_for, loaded, store

        @njit
        def rounded(values, halves):
            store(halves, 0, loaded(values, 0))

        assert not compiles_for("avx512bf16")
        halves = np.zeros(16, np.int16)
        rounded(np.full(16, 1.00390625, np.float32), halves)
        assert (halves == 0x3F80).all(), halves
    """
    # Not of the newest: with vectors, but none of bfloat16.
    target = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""}
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env={**os.environ, **target}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
