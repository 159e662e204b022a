"""Choosing rows by seed: the part held out for validation, and samples."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def held_out(num_rows: int, fraction: float, seed: int) -> list[int]:
    """Return the rows to hold out, at random: at least one, and not all.

    Args:
        num_rows: at least 2.
        fraction: share of the rows to hold out.
        seed: seed of the choice.
    """
    count = min(max(1, round(num_rows * fraction)), num_rows - 1)
    return sample(num_rows, count, seed)


def held_out_by_class(classes: Sequence[int], fraction: float, seed: int) -> list[int]:
    """Return the rows to hold out, stratified: every class keeps at least one row.

    Args:
        classes: class number of each row.
        fraction: share of the rows to hold out, of each class as nearly as whole rows allow.
        seed: seed of the choice.

    Returns:
        Indices in ascending order; none if every class has one row.
    """
    members: dict[int, list[int]] = {}
    for index, number in enumerate(classes):
        members.setdefault(number, []).append(index)
    sizes = {number: len(members[number]) for number in sorted(members)}
    shares = _shares(sizes, max(1, round(len(classes) * fraction)))
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen: list[int] = []
    for number, share in shares.items():
        order = rng.permutation(sizes[number])
        chosen.extend(members[number][position] for position in order[:share])
    return sorted(chosen)


def _shares(sizes: dict[int, int], total: int) -> dict[int, int]:
    # Largest remainders: exact shares are rounded down, and the rows still missing go to the classes
    # that lost most by it.
    num_rows = sum(sizes.values())
    exact = {number: size * total / num_rows for number, size in sizes.items()}
    shares = {number: min(int(exact[number]), size - 1) for number, size in sizes.items()}
    by_loss = sorted(sizes, key=lambda number: (shares[number] - exact[number], number))
    missing = total - sum(shares.values())
    while missing > 0:
        open_classes = [number for number in by_loss if shares[number] < sizes[number] - 1]
        if not open_classes:
            break
        for number in open_classes[:missing]:
            shares[number] += 1
        missing = total - sum(shares.values())
    return shares


def sample(num_rows: int, count: int, seed: int) -> list[int]:
    """Return ``count`` of ``num_rows`` indices, chosen at random, in ascending order."""
    rng = np.random.Generator(np.random.PCG64(seed))
    chosen = rng.choice(num_rows, size=count, replace=False)
    return [int(index) for index in np.sort(chosen)]
