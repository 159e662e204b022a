"""Parquet and Arrow files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.bert.records.base import Record, RecordSource
from durabert.errors import DataInvalid

BATCH_ROWS: Final = 1024
"""Rows turned into Python objects at a time."""
ARROW_MAGIC: Final = b"ARROW1"
"""First bytes of the Arrow file format; the stream format has none."""


def rows_of(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch; what Python has no value for, such as a day in the year 12000, is text."""
    columns = [_values(column) for column in batch.columns]
    for values in zip(*columns, strict=True):
        yield dict(zip(batch.schema.names, values, strict=True))


def _values(array: Any) -> list[Any]:
    try:
        return array.to_pylist()
    except (ValueError, OverflowError):
        pass
    if not pa.types.is_nested(array.type):
        return array.cast(pa.string()).to_pylist()
    # Lists and objects have no text of their own; unabridged, as the id of a snapshot goes by it.
    parts = (array.slice(place, 1) for place in range(len(array)))
    return [None if part.null_count else part.to_string(window=2**30, skip_new_lines=True) for part in parts]


class ColumnarFile(RecordSource):
    """Rows of a file that is read in batches of typed columns."""

    unit = "row"
    kind: str

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            columns = self._columns()
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(path, error) from None
        super().__init__(str(path), columns)

    @abstractmethod
    def _columns(self) -> list[str]: ...

    @abstractmethod
    def _batches(self, columns: list[str]) -> Iterator[Any]: ...

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns`` only."""
        number = 0
        try:
            for batch in self._batches(self.columns if columns is None else list(columns)):
                for offset in range(0, batch.num_rows, BATCH_ROWS):
                    for fields in rows_of(batch.slice(offset, BATCH_ROWS)):
                        number += 1
                        yield Record(number, fields)
        except (pa.ArrowException, OSError) as error:
            raise self._unreadable(self._path, error) from None
        if not number:
            raise self.no_rows()

    def _unreadable(self, path: Path, error: Exception) -> DataInvalid:
        reason = str(error).partition("\n")[0].strip().rstrip(".")
        return DataInvalid(f"{path} cannot be read as {self.kind} ({reason})")


class ParquetFile(ColumnarFile):
    """A Parquet file."""

    kind = "Parquet"

    def _open(self) -> Any:
        # Pre-buffering would hold every row group in memory.
        return pq.ParquetFile(self._path, pre_buffer=False, buffer_size=1 << 20)

    def _columns(self) -> list[str]:
        with self._open() as file:
            return list(file.schema_arrow.names)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        with self._open() as file:
            yield from file.iter_batches(batch_size=BATCH_ROWS, columns=columns)


class ArrowFile(ColumnarFile):
    """An Arrow IPC file or stream."""

    kind = "Arrow"

    def _columns(self) -> list[str]:
        with pa.memory_map(str(self._path)) as raw:
            return list(self._reader(raw).schema.names)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        # Mapped: a writer may have put all rows into one batch, and a copy of it may not fit.
        with pa.memory_map(str(self._path)) as raw:
            reader = self._reader(raw)
            if isinstance(reader, pa.RecordBatchFileReader):
                batches = (reader.get_batch(index) for index in range(reader.num_record_batches))
            else:
                batches = iter(reader)
            for batch in batches:
                yield batch.select(columns)

    def _reader(self, raw: Any) -> Any:
        is_file = raw.read(len(ARROW_MAGIC)) == ARROW_MAGIC
        raw.seek(0)
        return pa.ipc.open_file(raw) if is_file else pa.ipc.open_stream(raw)
