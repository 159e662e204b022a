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
                    for fields in batch.slice(offset, BATCH_ROWS).to_pylist():
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
