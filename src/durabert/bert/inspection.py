"""What was found in the data and handled: tallies with line numbers, duplicates, overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

SHOWN_NUMBERS: Final = 5
"""How many line numbers a notice or an error names."""

Content = TypeVar("Content")
Label = TypeVar("Label")


@dataclass(slots=True)
class Tally:
    """A count of rows and where the first of them are."""

    unit: str
    """What the numbers count: ``line`` in text files, ``row`` elsewhere."""
    count: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Count the row at ``number``."""
        self.count += 1
        if len(self.first) < SHOWN_NUMBERS:
            self.first.append(number)

    def __str__(self) -> str:
        plural = "s" if len(self.first) > 1 else ""
        where = "at" if self.count == len(self.first) else "first at"
        return f"({where} {self.unit}{plural} {', '.join(map(str, self.first))})"


def counted(count: int, noun: str) -> str:
    """Return ``1 row`` or ``12 rows``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def shortened(value: Any) -> str:
    """Return a value as a message shows it."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."


def duplicates(
    contents: Sequence[Content], labels: Sequence[Label], numbers: Sequence[int], *, unit: str
) -> list[str]:
    """Report rows that occur again and texts that occur with different labels.

    Args:
        contents: the text, or the pair of texts, of each row.
        labels: the label of each row.
        numbers: the line or row number of each row.
        unit: what the numbers count.
    """
    labels_seen: dict[Content, list[Label]] = {}
    repeated, conflicting = Tally(unit), Tally(unit)
    for content, label, number in zip(contents, labels, numbers, strict=True):
        seen = labels_seen.setdefault(content, [])
        if label in seen:
            repeated.add(number)
            continue
        if seen:
            conflicting.add(number)
        seen.append(label)
    notices = []
    if repeated.count:
        notices.append(f"{counted(repeated.count, 'duplicate row')} {repeated}")
    if conflicting.count:
        rows = counted(conflicting.count, "row")
        verb = "repeats" if conflicting.count == 1 else "repeat"
        notices.append(f"{rows} {verb} an earlier text with another label {conflicting}")
    return notices


def overlap(
    contents: Sequence[Content],
    numbers: Sequence[int],
    train: Iterable[Content],
    *,
    unit: str,
) -> list[str]:
    """Report rows whose text is also among the training rows."""
    known = set(train)
    shared = Tally(unit)
    for content, number in zip(contents, numbers, strict=True):
        if content in known:
            shared.add(number)
    if not shared.count:
        return []
    verb = "has a text that is" if shared.count == 1 else "have texts that are"
    return [f"{counted(shared.count, 'row')} {verb} also in train {shared}"]
