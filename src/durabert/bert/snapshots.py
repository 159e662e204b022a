"""Snapshots: a data set as it was, every split and every column, under an id that its content decides.

The id is the SHA-256 of the JSON ``{"class_names":C,"format":1,"splits":S}``. C holds the names of the
classes of each column whose source declares them. S holds for each split, by its name, the SHA-256 of these
lines, each ended by a line feed: the names of the columns, sorted, as a JSON list; then for each row, in
order, the texts of its values in the order of those names, as a JSON list. JSON is ASCII without blanks, with
sorted names.

The text of a value: a string is itself; a whole number is its digits, another number the fewest digits that
give it back (``1``, ``1.0``, ``0.1``, ``nan``, ``inf``); a truth value is ``true`` or ``false``; lists and
objects are JSON, without the names whose value is null; dates are ISO 8601; bytes are hexadecimal; null and
the empty string are both null. So the id of a table is the same in CSV, TSV, JSON lines, JSON, Parquet or
Arrow, whatever the file is called, however its columns are ordered and its rows are grouped and compressed.
An integer 1 and a float 1.0 differ, as ``1`` and ``1.0`` in a CSV file do. The columns of JSON lines are
those of the first 1,000 objects.

Beside the rows a snapshot remembers what messages say of them: the names of the files and the line numbers.
Those are not in the id.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.bert.records import Record, RecordSource
from durabert.bert.schema import choose_columns, require_columns
from durabert.bert.snapshot_manifest import (
    FORMAT,
    MANIFEST,
    ColumnManifest,
    Manifest,
    SplitManifest,
    canonical_json,
    content_id,
    damaged,
    file_of,
    parse_manifest,
    read_manifest,
)
from durabert.bert.snapshot_values import ContentDigest, OtherType, exact_array, from_json
from durabert.bert.sources import Sources, find_sources, with_named_files
from durabert.errors import DataInvalid
from durabert.specs.data import DataSpec

BATCH_ROWS: Final = 4096
RESERVED: Final = "durabert:"
RECORD_COLUMN: Final = f"{RESERVED}record"
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
    spec: DataSpec,
    directory: Path,
    *,
    base: Path | None = None,
    labelled: bool = True,
    on_progress: Callable[[int], None] = lambda _: None,
) -> Snapshot:
    """Write the snapshot of a data set to an empty directory.

    Args:
        spec: where the rows are.
        directory: is there, and empty.
        base: directory of a snapshot in place of the source; files that ``spec`` names replace its splits.
        labelled: it is to be trained on, so that it must have texts and labels.
        on_progress: called with the number of rows so far; may raise.

    Raises:
        UserError: the data is not there, cannot be read, or lacks the columns that ``spec`` names.
    """
    sources = find_sources(spec) if base is None else with_named_files(open_snapshot(base), spec)
    if labelled:
        _check_columns(sources, spec)
    class_names = {column: list(names) for column, names in sources.class_names.items()}
    splits: dict[str, SplitManifest] = {}
    done = 0
    for name, source in sorted(sources.splits().items()):
        splits[name] = _SplitWriter(source, directory / file_of(name), done, on_progress).write()
        done += splits[name].rows
    manifest = Manifest(
        format=FORMAT,
        id=content_id(class_names, {name: split.sha256 for name, split in splits.items()}),
        name=sources.name,
        class_names=class_names,
        notices=list(sources.notices),
        splits=splits,
    )
    (directory / MANIFEST).write_bytes(canonical_json(manifest.model_dump()))
    return _snapshot(manifest)


def check_content(directory: Path) -> None:
    """Compute the id of a snapshot anew from its rows.

    Raises:
        ArtifactDamaged: it is another one, or a file cannot be read.
    """
    manifest = read_manifest(directory)
    for name, split in open_snapshot(directory).splits().items():
        digest = ContentDigest(split.columns)
        for record in split:
            digest.add(record)
        if digest.hexdigest() != manifest.splits[name].sha256:
            raise damaged(directory, f"the rows of the split {name!r:.80} are not those of its id")


def _check_columns(sources: Sources, spec: DataSpec) -> None:
    # Before all is read: a training on the snapshot would fail by the same sentences.
    columns = choose_columns(sources.train, spec)
    if sources.validation is not None:
        require_columns(sources.validation, (*columns.texts, columns.label))
    if sources.test is not None and columns.label in sources.test.columns:
        require_columns(sources.test, columns.texts)


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
    return _snapshot(parse_manifest(data, Path(snapshot)))


def open_snapshot(directory: Path) -> Sources:
    """Open the splits of a snapshot, as ``find_sources`` opens those of its source.

    Raises:
        ArtifactDamaged: the manifest cannot be read; a file that cannot be read raises it when it is.
    """
    manifest = read_manifest(directory)
    splits: dict[str, RecordSource] = {
        name: SnapshotSplit(directory / file_of(name), split) for name, split in manifest.splits.items()
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
            for fields in _parquet_rows(self._file, fields_of(wanted)):
                rows += 1
                yield record_of(fields, wanted)
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).partition("\n")[0]
            raise damaged(self._file.parent, f"{self._file.name}: {reason:.120}") from None
        if rows != self._split.rows:
            raise damaged(
                self._file.parent, f"{self._file.name} has {rows} rows, but {self._split.rows} were expected"
            )
        self.notices[:] = self._split.notices


def fields_of(columns: Sequence[ColumnManifest]) -> list[str]:
    """Return the names in the Parquet file that are read for the records of ``columns``."""
    return [RECORD_COLUMN, *(column.field for column in columns)]


def record_of(fields: dict[str, Any], columns: Sequence[ColumnManifest]) -> Record:
    """Return the record of one row of the Parquet file."""
    return Record(fields[RECORD_COLUMN], {column.name: _value(fields, column) for column in columns})


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
    done: int
    on_progress: Callable[[int], None]

    def __post_init__(self) -> None:
        self.as_json: set[str] = set()
        self.fields = {column: _field(column, number) for number, column in enumerate(self.source.columns)}

    def write(self) -> SplitManifest:
        """Write all rows."""
        while True:
            digest = ContentDigest(self.source.columns)
            try:
                rows, schema = self._write_rows(digest)
            except OtherType as mixed:
                self.as_json.add(mixed.column)
                continue
            return self._manifest(rows, digest.hexdigest(), schema)

    def _manifest(self, rows: int, sha256: str, schema: Any) -> SplitManifest:
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
            sha256=sha256,
            source=self.source.name,
            unit="line" if self.source.unit == "line" else "row",
            typed=self.source.typed,
            columns=columns,
            notices=list(self.source.notices),
        )

    def _write_rows(self, digest: ContentDigest) -> tuple[int, Any]:
        schema: Any = None
        writer: Any = None
        rows = 0
        try:
            for records in _batches(self.source):
                for record in records:
                    digest.add(record)
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
