"""Kernels made ready: a process that imports this, and those that it forks, need not wait for them.

numba compiles a kernel when it is first called with values of some types, in a second or so, and keeps the
code on disk. Read from there it still takes half a second to set up the compiler.
"""

from __future__ import annotations

import numpy as np

from durabert.bert import adamw, attention_kernels, attention_tiles, fused_tiles, kernels, products
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
        ends, projected = np.array([0, 2]), np.zeros((2, 48), dtype)
        given = (ends, 1, 1, one, *site)
        attention_kernels.attend(team(), projected, *given, rows[0])
        attention_kernels.attend_backward(team(), rows[0], projected, *given, np.zeros((2, 48), dtype))
        kernels.sum_rows(team(), rows[0], np.zeros(16, np.float32))
        kernels.draw(team(), *site, rows[0, 0])
    adamw.make_ready()
    products.make_ready()
    attention_tiles.make_ready()
    fused_tiles.make_ready()


with alone():
    make_ready()
