"""What Weights & Biases is told of a run: a row for each step, and a summary."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durabert.trackers.feed import Feed


def run_id(feed: Feed) -> str:
    """Return the id that a run has at W&B: another run of the same name has another one."""
    return f"{feed.run}-{feed.identity[:8]}" if feed.identity else feed.run


def rows_of(feed: Feed) -> dict[int, dict[str, float]]:
    """Return what is logged for each step, in the order of the steps.

    W&B takes nothing for a step that it has passed. So the newest one waits until its validation or a later
    step is there, or the run is completed; one that failed may go on, and be validated then.
    """
    rows: dict[int, dict[str, float]] = {}
    for name, values in feed.series.items():
        for value in values:
            if not name.startswith("test/"):
                row = rows.setdefault(value.step, {"_timestamp": value.time.timestamp()})
                row[name] = value.value
    if rows and feed.status != "completed":
        newest = max(rows)
        if not any(name.startswith("validation/") for name in rows[newest]):
            del rows[newest]
    return dict(sorted(rows.items()))


def summary_of(feed: Feed) -> dict[str, Any]:
    """Return what is told of the run as a whole."""
    tested = {name: values[-1].value for name, values in feed.series.items() if name.startswith("test/")}
    return tested | {name.replace(".", "/"): text for name, text in feed.tags.items()}


def digest_of(feed: Feed) -> str:
    """Return by what two feeds are told apart."""
    series = {name: [(value.step, value.value) for value in values] for name, values in feed.series.items()}
    told = json.dumps([feed.status, dict(feed.parameters), dict(feed.tags), series])
    return hashlib.sha256(told.encode()).hexdigest()
