"""Values in a snapshot: their text for the id, and the Arrow arrays that give back exactly what went in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from datetime import date, datetime, time
from typing import Any

import pyarrow as pa

from durabert.bert.records import Record
from durabert.bert.snapshot_manifest import canonical_json


class OtherType(Exception):
    """A column holds values that one Arrow type cannot hold, or not exactly."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def canonical(value: Any) -> str | None:
    """Return the text of a value as the id of a snapshot knows it; None for nothing."""
    match value:
        case None | "":
            return None
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case list() | dict() | tuple():
            plain = _without_nulls(value)
            return json.dumps(plain, sort_keys=True, separators=(",", ":"), default=canonical)
    if hasattr(value, "tobytes"):
        # An image or an array, whose own text may be where it is in memory.
        return f"{type(value).__name__} {hashlib.sha256(value.tobytes()).hexdigest()}"
    return str(value)


class ContentDigest:
    """The digest of the rows of a split, whatever the order of the columns."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._columns = sorted(columns)
        self._digest = hashlib.sha256(canonical_json(self._columns) + b"\n")

    def add(self, record: Record) -> None:
        """Take one more row in."""
        texts = [canonical(record.fields.get(column)) for column in self._columns]
        self._digest.update(canonical_json(texts) + b"\n")

    def hexdigest(self) -> str:
        """Return it."""
        return self._digest.hexdigest()


def exact_array(column: str, values: Sequence[Any], kind: Any, *, as_json: bool) -> Any:
    """Return the values of a column as an array.

    Args:
        column: its name.
        values: its values in one batch of rows.
        kind: the type of the batches before; None for the first.
        as_json: write each value as JSON.

    Raises:
        OtherType: no array, or none of that kind, gives back the same values of the same types.
    """
    if as_json:
        return pa.array([None if value is None else _json(value) for value in values], pa.string())
    types = {type(value) for value in values} - {type(None)}
    if kind is None and not types:
        kind = pa.string()
    # Objects would get every field of all of them, and Parquet cannot hold one without a field.
    if len(types) > 1 or types & {list, dict, tuple}:
        raise OtherType(column)
    try:
        array = pa.array(values, kind)
        back = array.to_pylist()
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise OtherType(column) from None
    if not all(map(_same, back, values)):
        raise OtherType(column)
    return array


def _without_nulls(value: Any) -> Any:
    # Columnar files give every object all fields of all of them.
    if isinstance(value, dict):
        return {name: _without_nulls(other) for name, other in value.items() if other is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(other) for other in value]
    return value


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    # The same number may be written in two ways, such as 1.0 and 1.00.
    return bool(one == other and (isinstance(one, str) or str(one) == str(other))) or (
        isinstance(one, float) and math.isnan(one) and math.isnan(other)
    )


def from_json(text: str) -> Any:
    """Return the value that ``exact_array`` has written as JSON.

    Raises:
        ValueError: it is no JSON.
    """
    return json.loads(text)


def _json(value: Any) -> str:
    return json.dumps(value, default=canonical)
