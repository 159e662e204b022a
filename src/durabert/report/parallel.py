"""Parallel coordinates: how settings and the metric go together, over many runs.

Source:
    Inselberg 1985, The plane with parallel coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from durabert.report.curves import rounded
from durabert.report.facts import plain

FEWEST_RUNS: Final = 4
MOST_AXES: Final = 8
MOST_VALUES: Final = 12
"""Of a setting that is no number; one with more, such as a path for each run, has no axis."""
LOGARITHMIC: Final = 20.0
"""Ratio of the largest to the smallest value from which an axis is logarithmic."""


@dataclass(frozen=True)
class Axis:
    """One axis, from 0 to 1."""

    name: str
    places: Sequence[float | None]
    """Of each run."""
    labels: Sequence[str]
    """Of each run."""
    ticks: Sequence[tuple[float, str]]


def parallel(
    settings: Mapping[str, Sequence[Any]], measured: str, scores: Sequence[float | None]
) -> dict[str, Any]:
    """Return the axes and lines of the diagram; empty where there is too little to see.

    Args:
        settings: values of each setting that differs, one a run.
        measured: what the last axis is called.
        scores: what it shows, one a run; none where there is none.
    """
    axes = [axis for name, values in settings.items() if (axis := _axis(name, values)) is not None]
    if len([one for one in scores if one is not None]) < FEWEST_RUNS or len(axes) < 2:
        return {}
    shown = [*axes[: MOST_AXES - 1], _numeric(measured, scores)]
    return {
        "axes": [axis.name for axis in shown],
        "ticks": [
            {"axis": axis.name, "at": rounded(at), "label": label}
            for axis in shown
            for at, label in axis.ticks
        ],
        "places": [[rounded(at) if at is not None else None for at in axis.places] for axis in shown],
        "labels": [list(axis.labels) for axis in shown],
    }


def _axis(name: str, values: Sequence[Any]) -> Axis | None:
    title = name.replace("_", " ")
    known = [value for value in values if value is not None]
    if known and all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return _numeric(title, values)
    names = sorted({plain(value).text for value in values})
    if len(names) > MOST_VALUES:
        return None
    places = {text: number / max(1, len(names) - 1) for number, text in enumerate(names)}
    labels = [plain(value).text for value in values]
    return Axis(title, [places[label] for label in labels], labels, [(places[text], text) for text in names])


def _numeric(title: str, values: Sequence[float | None]) -> Axis:
    known = [value for value in values if value is not None]
    low, high = min(known), max(known)
    scale = math.log if low > 0 and high / low >= LOGARITHMIC else float
    span = (scale(high) - scale(low)) or 1.0
    places = [None if value is None else (scale(value) - scale(low)) / span for value in values]
    labels = ["" if value is None else f"{value:.4g}" for value in values]
    distinct = sorted(set(known))
    marked = distinct if len(distinct) <= 5 else [low, distinct[len(distinct) // 2], high]
    ticks = [((scale(value) - scale(low)) / span, f"{value:.3g}") for value in marked]
    return Axis(title, places, labels, ticks)
