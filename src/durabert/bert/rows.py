"""The rows of one split as they are in the file: texts stripped, rows without text or label left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from durabert.bert.inspection import Tally, counted, shortened
from durabert.bert.records import RecordSource
from durabert.bert.schema import Columns
from durabert.errors import DataInvalid

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Rows:
    """Usable rows of one split; labels are as they were read."""

    split: str
    unit: str
    texts: list[str]
    pairs: list[str] | None
    labels: list[Any]
    numbers: list[int]
    """Line or row number of each row."""
    notices: list[str]

    def __len__(self) -> int:
        return len(self.texts)

    def contents(self) -> Sequence[str | tuple[str, str]]:
        """Return the text or the pair of texts of each row."""
        return self.texts if self.pairs is None else list(zip(self.texts, self.pairs, strict=True))

    def take(self, indices: Sequence[int]) -> Rows:
        """Return the rows at ``indices``, without the notices."""
        return Rows(
            split=self.split,
            unit=self.unit,
            texts=[self.texts[index] for index in indices],
            pairs=None if self.pairs is None else [self.pairs[index] for index in indices],
            labels=[self.labels[index] for index in indices],
            numbers=[self.numbers[index] for index in indices],
            notices=[],
        )


@dataclass
class TextCleaner:
    """Strips texts, and replaces what no encoding can hold; says how often."""

    source: RecordSource

    def __post_init__(self) -> None:
        self.unpaired = Tally(self.source.unit)

    def clean(self, value: Any, column: str, number: int) -> str | None:
        """Return the text, or None for a null or blank one.

        Surrounding white space is stripped: it carries no meaning to a tokenizer and hides duplicates.

        Raises:
            DataInvalid: the value is no string.
        """
        if value is None:
            return None
        if not isinstance(value, str):
            raise DataInvalid(
                f"{self.source.name}: {self.source.unit} {number} has {shortened(value)} in the text column "
                f"{column!r}, but a string was expected"
            )
        text = value.strip()
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError:
                self.unpaired.add(number)
                text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        return text or None

    def notices(self) -> list[str]:
        """Return what was replaced."""
        if not self.unpaired.count:
            return []
        texts = counted(self.unpaired.count, "text")
        return [f"{texts} with half a surrogate pair, replaced by {REPLACEMENT!r} {self.unpaired}"]


def read_rows(source: RecordSource, columns: Columns, *, split: str) -> Rows:
    """Read the usable rows of a split.

    Args:
        source: the rows.
        columns: the columns to read; all of them are there.
        split: what notices call the split.

    Raises:
        DataInvalid: a row cannot be read or its text is no string.
    """
    rows = Rows(split, source.unit, [], None if columns.pair is None else [], [], [], [])
    no_text, no_label = Tally(source.unit), Tally(source.unit)
    cleaner = TextCleaner(source)
    for record in source.read([*columns.texts, columns.label]):
        number, fields = record.number, record.fields
        text = cleaner.clean(fields.get(columns.text), columns.text, number)
        pair = None if columns.pair is None else cleaner.clean(fields.get(columns.pair), columns.pair, number)
        label = fields.get(columns.label)
        if text is None or (columns.pair is not None and pair is None):
            no_text.add(number)
        elif label is None or (isinstance(label, str) and not label.strip()):
            no_label.add(number)
        else:
            rows.texts.append(text)
            rows.labels.append(label)
            rows.numbers.append(number)
            if rows.pairs is not None and pair is not None:
                rows.pairs.append(pair)
    rows.notices.extend([*source.notices, *_dropped(no_text, "text"), *_dropped(no_label, "label")])
    rows.notices.extend(cleaner.notices())
    return rows


def _dropped(tally: Tally, what: str) -> list[str]:
    return [f"{counted(tally.count, 'row')} without a {what} dropped {tally}"] if tally.count else []
