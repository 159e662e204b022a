"""What the store knows of a run: its curve, its epochs and its attempts; needs neither server nor torch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from itertools import groupby
from typing import Any

from durabert.bert.curve import Point, from_parquet
from durabert.bert.evaluation_tables import read_worst
from durabert.errors import ArtifactDamaged
from durabert.specs import AttemptRecord, EpochResult, EvaluationReport, EvaluationResult, FineTuneResult
from durabert.specs.durability import CURVE_FILE, STATE_FILE
from durabert.store.attempts import attempts_of
from durabert.store.checkpoints import Checkpoint, RunCheckpoints
from durabert.store.evaluations import WORST, EvaluationStore, StoredEvaluation
from durabert.store.journal import NUM_READERS, Entry, Record
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore

Pieces = dict[str, list[Point]]
"""Pieces of curves by their digest, for who reads a run again and again."""


@dataclass(frozen=True)
class Span:
    """When an attempt began, when it was heard of last, and when it committed checkpoints."""

    attempt: AttemptRecord
    last_heard: str
    """Time of its last entry, by the writer's clock, ISO 8601 in UTC."""
    completed: bool
    """Whether it made the result."""
    checkpoints: Sequence[tuple[int, str]]
    """Step and time of each."""


@dataclass(frozen=True)
class EvaluationRecord:
    """An evaluation of a run, with its report and its worst errors."""

    result: EvaluationResult
    report: EvaluationReport
    worst: Sequence[Mapping[str, Any]]
    """Rows of the table ``worst.parquet``, the largest loss first."""


@dataclass(frozen=True)
class RunRecord:
    """A run as the store has it; empty where it made no checkpoints."""

    run: str
    points: Sequence[Point] = ()
    """One a step, none missing and none twice, up to the newest checkpoint."""
    times: Sequence[datetime] = ()
    """When each step ended: counted back from the checkpoint after it."""
    epochs: Sequence[EpochResult] = ()
    spans: Sequence[Span] = ()
    identity: str | None = None
    """Digest of what the run is: another one, and it is another run of the same name."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """What the newest attempt wrote down of itself."""
    result: FineTuneResult | None = None
    result_sha256: str | None = None
    """Digest of the object that made the run finished."""
    evaluations: Sequence[EvaluationRecord] = ()
    damages: Sequence[str] = ()
    """What could not be read, one sentence each."""

    @property
    def known(self) -> bool:
        """Whether the store has anything of it."""
        return bool(self.spans) or self.result is not None


def read_record(objects: ObjectStore, run: str, *, pieces: Pieces | None = None) -> RunRecord:
    """Return all that the store has of a run, whatever of it is damaged.

    Args:
        objects: the store.
        run: full name of the run.
        pieces: those that were read before; new ones are added.

    Raises:
        StoreUnavailable: the store does not answer.
    """
    checkpoints = RunCheckpoints(objects, run)
    record = checkpoints.journal.read()
    damages = [f"entry {damage.number} of the journal {damage.reason}" for damage in record.damages]
    stored = _unless_damaged(lambda: ResultStore(objects).result(run), damages)
    result = None if stored is None else stored.result
    started = record.of_kind("started")
    identity = started[-1].body["identity"] if started else None
    last = _last(checkpoints, record, identity)
    points, times = [], []
    if last is not None:
        read = _unless_damaged(lambda: _timed_curve(checkpoints, record, last, pieces), damages)
        points, times = read or ([], [])
    epochs = [] if result is None else result.history
    if result is None and last is not None:
        epochs = _unless_damaged(lambda: _epochs(checkpoints, last), damages) or []
    return RunRecord(
        run=run,
        points=points,
        times=times,
        epochs=epochs,
        spans=_spans(record, identity),
        identity=identity,
        environment=started[-1].body["environment"] if started else {},
        result=result,
        result_sha256=None if stored is None else stored.sha256,
        evaluations=list(_evaluations(objects, run, damages)),
        damages=damages,
    )


def curve(
    checkpoints: RunCheckpoints, record: Record, last: Checkpoint, *, pieces: Pieces | None = None
) -> list[Point]:
    """Return the points of a run up to a checkpoint.

    Raises:
        ArtifactDamaged: a piece is missing or damaged.
    """
    return [point for _, piece in _curve(checkpoints, record, last, pieces) for point in piece]


def _curve(
    checkpoints: RunCheckpoints, record: Record, last: Checkpoint, pieces: Pieces | None
) -> list[tuple[Checkpoint, list[Point]]]:
    known = {} if pieces is None else pieces
    line = checkpoints.line(record, last)

    def piece(checkpoint: Checkpoint) -> list[Point]:
        digest = next((ref.sha256 for ref in checkpoint.files if ref.name == CURVE_FILE), "")
        if digest not in known:
            known[digest] = from_parquet(checkpoints.read(checkpoint, names=[CURVE_FILE])[CURVE_FILE])
        return known[digest]

    with ThreadPoolExecutor(NUM_READERS) as readers:
        read = list(readers.map(piece, line))
    # Whose commit was not answered comes with the piece of the next one, too.
    done = [0, *(checkpoint.step for checkpoint in line)]
    return [
        (checkpoint, [point for point in points if point.step > before])
        for before, checkpoint, points in zip(done, line, read, strict=False)
    ]


def _timed_curve(
    checkpoints: RunCheckpoints, record: Record, last: Checkpoint, pieces: Pieces | None
) -> tuple[list[Point], list[datetime]]:
    committed = {entry.number: datetime.fromisoformat(entry.time) for entry in record.of_kind("checkpoint")}
    points: list[Point] = []
    times: list[datetime] = []
    for checkpoint, piece in _curve(checkpoints, record, last, pieces):
        end = committed[checkpoint.number]
        backwards = []
        for point in reversed(piece):
            backwards.append(end)
            end -= timedelta(seconds=point.seconds)
        points += piece
        # A clock that was set back does not make time run backwards.
        times += [max(time, times[-1]) if times else time for time in reversed(backwards)]
    return points, times


def _last(checkpoints: RunCheckpoints, record: Record, identity: str | None) -> Checkpoint | None:
    kept = [one for one in checkpoints.kept(record) if one.identity == identity]
    return kept[-1] if kept else None


def _epochs(checkpoints: RunCheckpoints, last: Checkpoint) -> list[EpochResult]:
    document = checkpoints.read(last, names=[STATE_FILE])[STATE_FILE]
    try:
        history = json.loads(document)["history"]
        return [EpochResult.model_validate(epoch, extra="ignore") for epoch in history]
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactDamaged(f"{STATE_FILE} of step {last.step} cannot be read: {error!s:.100}") from None


def _evaluations(objects: ObjectStore, run: str, damages: list[str]) -> Iterator[EvaluationRecord]:
    store = EvaluationStore(objects)
    for stored in store.of_run(run):
        read = _unless_damaged(partial(_evaluation, store, stored), damages)
        if read is not None:
            yield read


def _evaluation(store: EvaluationStore, stored: StoredEvaluation) -> EvaluationRecord:
    return EvaluationRecord(stored.result, store.report(stored), read_worst(store.read(stored, WORST)))


def _spans(record: Record, identity: str | None) -> list[Span]:
    entries = {
        attempt: list(found)
        for attempt, found in groupby(
            sorted(record.entries, key=lambda entry: entry.attempt), key=lambda entry: entry.attempt
        )
    }
    return [
        Span(
            attempt=attempt,
            last_heard=entries[attempt.number][-1].time,
            completed=any(entry.kind == "result" for entry in entries[attempt.number]),
            checkpoints=_committed(entries[attempt.number]),
        )
        for attempt in attempts_of(record, identity=identity)
    ]


def _committed(entries: Sequence[Entry]) -> list[tuple[int, str]]:
    return [(entry.body["step"], entry.time) for entry in entries if entry.kind == "checkpoint"]


def _unless_damaged(read: Callable[[], Any], damages: list[str]) -> Any:
    try:
        return read()
    except ArtifactDamaged as error:
        damages.append(str(error))
        return None
