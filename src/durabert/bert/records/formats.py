"""Which format a file has."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final, Literal

from durabert.bert.inspection import shortened
from durabert.bert.records.base import RecordSource
from durabert.bert.records.columnar import ARROW_MAGIC, ArrowFile, ParquetFile
from durabert.bert.records.delimited import DelimitedFile
from durabert.bert.records.jsonfiles import JsonFile, JsonLinesFile, is_json_lines
from durabert.errors import DataInvalid, DataNotFound
from durabert.specs.data import FileFormat

SUFFIXES: Final[dict[str, FileFormat]] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
}

PARQUET_MAGIC: Final = b"PAR1"
PACKED: Final = {
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh9": "compressed with bzip2; unpack it first",
    b"\xfd7zXZ": "compressed with xz; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; unpack it first",
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save it as CSV",
}


def open_records(
    path: Path,
    *,
    format: FileFormat = "auto",  # noqa: A002 - the name of the field in DataSpec and TextsSpec
    delimiter: str | None = None,
    quoting: Literal["auto", "csv", "none"] = "auto",
    encoding: str = "utf-8",
) -> RecordSource:
    """Open a file of rows; nothing but its header, or its first rows, is read yet.

    Args:
        path: the file.
        format: its format; ``auto`` goes by the suffix.
        delimiter: field delimiter of CSV-like files; default: comma for csv, tab for tsv.
        quoting: whether quotes enclose fields; ``auto`` is yes for csv and no for tsv.
        encoding: text encoding.

    Raises:
        DataNotFound: there is no such file.
        DataInvalid: its format is unknown or another one, or it is empty.
        SpecInvalid: no such encoding or delimiter.
    """
    head = _head(path)
    _check_packed(path, head)
    kind = format_of(path) if format == "auto" else format
    if kind == "parquet":
        _check_parquet(path, head)
        return ParquetFile(path)
    if kind == "arrow":
        return ArrowFile(path)
    _check_text(path, head, encoding)
    if kind in {"csv", "tsv"}:
        quoted = quoting == "csv" or (quoting == "auto" and kind == "csv")
        delimiter = delimiter or ("," if kind == "csv" else "\t")
        return DelimitedFile(path, delimiter=delimiter, quoted=quoted, encoding=encoding)
    if kind == "jsonl" or (format == "auto" and is_json_lines(path, encoding=encoding)):
        return JsonLinesFile(path, encoding=encoding)
    return JsonFile(path, encoding=encoding)


def local_path(name: str) -> Path:
    """Return the path that a user wrote, with ``~`` expanded; it need not exist.

    Raises:
        DataNotFound: it cannot be a path, or cannot be looked at.
    """
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        # RuntimeError: the home directory of a user who does not exist.
        raise DataNotFound(f"there is no file or directory {shortened(name)} ({_cause(error)})") from None
    return path


def format_of(path: Path) -> FileFormat:
    """Return the format that the suffix of ``path`` stands for.

    Raises:
        DataInvalid: it stands for none.
    """
    known = SUFFIXES.get(path.suffix.lower())
    if known is None:
        raise DataInvalid(
            f"{path} has the suffix {path.suffix!r}, but one of {', '.join(SUFFIXES)} was expected; "
            'set format, such as format = "csv"'
        )
    return known


def _cause(error: Exception) -> str:
    cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return cause.lower().rstrip(".")


def _head(path: Path) -> bytes:
    if path.is_dir():
        raise DataInvalid(f"{path} is a directory, but a file was expected")
    if path.exists() and not path.is_file():
        raise DataInvalid(f"{path} is a pipe or a device, but a file was expected: it is read more than once")
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except FileNotFoundError:
        raise DataNotFound(f"there is no file {path}") from None
    except OSError as error:
        raise DataInvalid(f"{path} cannot be read ({error.strerror})") from None
    if not head:
        raise DataInvalid(f"{path} is empty; at least one row was expected")
    return head


def _check_packed(path: Path, head: bytes) -> None:
    for magic, what in PACKED.items():
        if head.startswith(magic):
            raise DataInvalid(f"{path} is {what}")


def _check_parquet(path: Path, head: bytes) -> None:
    if not head.startswith(PARQUET_MAGIC):
        raise DataInvalid(f"{path} is not a Parquet file; set format if it is of another one")


def _check_text(path: Path, head: bytes, encoding: str) -> None:
    for magic, kind in ((PARQUET_MAGIC, "parquet"), (ARROW_MAGIC, "arrow")):
        if head.startswith(magic) and b"\0" in head:
            raise DataInvalid(f'{path} is a file in {kind} format, not text; set format = "{kind}"')
    if encoding.lower().replace("_", "-").startswith(("utf-16", "utf-32", "utf16", "utf32")):
        return
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataInvalid(f'{path} begins like UTF-16, not {encoding}; set encoding = "utf-16"')
    if b"\0" in head:
        raise DataInvalid(f"{path} is a binary file, but a text file in {encoding} was expected")
