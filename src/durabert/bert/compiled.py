"""Kernels made ready: a process that imports this, and those that it forks, need not wait for them.

numba compiles a kernel when it is first called with values of some types, in a second or so, and keeps the
code on disk. Read from there it still takes half a second to set up the compiler.
"""

from __future__ import annotations

import numpy as np

from durabert.bert import adamw, kernels
from durabert.bert.threads import alone, team


def make_ready() -> None:
    """Call each kernel with values of the types that training calls it with."""
    zero, one = np.uint32(0), np.float32(1)
    site = (zero, zero, zero, one)
    for dtype in (np.int16, np.float32):
        rows, width = np.zeros((4, 2, 16), dtype), np.ones(16, dtype)
        moments, sums = np.zeros((2, 2), np.float32), np.zeros((2, 3, 16), np.float32)
        kernels.dropout_add_norm(
            team(), rows[0], rows[1], width, width, one, *site, rows[2], rows[3], *moments
        )
        kernels.dropout_add_norm_backward(
            team(), rows[0], rows[1], *moments, width, *site, rows[2], rows[3], sums
        )
        square = np.zeros((3, 2, 16, 16), dtype)
        sizes = np.array([2])
        kernels.weigh(team(), square[0], sizes, 2, one, *site, 0, square[1], square[2])
        kernels.weigh_backward(team(), square[0], sizes, 2, square[1], one, *site, 0)
    adamw.make_ready()


with alone():
    make_ready()
