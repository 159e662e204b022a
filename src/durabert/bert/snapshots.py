"""Snapshots: a data set as it was, every split and every column, under an id that its content decides.

The id is the SHA-256 of, in this order,

1. the names of the classes of each column whose source declares them;
2. for each split, by name: its name and the names of its columns, sorted;
3. for each row of the split, in order: the text of each value, by the name of its column.

The text of a value: a string is itself; a number is its shortest digits (``1``, ``1.0``, ``0.1``); a truth
value is ``true`` or ``false``; lists and objects are JSON with sorted names; dates are ISO 8601; bytes are
hexadecimal; nothing, not-a-number and the empty string are all nothing. So the id of a table is the same in
CSV, JSON lines, JSON, Parquet or Arrow, whatever the file is called, however its columns are ordered and its
rows are grouped and compressed. An integer 1 and a float 1.0 differ, as ``1`` and ``1.0`` in a CSV file do.

Beside the rows a snapshot remembers what messages say of them: the names of the files and the line numbers.
Those are not in the id.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.bert.records import Record, RecordSource
from durabert.bert.schema import choose_columns
from durabert.bert.sources import Sources, find_sources
from durabert.errors import ArtifactDamaged
from durabert.specs.data import DataSpec

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
BATCH_ROWS: Final = 4096
RECORD_COLUMN: Final = "durabert:record"
"""Line or row number in the source."""


@dataclass(frozen=True)
class Snapshot:
    """A snapshot in a local directory: ``manifest.json`` and a Parquet file a split."""

    id: str
    name: str
    """Short name of the source."""
    rows: dict[str, int]
    """By split."""
    columns: tuple[str, ...]
    notices: tuple[str, ...]


def build_snapshot(
    spec: DataSpec, directory: Path, *, on_progress: Callable[[int], None] = lambda _: None
) -> Snapshot:
    """Write the snapshot of a data set to an empty directory.

    Args:
        spec: where the rows are.
        directory: is there, and empty.
        on_progress: called with the number of rows so far; may raise.

    Raises:
        UserError: the data is not there, cannot be read, or lacks the columns that ``spec`` names.
    """
    sources = find_sources(spec)
    # Before all is read: a training on the snapshot would fail by the same sentence.
    choose_columns(sources.train, spec)
    class_names = {column: list(names) for column, names in sorted(sources.class_names.items())}
    digest = hashlib.sha256(_json([FORMAT, class_names]))
    splits: dict[str, dict[str, Any]] = {}
    done = 0
    for name, source in sorted(sources.splits().items()):
        splits[name] = _write_split(source, directory / f"{name}.parquet", name, digest, done, on_progress)
        done += splits[name]["rows"]
    manifest = {
        "format": FORMAT,
        "id": digest.hexdigest(),
        "name": sources.name,
        "class_names": class_names,
        "notices": list(sources.notices),
        "splits": splits,
    }
    (directory / MANIFEST).write_bytes(_json(manifest))
    return _snapshot(manifest)


def read_snapshot(directory: Path) -> Snapshot:
    """Return what the manifest in a directory says.

    Raises:
        ArtifactDamaged: it cannot be read.
    """
    return _snapshot(_manifest(directory))


def open_snapshot(directory: Path) -> Sources:
    """Open the splits of a snapshot, as ``find_sources`` opens those of its source.

    Raises:
        ArtifactDamaged: the manifest or a file cannot be read.
    """
    manifest = _manifest(directory)
    try:
        splits: dict[str, RecordSource] = {
            name: SnapshotSplit(directory / f"{name}.parquet", fields)
            for name, fields in manifest["splits"].items()
        }
        return Sources(
            manifest["name"],
            train=splits.pop("train"),
            validation=splits.pop("validation", None),
            test=splits.pop("test", None),
            others=splits,
            class_names={column: tuple(names) for column, names in manifest["class_names"].items()},
            notices=tuple(manifest["notices"]),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactDamaged(f"the manifest of snapshot {directory.name} lacks {error}") from None


class SnapshotSplit(RecordSource):
    """One split of a snapshot; it goes by the name of the file that it was read from."""

    def __init__(self, file: Path, fields: Mapping[str, Any]) -> None:
        super().__init__(fields["source"], list(fields["columns"]))
        self.unit = fields["unit"]
        self.typed = fields["typed"]
        self._json = {name for name, kind in fields["columns"].items() if kind == "json"}
        self._notices = list(fields["notices"])
        self._file = file

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns`` only."""
        wanted = self.columns if columns is None else [name for name in columns if name in self.columns]
        try:
            with pq.ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20) as file:
                for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=[RECORD_COLUMN, *wanted]):
                    for fields in batch.to_pylist():
                        yield Record(fields.pop(RECORD_COLUMN), self._decoded(fields))
        except (pa.ArrowException, OSError) as error:
            raise ArtifactDamaged(f"{self._file.name} of the snapshot cannot be read: {error}") from None
        self.notices[:] = self._notices

    def _decoded(self, fields: dict[str, Any]) -> dict[str, Any]:
        for name in self._json & fields.keys():
            if fields[name] is not None:
                fields[name] = json.loads(fields[name])
        return fields


class _OtherType(Exception):
    """A column holds values that one Arrow type cannot hold, or not exactly."""

    def __init__(self, column: str) -> None:
        super().__init__(column)
        self.column = column


def _write_split(
    source: RecordSource,
    file: Path,
    name: str,
    digest: Any,
    done: int,
    on_progress: Callable[[int], None],
) -> dict[str, Any]:
    as_json: set[str] = set()
    while True:
        attempt = digest.copy()
        try:
            rows, kinds = _write_rows(source, file, name, attempt, as_json, done, on_progress)
        except _OtherType as mixed:
            as_json.add(mixed.column)
            continue
        digest.update(attempt.digest())
        return {
            "rows": rows,
            "source": source.name,
            "unit": source.unit,
            "typed": source.typed,
            "columns": kinds,
            "notices": list(source.notices),
        }


def _write_rows(
    source: RecordSource,
    file: Path,
    name: str,
    digest: Any,
    as_json: set[str],
    done: int,
    on_progress: Callable[[int], None],
) -> tuple[int, dict[str, str]]:
    columns = sorted(source.columns)
    digest.update(_json([name, columns]) + b"\n")
    schema: Any = None
    writer: Any = None
    rows = 0
    try:
        for records in _batches(source):
            for record in records:
                digest.update(_json([canonical(record.fields.get(column)) for column in columns]) + b"\n")
            table = _table(source.columns, records, schema, as_json)
            if writer is None:
                schema = table.schema
                writer = pq.ParquetWriter(file, schema, compression="zstd")
            writer.write_table(table)
            rows += len(records)
            on_progress(done + rows)
    finally:
        if writer is not None:
            writer.close()
    kinds = {
        column: "json" if column in as_json else str(schema.field(column).type) for column in source.columns
    }
    return rows, kinds


def _batches(source: RecordSource) -> Iterator[list[Record]]:
    records = iter(source)
    while batch := list(islice(records, BATCH_ROWS)):
        yield batch


def _table(columns: Sequence[str], records: Sequence[Record], schema: Any, as_json: set[str]) -> Any:
    arrays = {RECORD_COLUMN: pa.array([record.number for record in records], pa.int64())}
    for column in columns:
        values = [record.fields.get(column) for record in records]
        kind = None if schema is None else schema.field(column).type
        arrays[column] = _array(column, values, kind, column in as_json)
    return pa.table(arrays, schema=schema)


def _array(column: str, values: list[Any], kind: Any, as_json: bool) -> Any:
    if as_json:
        return pa.array([None if value is None else _plain_json(value) for value in values], pa.string())
    if kind is None and all(value is None for value in values):
        kind = pa.string()
    try:
        array = pa.array(values, kind)
        exact = array.to_pylist() == values or any(isinstance(value, float) for value in values)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        raise _OtherType(column) from None
    if not exact:
        # Objects get every field of all of them, and a whole number among floats becomes one.
        raise _OtherType(column)
    if any(isinstance(value, int) for value in values) and pa.types.is_floating(array.type):
        raise _OtherType(column)
    return array


def canonical(value: Any) -> str | None:
    """Return the text of a value as the id of a snapshot knows it; None for nothing."""
    match value:
        case None | "":
            return None
        case str():
            return value
        case bool():
            return "true" if value else "false"
        case float() if math.isnan(value):
            return None
        case int() | float():
            return repr(value)
        case datetime() | date() | time():
            return value.isoformat()
        case bytes():
            return value.hex()
        case list() | dict() | tuple():
            return json.dumps(value, sort_keys=True, default=str)
    return str(value)


def _plain_json(value: Any) -> str:
    def plain(other: Any) -> Any:
        return base64.b64encode(other).decode() if isinstance(other, bytes) else str(other)

    return json.dumps(value, default=plain)


def _snapshot(manifest: Mapping[str, Any]) -> Snapshot:
    splits = manifest["splits"]
    return Snapshot(
        id=manifest["id"],
        name=manifest["name"],
        rows={name: fields["rows"] for name, fields in splits.items()},
        columns=tuple(splits["train"]["columns"]),
        notices=tuple(manifest["notices"]),
    )


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((directory / MANIFEST).read_bytes())
    except (OSError, ValueError) as error:
        raise ArtifactDamaged(f"the manifest of snapshot {directory.name} cannot be read: {error}") from None
    return manifest


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
