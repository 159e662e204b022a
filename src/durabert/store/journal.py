"""The journal of a run: what happened to it, in order, each entry bound to the one before by its digest.

Entries are objects with consecutive numbers that are created and never changed. Whoever wants to add one must
know the number that follows, and of two who try, one succeeds. So the journal is at once

- the order of things, whoever's clock is wrong;
- the fence: an attempt that was frozen and wakes finds its next number taken, and can add nothing any more;
- the chain of digests that ``durabert verify`` checks.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from durabert.errors import AttemptSuperseded
from durabert.faults import reach
from durabert.specs import checked_run
from durabert.store.objects import ObjectExists, ObjectMissing, ObjectStore

FORMAT: Final = 1
KINDS: Final = frozenset({"started", "resumed", "checkpoint", "ended", "result"})
NUM_READERS: Final = 16
"""Entries fetched at once: a day of training has some 1,500, and a distant store answers in 20 ms."""
_NAME: Final = re.compile(r"([0-9]{8})\.json")


@dataclass(frozen=True)
class Entry:
    """One entry of a journal, verified by its own digest."""

    number: int
    """From 1, without gaps."""
    kind: str
    attempt: int
    """Number of the attempt that wrote it, from 1."""
    time: str
    """When, by the writer's clock, ISO 8601 in UTC."""
    previous: str | None
    """Digest of the entry before; none for the first."""
    body: Mapping[str, Any]
    """What this kind of entry says."""
    sha256: str
    """Digest of all the above."""


@dataclass(frozen=True)
class Damage:
    """An entry that cannot be believed."""

    number: int
    reason: str


@dataclass(frozen=True)
class Record:
    """A journal as it was read."""

    entries: Sequence[Entry]
    damages: Sequence[Damage]
    next_number: int

    def of_kind(self, *kinds: str) -> list[Entry]:
        """Return the entries of some kinds, in order."""
        return [entry for entry in self.entries if entry.kind in kinds]


class Journal:
    """The journal of one run in a store."""

    def __init__(self, objects: ObjectStore, run: str) -> None:
        self.directory = f"runs/{checked_run(run)}/journal"
        self._objects = objects

    def read(self) -> Record:
        """Read and check everything.

        Raises:
            StoreUnavailable: the store does not answer.
        """
        names = (info.path.rpartition("/")[2] for info in self._objects.list(self.directory))
        numbers = sorted(int(match[1]) for name in names if (match := _NAME.fullmatch(name)))
        with ThreadPoolExecutor(NUM_READERS) as readers:
            found = list(readers.map(self._entry, numbers))
        entries = [entry for entry in found if isinstance(entry, Entry)]
        damages = [damage for damage in found if isinstance(damage, Damage)]
        damages += _gaps(numbers)
        damages += _breaks(entries, {damage.number for damage in damages})
        broken = {damage.number for damage in damages}
        return Record(
            entries=[entry for entry in entries if entry.number not in broken],
            damages=sorted(damages, key=lambda damage: damage.number),
            next_number=(numbers[-1] if numbers else 0) + 1,
        )

    def append(
        self, number: int, kind: str, *, attempt: int, previous: str | None, body: Mapping[str, Any]
    ) -> Entry:
        """Add the entry of that number.

        Raises:
            AttemptSuperseded: somebody else has added one.
            StoreUnavailable: the store does not answer; whether the entry was added is not known, and asking
                again with the same arguments finds out.
        """
        assert kind in KINDS
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        fields: dict[str, Any] = {
            "format": FORMAT, "number": number, "kind": kind, "attempt": attempt, "time": time,
            "previous": previous, "body": dict(body),
        }  # fmt: skip
        digest = _digest(fields)
        reach("journal.append")
        try:
            self._objects.create(self._path(number), _canonical({**fields, "sha256": digest}))
        except ObjectExists:
            there = self._entry(number)
            if isinstance(there, Entry) and _same(there, fields):
                return there
            raise AttemptSuperseded(
                f"attempt {attempt} was superseded: entry {number} of {self.directory} is another's"
            ) from None
        reach("journal.appended")
        return Entry(number, kind, attempt, time, previous, fields["body"], digest)

    def _path(self, number: int) -> str:
        return f"{self.directory}/{number:08}.json"

    def _entry(self, number: int) -> Entry | Damage:
        try:
            data = self._objects.read(self._path(number))
        except ObjectMissing:
            return Damage(number, "is missing")
        try:
            return _parsed(data, number)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return Damage(number, f"is damaged ({error!s:.100})")


def _parsed(data: bytes, number: int) -> Entry:
    fields = json.loads(data)
    digest = fields.pop("sha256")
    if _digest(fields) != digest:
        raise ValueError("its content has another digest than it says")
    if fields["format"] != FORMAT:
        raise ValueError(f"its format is {fields['format']!r}, not {FORMAT}")
    if fields["number"] != number or fields["kind"] not in KINDS or not isinstance(fields["body"], dict):
        raise ValueError("it is no entry of this number")
    return Entry(
        number=number,
        kind=fields["kind"],
        attempt=int(fields["attempt"]),
        time=str(fields["time"]),
        previous=fields["previous"],
        body=fields["body"],
        sha256=digest,
    )


def _same(there: Entry, fields: Mapping[str, Any]) -> bool:
    # An answer that got lost: what is there is what was to be written, but for the time of asking.
    ours = {name: fields[name] for name in ("kind", "attempt", "previous", "body")}
    return ours == {name: getattr(there, name) for name in ours}


def _gaps(numbers: Sequence[int]) -> Iterator[Damage]:
    there = set(numbers)
    for number in range(1, numbers[-1] if numbers else 0):
        if number not in there:
            yield Damage(number, "is missing")


def _breaks(entries: Sequence[Entry], broken: set[int]) -> Iterator[Damage]:
    digests = {entry.number: entry.sha256 for entry in entries}
    for entry in entries:
        # What a damaged entry's digest was cannot be known; that is told of the damaged one.
        if entry.number - 1 in broken:
            continue
        if entry.previous != digests.get(entry.number - 1):
            broken.add(entry.number)
            yield Damage(entry.number, "does not follow the entry before it")


def _canonical(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def _digest(fields: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(fields)).hexdigest()
