"""Rows by their number: those that were asked for, from the row groups that hold them and no others."""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path

import pytest

from durabert.bert.row_groups import RowGroups, find_pieces
from durabert.bert.snapshot_manifest import read_manifest
from durabert.bert.snapshots import BATCH_ROWS, build_snapshot, open_snapshot
from durabert.errors import ArtifactDamaged
from durabert.specs import DataSpec, ParquetPieces

NUM_ROWS = 2 * BATCH_ROWS + 100


class FileInParts:
    """A file that remembers which of its bytes were read."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        self.parts: list[tuple[int, int]] = []

    def read(self, offset: int, size: int) -> bytes:
        self.parts.append((offset, size))
        return self.data[offset : offset + size]

    def pieces(self) -> ParquetPieces:
        halves = [self.data[:1000], self.data[1000:]]
        return find_pieces(
            self.read, halves, size=len(self.data), sha256=hashlib.sha256(self.data).hexdigest()
        )


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("snapshot")
    lines = [f'{{"id": {n}, "text": "film {n}", "odd.name": [{n}]}}' for n in range(NUM_ROWS)]
    lines[BATCH_ROWS + 3] = '{"id": null, "text": "film", "odd.name": null}'
    (directory / "rows.jsonl").write_text("\n".join(lines))
    (directory / "to").mkdir()
    build_snapshot(DataSpec(source=str(directory / "rows.jsonl")), directory / "to", labelled=False)
    return directory / "to"


@pytest.fixture
def file(snapshot) -> FileInParts:
    return FileInParts(snapshot / "train.parquet")


@pytest.fixture
def rows(snapshot, file) -> RowGroups:
    source = RowGroups(read_manifest(snapshot).splits["train"], file.pieces(), file.read)
    file.parts.clear()
    return source


@pytest.mark.parametrize(
    ("first", "count"),
    [
        (0, 1), (0, NUM_ROWS), (BATCH_ROWS - 1, 2), (BATCH_ROWS, BATCH_ROWS), (5, BATCH_ROWS),
        (NUM_ROWS - 1, 1), (BATCH_ROWS // 2, 2 * BATCH_ROWS),
    ],
)  # fmt: skip
def test_a_range_gives_the_records_of_the_whole_split(snapshot, rows, first, count):
    everything = list(open_snapshot(snapshot).train)

    assert list(rows.read_rows(first, count)) == everything[first : first + count]


def test_a_range_reads_the_footer_and_its_row_groups_alone(rows, file):
    pieces = file.pieces()
    file.parts.clear()

    [record] = rows.read_rows(BATCH_ROWS, 1, ["text"])

    footer, group = pieces.footer, pieces.groups[1]
    assert record.fields == {"text": f"film {BATCH_ROWS}"}
    assert sorted(file.parts) == [(group.offset, group.size), (footer.offset, footer.size)]


def test_pieces_cover_the_file_without_a_gap(file):
    pieces = file.pieces()

    every = [*pieces.groups, pieces.footer]
    assert [group.rows for group in pieces.groups] == [BATCH_ROWS, BATCH_ROWS, 100]
    assert every[0].offset == len(b"PAR1")
    assert all(one.offset + one.size == other.offset for one, other in pairwise(every))
    assert every[-1].offset + every[-1].size == len(file.data)


def test_it_is_a_source_of_records_like_any_other(snapshot, rows):
    split = open_snapshot(snapshot).train

    assert (rows.name, rows.columns, rows.unit, rows.typed) == (
        split.name, split.columns, split.unit, split.typed,
    )  # fmt: skip
    assert rows.head(3, ["id"]) == split.head(3, ["id"])
    assert [record.number for record in rows] == [record.number for record in split]


def test_the_first_row_without_a_value_is_found_without_reading_the_others(rows, file):
    without = rows.first_without("id")

    assert without is not None
    assert without.number == BATCH_ROWS + 4
    assert len(file.parts) == 2, "the footer and one row group"
    assert rows.first_without("text") is None
    assert rows.first_without("odd.name") == without.__class__(BATCH_ROWS + 4, {"odd.name": None})


def test_the_type_of_a_column_is_told(rows):
    assert (rows.type_of("id"), rows.type_of("text"), rows.type_of("odd.name")) == ("int64", "string", "json")


@pytest.mark.parametrize("place", ["group", "footer"])
def test_a_piece_that_was_damaged_is_named(rows, file, place):
    pieces = file.pieces()
    piece = pieces.footer if place == "footer" else pieces.groups[0]
    damaged = bytearray(file.data)
    damaged[piece.offset + piece.size // 2] ^= 1
    file.data = bytes(damaged)

    with pytest.raises(ArtifactDamaged, match=f"bytes {piece.offset} to .* have the digest"):
        list(rows.read_rows(0, 1))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"x" * 100, b"PAR1" + b"\xff" * 20 + b"PAR1"])
def test_what_is_no_parquet_file_is_said_to_be_none(content):
    with pytest.raises(ArtifactDamaged, match=r"no (whole )?Parquet file"):
        find_pieces(
            lambda offset, size: content[max(0, offset) : max(0, offset) + size],
            [content],
            size=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
        )


def test_pieces_are_those_of_the_digest_that_was_expected(file):
    with pytest.raises(ArtifactDamaged, match="but 0000"):
        find_pieces(file.read, [file.data], size=len(file.data), sha256="0" * 64)
