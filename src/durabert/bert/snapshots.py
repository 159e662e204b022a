"""Snapshots: a data set as it was, every split and every column, under an id that its content decides.

The id is the SHA-256 of, in this order,

1. the names of the classes of each column whose source declares them;
2. for each split, by name: its name and the names of its columns, sorted;
3. for each row of the split, in order: the text of each value, by the name of its column.

The text of a value: a string is itself; a number is its shortest digits (``1``, ``1.0``, ``0.1``); a truth
value is ``true`` or ``false``; lists and objects are JSON without blanks, their names sorted and those that
are null left out; dates are ISO 8601; bytes are hexadecimal; null, not-a-number and the empty string are
nothing. So the id of a table is the same in CSV, TSV, JSON lines, JSON, Parquet or Arrow, whatever the file
is called, however its columns are ordered and its rows are grouped and compressed. An integer 1 and a float
1.0 differ, as ``1`` and ``1.0`` in a CSV file do. The columns of JSON lines are those of the first 1,000
objects.

Beside the rows a snapshot remembers what messages say of them: the names of the files and the line numbers.
Those are not in the id.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError

from durabert.bert.records import Record, RecordSource
from durabert.bert.schema import choose_columns
from durabert.bert.snapshot_values import OtherType, canonical, exact_array, from_json
from durabert.bert.sources import Sources, find_sources
from durabert.errors import ArtifactDamaged, DataInvalid
from durabert.specs.data import DataSpec

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
BATCH_ROWS: Final = 4096
RESERVED: Final = "durabert:"
RECORD_COLUMN: Final = f"{RESERVED}record"
"""Line or row number in the source."""


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("a string was expected")  # noqa: TRY004 - pydantic turns it into its own error
    return value


Text = Annotated[str, PlainValidator(_text)]
"""Any string: names of files and columns may hold half a surrogate pair, which pydantic refuses."""


class _Part(BaseModel):
    # What a store gave is not trusted: nothing is converted, and nothing unknown is passed over.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ColumnManifest(_Part):
    """One column of a split."""

    name: Text
    field: Text
    """Its name in the Parquet file, which cannot hold every name."""
    type: Text
    """Arrow type, or ``json``."""


class SplitManifest(_Part):
    """One split; its rows are in ``<split>.parquet``."""

    rows: int = Field(ge=0)
    source: Text
    """The file, as the user named it."""
    unit: Literal["line", "row"]
    typed: bool
    columns: list[ColumnManifest]
    notices: list[Text]


class Manifest(_Part):
    """What ``manifest.json`` says."""

    format: Literal[1]
    id: str = Field(pattern="^[0-9a-f]{64}$")
    name: Text
    class_names: dict[Text, list[Text]]
    notices: list[Text]
    splits: dict[str, SplitManifest]


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
    splits: dict[str, SplitManifest] = {}
    done = 0
    for name, source in sorted(sources.splits().items()):
        writer = _SplitWriter(source, directory / f"{name}.parquet", name, done, on_progress)
        splits[name] = writer.write(digest)
        done += splits[name].rows
    manifest = Manifest(
        format=FORMAT,
        id=digest.hexdigest(),
        name=sources.name,
        class_names=class_names,
        notices=list(sources.notices),
        splits=splits,
    )
    (directory / MANIFEST).write_bytes(_json(manifest.model_dump()))
    return _snapshot(manifest)


def read_snapshot(directory: Path) -> Snapshot:
    """Return what the manifest in a directory says.

    Raises:
        ArtifactDamaged: it cannot be read.
    """
    return _snapshot(read_manifest(directory))


def parse_snapshot(data: bytes, snapshot: str) -> Snapshot:
    """Return what the content of a ``manifest.json`` says.

    Args:
        data: the content.
        snapshot: id of the snapshot.

    Raises:
        ArtifactDamaged: it cannot be believed.
    """
    return _snapshot(_parsed(data, Path(snapshot)))


def open_snapshot(directory: Path) -> Sources:
    """Open the splits of a snapshot, as ``find_sources`` opens those of its source.

    Raises:
        ArtifactDamaged: the manifest cannot be read; a file that cannot be read raises it when it is.
    """
    manifest = read_manifest(directory)
    splits: dict[str, RecordSource] = {
        name: SnapshotSplit(directory / f"{name}.parquet", split) for name, split in manifest.splits.items()
    }
    return Sources(
        manifest.name,
        train=splits.pop("train"),
        validation=splits.pop("validation", None),
        test=splits.pop("test", None),
        others=splits,
        class_names={column: tuple(names) for column, names in manifest.class_names.items()},
        notices=tuple(manifest.notices),
    )


def read_manifest(directory: Path) -> Manifest:
    """Return the manifest in a directory.

    Raises:
        ArtifactDamaged: it cannot be read or believed.
    """
    try:
        data = (directory / MANIFEST).read_bytes()
    except OSError as error:
        raise _damaged(directory, f"its manifest cannot be read: {error.strerror}") from None
    return _parsed(data, directory)


def _parsed(data: bytes, directory: Path) -> Manifest:
    try:
        manifest = Manifest.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise _damaged(directory, f"{where}: {first['msg'].lower()}") from None
    except (ValueError, RecursionError) as error:
        raise _damaged(directory, f"its manifest is no JSON: {error}") from None
    if "train" not in manifest.splits:
        raise _damaged(directory, "it has no split 'train'")
    for name, split in manifest.splits.items():
        # A name becomes a path on this machine.
        if not name.replace("-", "_").replace(".", "_").isidentifier():
            raise _damaged(directory, f"{name!r:.80} is no name of a split")
        if len({column.name for column in split.columns}) < len(split.columns):
            raise _damaged(directory, f"the split {name!r} has a column twice")
    return manifest


class SnapshotSplit(RecordSource):
    """One split of a snapshot; it goes by the name of the file that it was read from."""

    def __init__(self, file: Path, split: SplitManifest) -> None:
        super().__init__(split.source, [column.name for column in split.columns])
        self.unit = split.unit
        self.typed = split.typed
        self._split = split
        self._file = file

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns`` only."""
        wanted = [column for column in self._split.columns if columns is None or column.name in columns]
        rows = 0
        try:
            for fields in _parquet_rows(self._file, [RECORD_COLUMN, *(column.field for column in wanted)]):
                rows += 1
                yield Record(
                    fields[RECORD_COLUMN], {column.name: _value(fields, column) for column in wanted}
                )
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise _damaged(self._file.parent, f"{self._file.name}: {reason:.120}") from None
        if rows != self._split.rows:
            raise _damaged(
                self._file.parent, f"{self._file.name} has {rows} rows, but {self._split.rows} were expected"
            )
        self.notices[:] = self._split.notices


def _parquet_rows(path: Path, fields: list[str]) -> Iterator[dict[str, Any]]:
    # Pre-buffering would hold every row group in memory.
    with pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20) as file:
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=fields):
            yield from batch.to_pylist()


def _value(fields: dict[str, Any], column: ColumnManifest) -> Any:
    value = fields[column.field]
    return from_json(value) if column.type == "json" and value is not None else value


@dataclass
class _SplitWriter:
    source: RecordSource
    file: Path
    name: str
    done: int
    on_progress: Callable[[int], None]

    def __post_init__(self) -> None:
        self.as_json: set[str] = set()
        self.fields = {column: _field(column, number) for number, column in enumerate(self.source.columns)}

    def write(self, digest: Any) -> SplitManifest:
        """Write all rows, and add them to the digest."""
        while True:
            attempt = digest.copy()
            try:
                rows, schema = self._write_rows(attempt)
            except OtherType as mixed:
                self.as_json.add(mixed.column)
                continue
            digest.update(attempt.digest())
            return self._manifest(rows, schema)

    def _manifest(self, rows: int, schema: Any) -> SplitManifest:
        columns = [
            ColumnManifest(
                name=column,
                field=field,
                type="json" if column in self.as_json else str(schema.field(field).type),
            )
            for column, field in self.fields.items()
        ]
        return SplitManifest(
            rows=rows,
            source=self.source.name,
            unit="line" if self.source.unit == "line" else "row",
            typed=self.source.typed,
            columns=columns,
            notices=list(self.source.notices),
        )

    def _write_rows(self, digest: Any) -> tuple[int, Any]:
        columns = sorted(self.source.columns)
        digest.update(_json([self.name, columns]) + b"\n")
        schema: Any = None
        writer: Any = None
        rows = 0
        try:
            for records in _batches(self.source):
                for record in records:
                    texts = [canonical(record.fields.get(column)) for column in columns]
                    digest.update(_json(texts) + b"\n")
                table = self._table(records, schema)
                if writer is None:
                    schema = table.schema
                    writer = pq.ParquetWriter(self.file, schema, compression="zstd")
                writer.write_table(table)
                rows += len(records)
                self.on_progress(self.done + rows)
        finally:
            if writer is not None:
                writer.close()
        if writer is None:
            raise DataInvalid(f"{self.source.name} has no rows; at least one row was expected")
        return rows, schema

    def _table(self, records: Sequence[Record], schema: Any) -> Any:
        arrays = {RECORD_COLUMN: pa.array([record.number for record in records], pa.int64())}
        for column, field in self.fields.items():
            values = [record.fields.get(column) for record in records]
            kind = None if schema is None else schema.field(field).type
            arrays[field] = exact_array(column, values, kind, as_json=column in self.as_json)
        return pa.table(arrays, schema=schema)


def _field(column: str, number: int) -> str:
    # A dot would be taken for a path into an object, and half a surrogate pair cannot be encoded.
    plain = column.isprintable() and "." not in column and not column.startswith(RESERVED)
    return column if plain else f"{RESERVED}{number}"


def _batches(source: RecordSource) -> Iterator[list[Record]]:
    records = iter(source)
    while batch := list(islice(records, BATCH_ROWS)):
        yield batch


def _snapshot(manifest: Manifest) -> Snapshot:
    return Snapshot(
        id=manifest.id,
        name=manifest.name,
        rows={name: split.rows for name, split in manifest.splits.items()},
        columns=tuple(column.name for column in manifest.splits["train"].columns),
        notices=tuple(manifest.notices),
    )


def _damaged(directory: Path, reason: str) -> ArtifactDamaged:
    return ArtifactDamaged(f"snapshot {directory.name[:12]} is damaged: {reason}")


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
