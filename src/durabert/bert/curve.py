"""The curve of a training: one point a step, kept in pieces that fit end to end."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.errors import ArtifactDamaged


@dataclass(frozen=True)
class Point:
    """What one optimizer step told."""

    step: int
    """From 1."""
    epoch: int
    """From 1."""
    loss: float
    learning_rate: float
    examples: int
    tokens: int
    """Without padding."""
    seconds: float
    """Of the step."""


def to_parquet(points: Sequence[Point]) -> bytes:
    """Return a Parquet file of points."""
    names = [field.name for field in fields(Point)]
    rows = [astuple(point) for point in points]
    columns = {name: [row[number] for row in rows] for number, name in enumerate(names)}
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink, compression="zstd")
    return sink.getvalue()


def from_parquet(data: bytes) -> list[Point]:
    """Read what ``to_parquet`` wrote.

    Raises:
        ArtifactDamaged: it is something else.
    """
    try:
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        return [Point(**row) for row in rows]
    except (pa.ArrowException, OSError, TypeError) as error:
        raise ArtifactDamaged(f"a piece of the curve cannot be read: {error!s:.100}") from None
