"""Rows of a snapshot by their number: only the row groups that hold them are read, each verified.

The pieces of a Parquet file, its row groups and the footer that describes them, are found once with their
digests. Whoever needs rows then reads the footer and those groups, from wherever the file is.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.bert.records import Record, RecordSource
from durabert.bert.snapshot_manifest import ColumnManifest, SplitManifest
from durabert.bert.snapshots import fields_of, record_of
from durabert.errors import ArtifactDamaged
from durabert.specs import BytePiece, ParquetPieces, RowGroupPiece

MAGIC: Final = b"PAR1"
TAIL: Final = 8
"""Bytes at the end: length of the footer, and the magic."""

ReadBytes = Callable[[int, int], bytes]
"""Reads a part of the file: offset and size."""


def find_pieces(
    read: ReadBytes, whole: Iterable[bytes | memoryview], *, size: int, sha256: str
) -> ParquetPieces:
    """Find the pieces of a Parquet file and their digests; the file is read once, from its start to its end.

    Args:
        read: reads a part of it.
        whole: its content.
        size: its bytes.
        sha256: digest that the content must have.

    Raises:
        ArtifactDamaged: it is not that content, or no Parquet file.
    """
    starts, rows = _layout(read, size)
    digests, total = _digests(whole, [*starts, size])
    if total != sha256:
        raise ArtifactDamaged(f"the rows in the store have the digest {total}, but {sha256} was expected")
    *groups, footer = [
        BytePiece(offset=start, size=end - start, sha256=digest)
        for start, end, digest in zip(starts, [*starts[1:], size], digests, strict=True)
    ]
    return ParquetPieces(
        footer=footer,
        groups=[
            RowGroupPiece(**piece.model_dump(), rows=count) for piece, count in zip(groups, rows, strict=True)
        ],
    )


def _layout(read: ReadBytes, size: int) -> tuple[list[int], list[int]]:
    """Return where each row group and the footer begin, and the rows of each group."""
    tail = read(size - TAIL, TAIL)
    if size < 2 * TAIL or tail[4:] != MAGIC:
        raise ArtifactDamaged("the rows in the store are no Parquet file")
    begin = size - TAIL - int.from_bytes(tail[:4], "little")
    if begin < len(MAGIC):
        raise ArtifactDamaged("the rows in the store are no whole Parquet file")
    metadata = _metadata(begin, read(begin, size - begin))
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    return [*(_first_byte(group) for group in groups), begin], [group.num_rows for group in groups]


def _first_byte(group: Any) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return min(
        column.dictionary_page_offset if column.has_dictionary_page else column.data_page_offset
        for column in columns
    )


def _digests(whole: Iterable[bytes | memoryview], ends: Sequence[int]) -> tuple[list[str], str]:
    """Return the digests of the pieces between ``ends``, and that of all bytes."""
    total, digests, position = hashlib.sha256(), [], 0
    bounds = iter(ends)
    end = next(bounds)
    # What comes before the first end is the magic, which belongs to no piece.
    piece = hashlib.sha256()
    for data in whole:
        total.update(data)
        view = memoryview(data)
        while view:
            part = view[: end - position]
            piece.update(part)
            position += len(part)
            view = view[len(part) :]
            if position == end:
                digests.append(piece.hexdigest())
                piece = hashlib.sha256()
                end = next(bounds, -1)
    return digests[1:], total.hexdigest()


class RowGroups(RecordSource):
    """One split of a snapshot, whose rows can be read from any number on.

    Args:
        split: what the manifest says of the split.
        pieces: those of its file.
        read: reads a part of the file.
    """

    def __init__(self, split: SplitManifest, pieces: ParquetPieces, read: ReadBytes) -> None:
        super().__init__(split.source, [column.name for column in split.columns])
        self.unit = split.unit
        self.typed = split.typed
        self.num_rows = sum(group.rows for group in pieces.groups)
        self._split = split
        self._pieces = pieces
        self._read = read

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield all records, of ``columns`` only."""
        yield from self.read_rows(0, self.num_rows, columns)
        self.notices[:] = self._split.notices

    def read_rows(
        self, first_row: int, num_rows: int, columns: Sequence[str] | None = None
    ) -> Iterator[Record]:
        """Yield the records of a range of rows, one row group in memory at a time.

        Args:
            first_row: number of the first of them, from 0.
            num_rows: how many; all of them are there.
            columns: those to read; none: all.

        Raises:
            ArtifactDamaged: a piece is not what it was.
        """
        wanted = self._wanted(columns)
        end, begin = first_row + num_rows, 0
        for number, group in enumerate(self._pieces.groups):
            if begin < end and begin + group.rows > first_row:
                yield from self._group(number, wanted)[max(0, first_row - begin) : end - begin]
            begin += group.rows

    def first_without(self, column: str) -> Record | None:
        """Return the first record without a value in a column, None if every one has one."""
        wanted = self._wanted([column])
        for number in range(len(self._pieces.groups)):
            if self._may_lack(number, wanted[0].field):
                for record in self._group(number, wanted):
                    if record.fields[column] is None:
                        return record
        return None

    def type_of(self, column: str) -> str:
        """Return the Arrow type of a column, or ``json``."""
        return self._wanted([column])[0].type

    def _wanted(self, columns: Sequence[str] | None) -> list[ColumnManifest]:
        return [column for column in self._split.columns if columns is None or column.name in columns]

    def _may_lack(self, number: int, field: str) -> bool:
        group = self._footer.row_group(number)
        columns = (group.column(place) for place in range(group.num_columns))
        # A list has columns of its own below it.
        parts = [column for column in columns if column.path_in_schema.partition(".")[0] == field]
        counts = [part.statistics.null_count for part in parts if part.is_stats_set]
        return len(counts) < len(parts) or any(count != 0 for count in counts)

    def _group(self, number: int, wanted: Sequence[ColumnManifest]) -> list[Record]:
        group = self._pieces.groups[number]
        piece = _Piece(group.offset, self._verified(group))
        try:
            with pq.ParquetFile(piece, metadata=self._footer, pre_buffer=False) as file:
                table = file.read_row_group(number, columns=fields_of(wanted), use_threads=False)
            records = [record_of(fields, wanted) for fields in table.to_pylist()]
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactDamaged(f"row group {number} cannot be read: {error!s:.120}") from None
        if len(records) != group.rows:
            raise ArtifactDamaged(
                f"row group {number} has {len(records)} rows, but {group.rows} were expected"
            )
        return records

    @cached_property
    def _footer(self) -> Any:
        footer = self._pieces.footer
        return _metadata(footer.offset, self._verified(footer))

    def _verified(self, piece: BytePiece) -> bytes:
        data = self._read(piece.offset, piece.size)
        found = hashlib.sha256(data).hexdigest()
        if found != piece.sha256:
            raise ArtifactDamaged(
                f"bytes {piece.offset} to {piece.offset + piece.size} of the rows in the store have the "
                f"digest {found}, but {piece.sha256} was expected"
            )
        return data


def _metadata(offset: int, footer: bytes) -> Any:
    try:
        return pq.read_metadata(_Piece(offset, footer))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactDamaged(f"the rows in the store are no Parquet file: {error!s:.120}") from None


class _Piece(io.RawIOBase):
    """A file of which only a part is there, at its place."""

    def __init__(self, offset: int, data: bytes) -> None:
        super().__init__()
        self._offset = offset
        self._data = memoryview(data)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._offset + len(self._data)}
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        # Whoever looks for the footer reads more of the end than it needs: of what comes before, zeros do.
        before = max(0, self._offset - self._position)
        wanted = before + len(self._data) if size < 0 else size
        begin = max(0, self._position - self._offset)
        data = bytes(min(before, wanted)) + bytes(self._data[begin : begin + max(0, wanted - before)])
        self._position += len(data)
        return data
