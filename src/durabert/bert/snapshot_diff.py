"""What differs between two snapshots, by digests of rows: added, removed, relabelled, changed, moved."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from durabert.bert.schema import choose_columns
from durabert.bert.snapshot_manifest import canonical_json
from durabert.bert.snapshot_values import canonical
from durabert.bert.snapshots import open_snapshot
from durabert.specs.data import DataSpec

MAX_EXAMPLES: Final = 3
SHOWN_CHARACTERS: Final = 60


@dataclass
class Change:
    """Rows that changed in one way."""

    count: int = 0
    examples: list[str] = field(default_factory=list)
    """Three at most: split, line or row number, text."""

    def add(self, where: str) -> None:
        """Count one more row."""
        self.count += 1
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(where)


@dataclass
class Difference:
    """From one snapshot to another; rows that are there twice count twice, and none counts as two changes."""

    added: Change = field(default_factory=Change)
    removed: Change = field(default_factory=Change)
    relabelled: Change = field(default_factory=Change)
    """Same split and texts, another label."""
    changed: Change = field(default_factory=Change)
    """Same split, texts and label; other columns differ."""
    moved: Change = field(default_factory=Change)
    """Same texts and label, another split."""


@dataclass(frozen=True, slots=True)
class _Row:
    split: str
    texts: bytes
    label: bytes
    whole: bytes
    """Of the split and all columns."""
    where: str


def compare(old: Path, new: Path, spec: DataSpec) -> Difference:
    """Compare two snapshots by the text and label columns that ``spec`` names or that are inferred.

    Memory grows by a digest for each different row, and by what differs.

    Args:
        old: directory of the snapshot before.
        new: directory of the snapshot after.
        spec: says which columns hold texts and labels; its source is not read.
    """
    unmatched = Counter(row.whole for row in _rows(old, spec))
    come = [row for row in _rows(new, spec) if not _taken(unmatched, row)]
    gone = [row for row in _rows(old, spec) if _taken(unmatched, row)] if unmatched.total() else []
    difference = Difference()
    for kind, key in (
        (difference.changed, lambda row: (row.split, row.texts, row.label)),
        (difference.relabelled, lambda row: (row.split, row.texts)),
        (difference.moved, lambda row: (row.texts, row.label)),
    ):
        gone, come = _pair_up(gone, come, key, kind)
    for row in gone:
        difference.removed.add(row.where)
    for row in come:
        difference.added.add(row.where)
    return difference


def _rows(directory: Path, spec: DataSpec) -> Iterator[_Row]:
    sources = open_snapshot(directory)
    columns = choose_columns(sources.train, spec)
    for split, source in sorted(sources.splits().items()):
        for record in source.read():
            texts = [canonical(record.fields.get(column)) for column in columns.texts]
            label = canonical(record.fields.get(columns.label))
            everything = {name: canonical(value) for name, value in record.fields.items()}
            shown = " | ".join(text or "" for text in texts)[:SHOWN_CHARACTERS]
            yield _Row(
                split,
                texts=_digest(texts),
                label=_digest(label),
                whole=_digest([split, everything]),
                where=f"{split}, {source.unit} {record.number}: {shown} ({label})",
            )


def _taken(counts: Counter[bytes], row: _Row) -> bool:
    there = counts[row.whole] > 0
    if there:
        counts[row.whole] -= 1
    return there


def _pair_up(
    gone: list[_Row], come: list[_Row], key: Callable[[_Row], Any], change: Change
) -> tuple[list[_Row], list[_Row]]:
    waiting: dict[Any, list[_Row]] = defaultdict(list)
    # The first of equal rows is the last of the list, and is paired first.
    for row in reversed(gone):
        waiting[key(row)].append(row)
    rest = []
    for row in come:
        before = waiting.get(key(row))
        if before:
            change.add(f"{before.pop().where} -> {row.where}")
        else:
            rest.append(row)
    left = {id(row) for rows in waiting.values() for row in rows}
    return [row for row in gone if id(row) in left], rest


def _digest(value: Any) -> bytes:
    return hashlib.sha256(canonical_json(value)).digest()[:16]
