"""What differs between two snapshots, by digests of rows: added, removed, relabelled, moved."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from durabert.bert.schema import choose_columns
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
    """From one snapshot to another; rows that are there twice count twice."""

    added: Change = field(default_factory=Change)
    removed: Change = field(default_factory=Change)
    relabelled: Change = field(default_factory=Change)
    """Same split and texts, another label."""
    moved: Change = field(default_factory=Change)
    """Same texts and label, another split."""


@dataclass(frozen=True)
class _Row:
    split: str
    texts: bytes
    label: bytes
    where: str


def compare(old: Path, new: Path, spec: DataSpec) -> Difference:
    """Compare two snapshots by the text and label columns that ``spec`` names or that are inferred.

    Args:
        old: directory of the snapshot before.
        new: directory of the snapshot after.
        spec: says which columns hold texts and labels; its source is not read.
    """
    gone, come = _left_over(list(_rows(old, spec)), list(_rows(new, spec)))
    difference = Difference()
    gone, come = _pair_up(gone, come, lambda row: (row.split, row.texts), difference.relabelled)
    gone, come = _pair_up(gone, come, lambda row: (row.texts, row.label), difference.moved)
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
            shown = " | ".join(text or "" for text in texts)[:SHOWN_CHARACTERS]
            where = f"{split}, {source.unit} {record.number}: {shown} ({label})"
            yield _Row(split, _digest(texts), _digest(label), where)


def _left_over(old: list[_Row], new: list[_Row]) -> tuple[list[_Row], list[_Row]]:
    def key(row: _Row) -> Any:
        return row.split, row.texts, row.label

    both = Counter(map(key, old)) & Counter(map(key, new))
    return _without(old, both.copy(), key), _without(new, both.copy(), key)


def _without(rows: list[_Row], counts: Counter[Any], key: Any) -> list[_Row]:
    rest = []
    for row in rows:
        if counts[key(row)] > 0:
            counts[key(row)] -= 1
        else:
            rest.append(row)
    return rest


def _pair_up(gone: list[_Row], come: list[_Row], key: Any, change: Change) -> tuple[list[_Row], list[_Row]]:
    waiting: dict[Any, list[_Row]] = defaultdict(list)
    for row in gone:
        waiting[key(row)].append(row)
    rest = []
    for row in come:
        if waiting[key(row)]:
            before = waiting[key(row)].pop(0)
            change.add(f"{before.where} -> {row.where}")
        else:
            rest.append(row)
    return [row for rows in waiting.values() for row in rows], rest


def _digest(value: Any) -> bytes:
    return hashlib.sha256(json.dumps(value).encode()).digest()[:16]
