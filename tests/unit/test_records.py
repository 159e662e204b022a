from __future__ import annotations

import csv
import gzip
import json
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durabert.bert.records import RecordSource, open_records
from durabert.errors import DataInvalid, DataNotFound, SpecInvalid


def write(path: Path, content: str | bytes, encoding: str = "utf-8") -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return path


def rows(source: RecordSource) -> list[dict[str, object]]:
    return [dict(record.fields) for record in source]


def numbers(source: RecordSource) -> list[int]:
    return [record.number for record in source]


def refusal(path: Path, **options: str) -> str:
    with pytest.raises(DataInvalid) as caught:
        list(open_records(path, **options))
    return str(caught.value)


ROWS = [
    {"text": 'She said "yes", twice', "label": "pos"},
    {"text": "two\nlines\r\nand a\ttab", "label": "neg"},
    {"text": "grüße 你好 \u2028 🙂", "label": "pos"},
]


def as_csv(path: Path, table: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    return path


def as_jsonl(path: Path, table: list[dict[str, str]]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in table))


def as_json(path: Path, table: list[dict[str, str]]) -> Path:
    return write(path, json.dumps(table, indent=1))


def as_parquet(path: Path, table: list[dict[str, str]]) -> Path:
    pq.write_table(pa.Table.from_pylist(table), path, row_group_size=2)
    return path


def as_arrow_file(path: Path, table: list[dict[str, str]]) -> Path:
    arrow = pa.Table.from_pylist(table)
    with pa.ipc.new_file(path, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=2)
    return path


def as_arrow_stream(path: Path, table: list[dict[str, str]]) -> Path:
    arrow = pa.Table.from_pylist(table)
    with pa.ipc.new_stream(path, arrow.schema) as writer:
        writer.write_table(arrow, max_chunksize=2)
    return path


WRITERS = [
    pytest.param(as_csv, "a.csv", id="csv"),
    pytest.param(as_jsonl, "a.jsonl", id="jsonl"),
    pytest.param(as_jsonl, "a.json", id="json lines named json"),
    pytest.param(as_json, "a.json", id="json"),
    pytest.param(as_parquet, "a.parquet", id="parquet"),
    pytest.param(as_arrow_file, "a.arrow", id="arrow file"),
    pytest.param(as_arrow_stream, "a.arrow", id="arrow stream"),
]


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_every_format_gives_the_same_rows(tmp_path, writer, name):
    source = open_records(writer(tmp_path / name, ROWS))

    assert source.columns == ["text", "label"]
    assert rows(source) == ROWS
    assert source.notices == []


@pytest.mark.parametrize(("writer", "name"), WRITERS)
def test_every_format_can_be_read_again_and_by_column(tmp_path, writer, name):
    source = open_records(writer(tmp_path / name, ROWS))

    assert source.head(1)[0].fields == ROWS[0]
    assert [dict(record.fields) for record in source.read(["label"])] == [
        {"label": row["label"]} for row in ROWS
    ]


def test_a_batch_of_any_size_is_read_to_its_end(tmp_path):
    table = pa.table({"text": [f"text {number}" for number in range(3000)]})
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)

    assert numbers(open_records(tmp_path / "a.arrow")) == list(range(1, 3001))


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "json", "parquet", "arrow"])
def test_an_empty_file_is_refused(tmp_path, suffix):
    assert "is empty" in refusal(write(tmp_path / f"a.{suffix}", ""))


@pytest.mark.parametrize(("name", "content"), [("a.csv", "\n \n"), ("a.jsonl", "\n\n"), ("a.json", "[]")])
def test_a_file_with_nothing_in_it_is_refused(tmp_path, name, content):
    assert "is empty" in refusal(write(tmp_path / name, content))


def test_a_header_without_rows_is_refused(tmp_path):
    assert "has a header but no rows" in refusal(write(tmp_path / "a.csv", "text,label\n\n"))
    empty = pa.table({"text": pa.array([], pa.string())})
    pq.write_table(empty, tmp_path / "a.parquet")
    assert "has a header but no rows" in refusal(tmp_path / "a.parquet")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataNotFound, match=r"there is no file .*gone\.csv"):
        open_records(tmp_path / "gone.csv")


def test_a_directory_and_a_pipe_are_no_files(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.csv")

    assert "is a directory" in refusal(tmp_path)
    assert "is a pipe" in refusal(tmp_path / "pipe.csv")


def test_an_unknown_suffix_needs_the_format(tmp_path):
    path = write(tmp_path / "a.txt", "text,label\nfine,1\n")

    assert "has the suffix '.txt'" in refusal(path)
    assert rows(open_records(path, format="csv")) == [{"text": "fine", "label": "1"}]


def test_the_format_can_overrule_the_suffix(tmp_path):
    path = as_parquet(tmp_path / "a.csv", ROWS)

    assert 'set format = "parquet"' in refusal(path)
    assert rows(open_records(path, format="parquet")) == ROWS


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"text,label\n", mtime=0), "is compressed with gzip; unpack it first"),
        (b"PK\x03\x04rest", "is a zip archive or an Excel workbook"),
        (b"ELF\x00\x01\x02", "is a binary file"),
        ("text,label\nfine,1\n".encode("utf-16"), 'set encoding = "utf-16"'),
    ],
)
def test_a_file_that_is_no_csv_says_what_it_is(tmp_path, content, expected):
    assert expected in refusal(write(tmp_path / "a.csv", content))


def test_a_nul_byte_is_refused_with_its_line(tmp_path):
    path = write(tmp_path / "a.csv", b"text,label\n" + b"fine,1\n" * 1000 + b"ba\0d,0\n")

    assert "line 1002 has a NUL byte" in refusal(path)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_file_that_is_not_what_its_suffix_says_is_refused(tmp_path, name):
    message = refusal(write(tmp_path / name, "text,label\nfine,1\n"))

    assert "Parquet" in message or "Arrow" in message


@pytest.mark.parametrize(
    ("writer", "name"), [(as_parquet, "a.parquet"), (as_arrow_file, "a.arrow"), (as_arrow_stream, "a.arrow")]
)
def test_a_torn_columnar_file_is_refused(tmp_path, writer, name):
    path = writer(tmp_path / name, ROWS * 50)
    path.write_bytes(path.read_bytes()[:-200])

    assert "cannot be read as" in refusal(path)


def test_a_byte_order_mark_is_dropped(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        path = write(tmp_path / f"{encoding}.csv", "text,label\nfine,1\n", encoding)
        assert open_records(path, encoding="utf-16" if encoding == "utf-16" else "utf-8").columns == [
            "text",
            "label",
        ]
    path = write(tmp_path / "le.csv", "\ufefftext\nfine\n", "utf-16-le")
    assert rows(open_records(path, encoding="utf-16-le")) == [{"text": "fine"}]
    path = write(tmp_path / "a.jsonl", '{"text": "fine"}\n', "utf-8-sig")
    assert rows(open_records(path)) == [{"text": "fine"}]


@pytest.mark.parametrize("lead", [1, 20_000])
def test_a_wrong_encoding_names_line_byte_and_remedy(tmp_path, lead):
    path = write(tmp_path / "a.csv", b"text,label\n" + b"fine,1\n" * lead + b"caf\xe9,0\nfine,1\n")

    message = refusal(path)

    assert f"line {lead + 2} has the byte 0xe9, which is not utf-8" in message
    assert 'encoding = "latin-1"' in message
    assert rows(open_records(path, encoding="latin-1"))[lead] == {"text": "café", "label": "0"}


def test_a_character_cut_at_the_end_of_the_file_is_a_wrong_encoding(tmp_path):
    assert "line 2 has the byte 0xc3" in refusal(write(tmp_path / "a.csv", b"text,label\nfine,\xc3"))


def test_a_codec_that_gives_up_otherwise_is_one_sentence(tmp_path):
    assert "cannot be read as punycode" in refusal(
        write(tmp_path / "a.csv", "text,label\nfi-ne,1\n"), encoding="punycode"
    )


@pytest.mark.parametrize("encoding", ["utf-9", "base64", "a\0b"])
def test_an_unknown_encoding_is_refused(tmp_path, encoding):
    path = write(tmp_path / "a.csv", "text,label\nfine,1\n")

    with pytest.raises(SpecInvalid, match="should be the name of a text encoding"):
        open_records(path, encoding=encoding)


def test_line_numbers_are_those_of_an_editor(tmp_path):
    path = write(tmp_path / "a.csv", '\ntext,label\n"two\nlines",1\n\nfine,0\r\nlast,1')
    source = open_records(path)

    assert numbers(source) == [3, 6, 7]
    assert source.notices == ["1 empty line skipped (at line 5)"]


def test_empty_lines_are_skipped_and_counted(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\n" + "fine,1\n\n  \n" * 4)
    source = open_records(path)

    assert len(rows(source)) == 4
    assert source.notices == ["8 empty lines skipped (first at lines 3, 4, 6, 7, 9)"]
    lines = open_records(write(tmp_path / "a.jsonl", '{"text": "a"}\n\n{"text": "b"}\n'))
    assert numbers(lines) == [1, 3]
    assert lines.notices == ["1 empty line skipped (at line 2)"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "so, so,1",
            "line 3 has 3 fields, but 2 fields were expected, as in the header (a text with a comma",
        ),
        ("so so", "line 3 has 1 field, but 2 fields were expected, as in the header"),
    ],
)
def test_a_row_of_another_width_is_refused_with_its_line(tmp_path, line, expected):
    assert expected in refusal(write(tmp_path / "a.csv", f"text,label\nfine,1\n{line}\nfine,0\n"))


def test_a_quote_that_is_never_closed_names_its_line(tmp_path):
    tail = "fine,1\n" * 50
    path = write(tmp_path / "a.csv", f'text,label\n"two\nlines",1\n"open,0\n{tail}')

    assert "the quote opened at line 4 is never closed" in refusal(path)


def test_a_quote_that_is_closed_too_late_names_both_lines(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\nfine,1\n"open,0\nfine,1\n"so, so",1\n')

    assert "the quote opened at line 3 is closed at line 5 inside a field" in refusal(path)


def test_a_quote_inside_an_unquoted_field_is_kept(tmp_path):
    path = write(tmp_path / "a.csv", 'text,label\na 12" disc,1\n')

    assert rows(open_records(path)) == [{"text": 'a 12" disc', "label": "1"}]


def test_tsv_takes_quotes_as_they_are_and_says_so(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"Good" film\t1\nbad\t0\n"odd\t0\n')
    source = open_records(path)

    assert [row["text"] for row in rows(source)] == ['"Good" film', "bad", '"odd']
    assert source.notices == [
        "2 rows with a field that begins with a quote character, which was kept (at lines 2, 4); "
        'if quotes enclose fields in this file, set quoting = "csv"'
    ]


def test_tsv_can_be_quoted_and_csv_unquoted(tmp_path):
    tsv = write(tmp_path / "a.tsv", '"text"\t"label"\n"a\tb"\t1\n')
    unquoted = write(tmp_path / "a.csv", 'text,label\n"open,1\n')

    assert rows(open_records(tsv, quoting="csv")) == [{"text": "a\tb", "label": "1"}]
    assert rows(open_records(unquoted, quoting="none")) == [{"text": '"open', "label": "1"}]
    assert 'set quoting = "csv"' in refusal(tsv)


def test_a_quote_after_a_space_is_kept_and_reported(tmp_path):
    source = open_records(write(tmp_path / "a.csv", 'text, label\n"so, so", "1"\nfine, 0\n'))

    assert rows(source) == [{"text": "so, so", "label": ' "1"'}, {"text": "fine", "label": " 0"}]
    assert source.notices == [
        "1 row with white space before a quote character, which was kept (at line 2); "
        "a quote that encloses a field is its first character"
    ]


def test_another_delimiter_is_asked_for_and_used(tmp_path):
    path = write(tmp_path / "a.csv", "text;label\nfine, really;1\n")

    assert "set delimiter = ';'" in refusal(path)
    assert rows(open_records(path, delimiter=";")) == [{"text": "fine, really", "label": "1"}]
    with pytest.raises(SpecInvalid, match="delimiter"):
        open_records(path, delimiter='"')


def test_two_columns_of_one_name_are_refused(tmp_path):
    assert "more than one column named 'text'" in refusal(write(tmp_path / "a.csv", "text,text\na,b\n"))
    twice = pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    assert "more than one column named 'text'" in refusal(tmp_path / "a.parquet")
    message = refusal(write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n'))
    assert "line 2" in message
    assert "'text' more than once" in message


def test_a_field_longer_than_the_limit_of_the_csv_module_is_read(tmp_path):
    long = "word " * 60_000
    path = write(tmp_path / "a.csv", f"text,label\n{long},1\n")

    assert rows(open_records(path)) == [{"text": long, "label": "1"}]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"text": "a"', "line 2 is not valid JSON"),
        ('["a"]', "line 2 is a list, but a JSON object was expected"),
        ("null", "line 2 is null, but a JSON object was expected"),
        ("[" * 100_000, "line 2 is not usable JSON (nested too deeply)"),
        ('{"text": ' + "1" * 5000 + "}", "line 2 is not usable JSON"),
    ],
)
def test_a_broken_json_line_is_refused_with_its_number(tmp_path, line, expected):
    assert expected in refusal(write(tmp_path / "a.jsonl", f'{{"text": "a"}}\n{line}\n'))


def test_json_that_is_no_list_of_objects_is_refused(tmp_path):
    assert 'set format = "jsonl"' in refusal(write(tmp_path / "a.json", '{\n"rows": []}'))
    assert "row 2 is a string" in refusal(write(tmp_path / "b.json", '[{"text": "a"}, "b"]'))
    assert "is not valid JSON" in refusal(write(tmp_path / "c.json", "[{}"))


def test_a_json_object_may_lack_columns(tmp_path):
    source = open_records(write(tmp_path / "a.jsonl", '{"text": "a"}\n{"text": "b", "label": 1}\n'))

    assert source.columns == ["text", "label"]
    assert rows(source) == [{"text": "a"}, {"text": "b", "label": 1}]


@pytest.mark.parametrize(("name", "end"), [("a.csv", '"open'), ("a.jsonl", "{")])
def test_rows_come_before_the_file_has_been_read_to_its_end(tmp_path, name, end):
    line = '{"text": "fine"}\n' if name == "a.jsonl" else "text\n" + "fine\n"
    path = write(tmp_path / name, line * 3000 + end)

    assert len(open_records(path).head(2000)) == 2000
    with pytest.raises(DataInvalid):
        list(open_records(path))


@pytest.mark.parametrize(
    "writer", [as_csv, as_jsonl, as_parquet, as_arrow_file], ids=lambda one: one.__name__
)
def test_memory_does_not_grow_with_the_file(tmp_path, writer):
    suffix = writer.__name__.split("_")[1].replace("file", "arrow")

    def peak(num_rows: int) -> int:
        table = [{"text": f"{number} " + "word " * 200, "label": "1"} for number in range(num_rows)]
        source = open_records(writer(tmp_path / f"{num_rows}.{suffix}", table))
        del table
        tracemalloc.start()
        assert sum(1 for _ in source) == num_rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(8000) < 1.5 * peak(2000) + 100_000


TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


@settings(deadline=None)
@given(st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=8))
def test_random_texts_survive_every_format(tmp_path_factory, table):
    directory = tmp_path_factory.mktemp("formats")
    expected = [{"text": f"a{text}", "label": f"b{label}"} for text, label in table]

    for writer, name in (param.values for param in WRITERS):
        assert rows(open_records(writer(directory / name, expected))) == expected, name
