"""CSV and TSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Final

from durabert.bert.inspection import Tally, counted
from durabert.bert.records.base import Record, RecordSource
from durabert.bert.records.textlines import TextLines
from durabert.errors import DataInvalid, SpecInvalid

FIELD_LIMIT: Final = 256 * 1024 * 1024
"""Longest field in characters: far above any text, and a quote that is never closed stops here."""

DELIMITERS: Final = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}


class DelimitedFile(RecordSource):
    """Rows of fields between delimiters, under a header; fields are quoted or quotes mean nothing."""

    typed = False

    def __init__(self, path: Path, *, delimiter: str, quoted: bool, encoding: str) -> None:
        if delimiter in '"\r\n':
            raise SpecInvalid(f"delimiter is {delimiter!r}, but should not be a quote or a line break")
        self._lines = TextLines(path, encoding)
        self._delimiter = delimiter
        self._quoted = quoted
        super().__init__(str(path), self._header(str(path)))
        self._check_header()

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns``."""
        wanted = self.columns if columns is None else columns
        places = [(name, self.columns.index(name)) for name in wanted]
        empty, quotes, rows = Tally(self.unit), Tally(self.unit), 0
        table = self._table(self.name)
        next(row for _, row in table if row)
        for number, row in table:
            if len(row) != len(self.columns):
                if not row or not "".join(row).strip():
                    empty.add(number)
                    continue
                raise self._wrong_width(number, row)
            if any(map(self._keeps_quote, row)):
                quotes.add(number)
            rows += 1
            yield Record(number, {name: row[place] for name, place in places})
        if not rows:
            raise self.no_rows()
        self.notices[:] = self._found(empty, quotes)

    def _found(self, empty: Tally, quotes: Tally) -> list[str]:
        notices = []
        if empty.count:
            notices.append(f"{counted(empty.count, 'empty line')} skipped {empty}")
        if quotes.count:
            rows = counted(quotes.count, "row")
            notices.append(
                f"{rows} with white space before a quote character, which was kept {quotes}; "
                "a quote that encloses a field is its first character"
                if self._quoted
                else f"{rows} with a field that begins with a quote character, which was kept {quotes}; "
                'if quotes enclose fields in this file, set quoting = "csv"'
            )
        return notices

    def _keeps_quote(self, field: str) -> bool:
        if self._quoted:
            return field[:1] == " " and field.lstrip()[:1] == '"'
        return field[:1] == '"'

    def _header(self, name: str) -> list[str]:
        for _, row in self._table(name):
            if "".join(row).strip():
                return [column.strip() for column in row]
        raise DataInvalid(f"{name} is empty; a header line and at least one row were expected")

    def _check_header(self) -> None:
        if not self._quoted and all(column[:1] == column[-1:] == '"' for column in self.columns):
            raise DataInvalid(
                f"{self.name} has the header {', '.join(self.columns)}, with its quotes; "
                'set quoting = "csv" if quotes enclose fields in this file'
            )
        if len(self.columns) > 1:
            return
        for delimiter, word in DELIMITERS.items():
            if delimiter in self.columns[0]:
                raise DataInvalid(
                    f"{self.name} has one column, {self.columns[0]!r}, with a {word} in its name; "
                    f"set delimiter = {delimiter!r} if that separates the columns"
                )

    def _table(self, name: str) -> Iterator[tuple[int, list[str]]]:
        # Process-wide in the csv module, and its default of 128 KiB is shorter than some texts.
        csv.field_size_limit(FIELD_LIMIT)
        lines = iter(self._lines)
        if self._quoted:
            reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        else:
            reader = csv.reader(lines, delimiter=self._delimiter, quoting=csv.QUOTE_NONE, strict=True)
        start = 1
        try:
            for row in reader:
                yield start, row
                start = reader.line_num + 1
        except csv.Error as error:
            raise self._broken(name, start, reader.line_num, str(error)) from None

    def _wrong_width(self, number: int, row: list[str]) -> DataInvalid:
        expected = counted(len(self.columns), "field")
        hint = ""
        if len(row) > len(self.columns):
            word = DELIMITERS.get(self._delimiter, repr(self._delimiter))
            hint = (
                f" (a text with a {word} in it must be quoted)"
                if self._quoted
                else f" (a text must not have a {word} in it)"
            )
        return DataInvalid(
            f"{self.name}: line {number} has {counted(len(row), 'field')}, but {expected} were expected, "
            f"as in the header{hint}"
        )

    def _broken(self, name: str, start: int, line: int, reason: str) -> DataInvalid:
        if reason == "unexpected end of data" or reason.startswith("field larger"):
            opened = self._opening_line(start, line)
            return DataInvalid(
                f"{name}: the quote opened at line {opened} is never closed; close it, "
                'or set quoting = "none" if quotes do not enclose fields in this file'
            )
        if "expected after" in reason:
            opened = self._opening_line(start, line)
            return DataInvalid(
                f"{name}: the quote opened at line {opened} is closed at line {line} inside a field; "
                "write a quote inside a quoted field twice, or set quoting = "
                '"none" if quotes do not enclose fields in this file'
            )
        return DataInvalid(f"{name}: line {line} cannot be read ({reason})")

    def _opening_line(self, start: int, end: int) -> int:
        opened, inside = start, False
        for number, line in enumerate(islice(self._lines, start - 1, end), start=start):
            for quotes in re.finditer('"+', line):
                at_start = quotes.start() == 0 or line[quotes.start() - 1] == self._delimiter
                # Inside a field two quotes are one character; at its start they are an empty field.
                if len(quotes.group()) % 2 == 0 or not (inside or at_start):
                    continue
                inside = not inside
                opened = number if inside else opened
        return opened
