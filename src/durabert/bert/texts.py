"""Texts to predict on, from a file of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from durabert.bert.records import Record, RecordSource, local_path, open_records
from durabert.bert.rows import TextCleaner
from durabert.bert.schema import choose_text_columns, require_columns
from durabert.errors import DataInvalid
from durabert.specs.data import TextsSpec

DEFAULT_ROW_ID: Final = "id"
NUMBERED_ROWS: Final = "row"
"""What the column of row ids is called where rows are numbered."""


@dataclass(frozen=True, slots=True)
class TextRow:
    """One row to predict on; a text that is null or blank is None."""

    row_id: str | int
    text: str | None
    pair: str | None


class TextSource:
    """Rows to predict on, read anew by each iteration, in memory independent of their number.

    Attributes:
        row_id: the column that identifies rows; none: rows are numbered from 0.
        row_id_column: what the column of row ids is called: ``row_id``, or ``row``.
        text_columns: the one or two columns that are read.
        notices: what was found and handled; complete after an iteration.
    """

    def __init__(
        self,
        source: RecordSource,
        text_columns: Sequence[str],
        row_id: str | None,
        notices: Sequence[str] = (),
    ) -> None:
        self.text_columns = tuple(text_columns)
        self.row_id_column = row_id or NUMBERED_ROWS
        self.notices = list(notices)
        self._chosen = tuple(notices)
        self._source = source
        self.row_id = row_id

    def __iter__(self) -> Iterator[TextRow]:
        """Yield every row.

        Raises:
            DataInvalid: a row cannot be read, its text is no string or its id is null.
        """
        cleaner = TextCleaner(self._source)
        read = self.text_columns if self.row_id is None else (*self.text_columns, self.row_id)
        for number, record in enumerate(self._source.read(list(dict.fromkeys(read)))):
            cleaned = [
                cleaner.clean(record.fields.get(column), column, record.number)
                for column in self.text_columns
            ]
            pair = cleaned[1] if len(cleaned) > 1 else None
            yield TextRow(self._id(record, number), cleaned[0], pair)
        self.notices = [*self._chosen, *self._source.notices, *cleaner.notices()]

    def _id(self, record: Record, number: int) -> str | int:
        if self.row_id is None:
            return number
        value: Any = record.fields.get(self.row_id)
        if value is None:
            raise no_row_id(self._source, record, self.row_id)
        return as_row_id(value)


def as_row_id(value: Any) -> str | int:
    """Return what identifies a row in the output: a whole number, or a text."""
    return value if isinstance(value, str | int) and not isinstance(value, bool) else str(value)


def no_row_id(source: RecordSource, record: Record, column: str) -> DataInvalid:
    """Return the error of a row that nothing identifies."""
    return DataInvalid(
        f"{source.name}: {source.unit} {record.number} has no {column!r}, the column that identifies rows; "
        "choose another one with --row-id"
    )


def read_texts(spec: TextsSpec, *, columns: Sequence[str], source: RecordSource | None = None) -> TextSource:
    """Open a file of texts to predict on.

    Args:
        spec: the file, and which of its columns matter.
        columns: the one or two text columns that the model was trained on.
        source: rows to read in place of the file.

    Raises:
        DataNotFound: there is no such file.
        DataInvalid: it cannot be read, or its texts are none.
        ColumnMissing: a column that ``spec`` names is not there.
        ColumnAmbiguous: more than one column could be meant, or none.
    """
    source = source or open_records(
        local_path(spec.path),
        format=spec.format,
        delimiter=spec.delimiter,
        quoting=spec.quoting,
        encoding=spec.encoding,
    )
    require_columns(source, (spec.row_id,))
    chosen, notices = choose_text_columns(source, spec, columns)
    row_id = spec.row_id or (DEFAULT_ROW_ID if DEFAULT_ROW_ID in source.columns else None)
    return TextSource(source, chosen, row_id, notices)
