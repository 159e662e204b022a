"""What every file of rows looks like to the rest of durabert."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from durabert.errors import DataInvalid


@dataclass(frozen=True, slots=True)
class Record:
    """One row."""

    number: int
    """1-based line number where the row starts in text files, 1-based row number otherwise."""
    fields: Mapping[str, Any]
    """Values by column; a JSON object may lack some."""


class RecordSource(ABC):
    """The rows of a file, read anew by each iteration, in memory independent of their number.

    Attributes:
        name: what messages call the source.
        columns: names of the columns, in order.
        notices: what the last complete iteration found and handled, one sentence each.
        unit: what the numbers of records count, ``line`` or ``row``.
        typed: whether values have types; in CSV-like files all of them are strings.
    """

    unit: str = "line"
    typed: bool = True

    def __init__(self, name: str, columns: Sequence[str]) -> None:
        """Refuse duplicate names among ``columns``."""
        twice = [column for column, count in Counter(columns).items() if count > 1]
        if twice:
            raise DataInvalid(
                f"{name} has more than one column named {twice[0]!r}, but each needs its own name"
            )
        self.name = name
        self.columns = list(columns)
        self.notices: list[str] = []

    @abstractmethod
    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield the records, with all fields or only those of ``columns``.

        Raises:
            DataInvalid: a row cannot be read, or there is none.
        """

    def __iter__(self) -> Iterator[Record]:
        return self.read()

    def head(self, count: int, columns: Sequence[str] | None = None) -> list[Record]:
        """Return the first ``count`` records."""
        return list(islice(self.read(columns), count))

    def no_rows(self) -> DataInvalid:
        """Return the error of a source that has columns and nothing else."""
        return DataInvalid(f"{self.name} has a header but no rows; at least one row was expected")
