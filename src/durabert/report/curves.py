"""Curves for a report: so many points that they show all there is to see, and no more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from durabert.bert.curve import Point

POINTS: Final = 12_000
"""Of all runs together: a page that opens at once."""
MOST_POINTS: Final = 400
"""Of one run: more than a screen has room for."""
FEWEST_POINTS: Final = 40


def points_of_a_run(num_runs: int) -> int:
    """Return how many points each of so many runs may have."""
    return max(FEWEST_POINTS, min(MOST_POINTS, POINTS // max(1, num_runs)))


def thinned(points: Sequence[Point], most: int) -> dict[str, list[Any]]:
    """Return a curve in columns, each value that of a stretch of steps.

    Losses are means by example, speeds are examples over seconds, learning rates those of the last step.
    A loss that is not finite is left out.
    """
    columns: dict[str, list[Any]] = {"step": [], "loss": [], "rate": [], "speed": []}
    for stretch in _stretches(points, most):
        examples = sum(point.examples for point in stretch)
        seconds = sum(point.seconds for point in stretch)
        loss = sum(point.loss * point.examples for point in stretch) / examples if examples else math.nan
        columns["step"].append(stretch[-1].step)
        columns["loss"].append(rounded(loss))
        columns["rate"].append(rounded(stretch[-1].learning_rate))
        columns["speed"].append(rounded(examples / seconds if seconds else math.nan))
    return columns


def smoothed(values: Sequence[float | None], weight: float = 0.9) -> list[float | None]:
    """Return an exponential moving average that does not begin at zero; gaps stay gaps.

    Source:
        Bias correction: Kingma and Ba 2015, Adam, section 3.
    """
    average, total = 0.0, 0.0
    result: list[float | None] = []
    for value in values:
        if value is None:
            result.append(None)
            continue
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        result.append(rounded(average / total))
    return result


def rounded(value: float) -> float | None:
    """Return a number with five digits, none if it is not finite."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _stretches(points: Sequence[Point], most: int) -> list[Sequence[Point]]:
    size = max(1, math.ceil(len(points) / most))
    return [points[start : start + size] for start in range(0, len(points), size)]
