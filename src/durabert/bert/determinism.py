"""Where chance comes from: every draw is a pure function of the seed and of what it is for."""

from __future__ import annotations

import contextlib
import enum
import os
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.utils.deterministic as memory_filling

if TYPE_CHECKING:
    from collections.abc import Iterator


class Draw(enum.IntEnum):
    """What a random number is for; two purposes never share a stream."""

    HEAD = 1
    ORDER = 2
    DROPOUT = 3
    MASK = 4


def stream(seed: int, draw: Draw, *position: int) -> np.random.SeedSequence:
    """Return the source of chance for one purpose at one position, such as an epoch or a step."""
    return np.random.SeedSequence((seed, int(draw), *position))


def seed_torch(seed: int, draw: Draw, *position: int) -> None:
    """Set torch's generators, on every device, for one purpose at one position.

    Called before each micro-batch, it makes dropout independent of what ran before: to resume needs the
    number of the step and no generator state.
    """
    state = stream(seed, draw, *position).generate_state(1, np.uint64)
    torch.manual_seed(int(state[0]))


@contextlib.contextmanager
def torch_seeded(seed: int, draw: Draw) -> Iterator[None]:
    """Seed torch's CPU generator inside the block and restore it after."""
    with torch.random.fork_rng(devices=[]):
        state = stream(seed, draw).generate_state(1, np.uint64)
        torch.default_generator.manual_seed(int(state[0]))
        yield


@contextlib.contextmanager
def deterministic_kernels() -> Iterator[None]:
    """Hold torch to kernels that give the same bits each time; restore what was set before."""
    # cuBLAS reads it when its first handle is made; without it torch refuses matrix products.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    fill = memory_filling.fill_uninitialized_memory  # type: ignore[attr-defined]  # of its class
    torch.use_deterministic_algorithms(True, warn_only=False)
    # Every output is written before it is read; filling the memory first costs time and changes nothing.
    memory_filling.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # of its class
    try:
        yield
    finally:
        memory_filling.fill_uninitialized_memory = fill  # type: ignore[attr-defined]  # of its class
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
