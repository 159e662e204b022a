"""JSON lines, and JSON files that are one list of objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Final

from durabert.bert.inspection import Tally, counted
from durabert.bert.records.base import Record, RecordSource
from durabert.bert.records.textlines import TextLines
from durabert.errors import DataInvalid

HEADER_ROWS: Final = 1000
"""How many objects are looked at for the names of columns: any of them may lack some."""

KINDS: Final = {list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}


class JsonLinesFile(RecordSource):
    """One JSON object a line."""

    def __init__(self, path: Path, *, encoding: str) -> None:
        self.name = str(path)
        self._lines = TextLines(path, encoding)
        first = islice((fields for _, fields in self._objects(Tally(self.unit))), HEADER_ROWS)
        columns = list(dict.fromkeys(column for fields in first for column in fields))
        if not columns:
            raise DataInvalid(f"{path} is empty; at least one line with a JSON object was expected")
        super().__init__(self.name, columns)

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns``."""
        empty = Tally(self.unit)
        for number, fields in self._objects(empty):
            yield Record(number, _only(fields, columns))
        self.notices[:] = [f"{counted(empty.count, 'empty line')} skipped {empty}"] if empty.count else []

    def _objects(self, empty: Tally) -> Iterator[tuple[int, dict[str, Any]]]:
        for number, line in enumerate(self._lines, start=1):
            if line.isspace():
                empty.add(number)
                continue
            place = f"{self.name}: line {number}"
            yield number, _object(_parsed(line, place), place)


class JsonFile(RecordSource):
    """A list of JSON objects, loaded as a whole."""

    unit = "row"

    def __init__(self, path: Path, *, encoding: str) -> None:
        rows = _parsed("".join(TextLines(path, encoding)), str(path))
        if not isinstance(rows, list):
            raise DataInvalid(
                f"{path} holds {KINDS.get(type(rows), 'one object')}, but a list of objects was expected; "
                'for one object a line set format = "jsonl"'
            )
        self._rows = [_object(row, f"{path}: row {number}") for number, row in enumerate(rows, start=1)]
        columns = list(dict.fromkeys(column for row in self._rows for column in row))
        if not columns:
            raise DataInvalid(f"{path} is empty; a list with at least one object was expected")
        super().__init__(str(path), columns)

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns``."""
        for number, row in enumerate(self._rows, start=1):
            yield Record(number, _only(row, columns))


def is_json_lines(path: Path, *, encoding: str) -> bool:
    """Tell whether a file named ``.json`` has one object a line, as many of them do."""
    line = next((line for line in TextLines(path, encoding) if not line.isspace()), "")
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _parsed(text: str, place: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise DataInvalid(f"{place} is not valid JSON ({error.msg} at {where})") from None
    except RecursionError:
        raise DataInvalid(f"{place} is not usable JSON (nested too deeply)") from None
    except ValueError as error:
        raise DataInvalid(f"{place} is not usable JSON ({error})") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"an object has the field {twice!r} more than once")
    return fields


def _object(value: Any, place: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        kind = KINDS.get(type(value), "null")
        raise DataInvalid(f"{place} is {kind}, but a JSON object was expected")
    return value


def _only(fields: dict[str, Any], columns: Sequence[str] | None) -> dict[str, Any]:
    return fields if columns is None else {name: fields[name] for name in columns if name in fields}
