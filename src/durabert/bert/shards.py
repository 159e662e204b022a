"""Predict on one shard of a batch: rows in, a Parquet file of predictions and one of errors out."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from durabert.bert.atomic import disk_full
from durabert.bert.outputs import ParquetPredictions, RowId
from durabert.bert.predict import CHUNK_ROWS, Predictor, predictions
from durabert.bert.progress import Reporter
from durabert.bert.records import Record
from durabert.bert.row_groups import RowGroups
from durabert.bert.rows import TextCleaner
from durabert.bert.texts import NUMBERED_ROWS, as_row_id
from durabert.errors import ArtifactDamaged, DataInvalid
from durabert.specs import Prediction, RowRange, ShardFacts, ShardPlan

FACTS_KEY: Final = b"durabert:shard"
"""Under which a file of predictions says what it is, in its own metadata."""
REASON: Final = "reason"


@dataclass(frozen=True)
class ScoredShard:
    """The files of a shard."""

    predictions: bytes
    """Rows with a prediction, in their order."""
    errors: bytes | None
    """Rows that could not be scored, each with the reason; none: there are none."""
    num_errors: int


@dataclass(frozen=True, slots=True)
class _Row:
    row_id: RowId
    texts: tuple[str, ...] = ()
    reason: str | None = None
    """Why it cannot be scored."""


def score_shard(
    predictor: Predictor,
    plan: ShardPlan,
    shard: RowRange,
    source: RowGroups,
    directory: Path,
    reporter: Reporter,
) -> ScoredShard:
    """Predict on the rows of a shard. Its predictions depend on nothing but model, rows and device.

    Args:
        predictor: the model.
        plan: which columns are read.
        shard: the rows.
        source: reads them.
        directory: for a file that is written piece by piece.
        reporter: told of the rows that are done; may raise ``Stopped``.

    Raises:
        ArtifactDamaged: the rows are not those of the snapshot.
        StoreUnavailable: the disk is full.
    """
    job = _ShardJob(predictor, plan, shard, source)
    file = _ShardPredictions(directory / "predictions.parquet", plan)
    with disk_full(file.path), file:
        job.run(file, reporter)
        file.conclude(job.facts())
    return ScoredShard(
        predictions=file.path.read_bytes(),
        errors=_error_table(plan, file.row_id, job.errors) if job.errors else None,
        num_errors=len(job.errors),
    )


def facts_of(predictions: bytes, *, plan_sha256: str, path: str) -> tuple[ShardFacts, int]:
    """Return what a file of predictions says of itself, and its number of rows.

    Args:
        predictions: the content of the file.
        plan_sha256: digest of the plan that it must belong to.
        path: what messages call it.

    Raises:
        ArtifactDamaged: it cannot be read, or is of another batch.
    """
    try:
        metadata = pq.read_metadata(io.BytesIO(predictions))
        facts = ShardFacts.model_validate_json((metadata.metadata or {})[FACTS_KEY])
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise ArtifactDamaged(f"{path} is no file of predictions of a batch: {error!s:.120}") from None
    if facts.plan_sha256 != plan_sha256:
        raise ArtifactDamaged(
            f"{path} belongs to the plan {facts.plan_sha256}, but {plan_sha256} was expected"
        )
    return facts, metadata.num_rows


@dataclass
class _ShardJob:
    predictor: Predictor
    plan: ShardPlan
    shard: RowRange
    source: RowGroups
    errors: list[_Row] = field(default_factory=list)
    truncated: int = 0

    def __post_init__(self) -> None:
        self.cleaner = TextCleaner(self.source)
        named = () if self.plan.task == "regression" else self.plan.labels
        self.label_counts = dict.fromkeys(named, 0)

    def run(self, file: ParquetPredictions, reporter: Reporter) -> None:
        began = time.perf_counter()
        total, done = self.shard.num_rows, 0
        reporter.phase("predicting", steps=total)
        rows = self._rows()
        while chunk := list(islice(rows, CHUNK_ROWS)):
            whole = [row for row in chunk if row.reason is None]
            self.errors += [row for row in chunk if row.reason is not None]
            if whole:
                found = self._predict(whole, reporter)
                file.write([(row.row_id, one) for row, one in zip(whole, found, strict=True)])
            done += len(chunk)
            seconds = time.perf_counter() - began
            reporter.tick(
                step=done, examples_per_second=done / seconds, eta_seconds=seconds / done * (total - done)
            )
        reporter.tick(at_once=True)

    def facts(self) -> ShardFacts:
        usage = self.predictor.usage()
        return ShardFacts(
            plan_sha256=self.shard.plan_sha256,
            first_row=self.shard.first_row,
            num_rows=self.shard.num_rows,
            label_counts=self.label_counts,
            truncated=self.truncated,
            replaced=self.cleaner.unpaired.count,
            device=usage["device"],
            precision=usage["precision"],
        )

    def _rows(self) -> Iterator[_Row]:
        row_id, texts = self.plan.row_id, self.plan.text_columns
        read = texts if row_id is None else [*texts, row_id]
        records = self.source.read_rows(self.shard.first_row, self.shard.num_rows, read)
        for number, record in enumerate(records, start=self.shard.first_row):
            yield self._row(number if row_id is None else as_row_id(record.fields[row_id]), record)

    def _row(self, row_id: RowId, record: Record) -> _Row:
        texts = []
        for column in self.plan.text_columns:
            try:
                text = self.cleaner.clean(record.fields.get(column), column, record.number)
            except DataInvalid as error:
                # All rows are of one file, which need not be told with each.
                return _Row(row_id, reason=str(error).removeprefix(f"{self.source.name}: "))
            if text is None:
                place = f"{self.source.unit} {record.number}"
                return _Row(row_id, reason=f"{place} has no text in the column {column!r}")
            texts.append(text)
        return _Row(row_id, tuple(texts))

    def _predict(self, rows: list[_Row], reporter: Reporter) -> list[Prediction]:
        texts, *pairs = (list(column) for column in zip(*(row.texts for row in rows), strict=True))
        tokens, logits = self.predictor.logits(texts, pairs[0] if pairs else None, on_batch=reporter.tick)
        found = predictions(self.plan.task, self.plan.labels, logits)
        for prediction in found:
            for label in prediction.labels or ([prediction.label] if prediction.label is not None else ()):
                self.label_counts[label] += 1
        self.truncated += tokens.num_truncated
        return found


class _ShardPredictions(ParquetPredictions):
    """The same columns in every shard, whatever its rows are, and its facts in the metadata."""

    def __init__(self, path: Path, plan: ShardPlan) -> None:
        row_id = plan.row_id or NUMBERED_ROWS
        super().__init__(path, task=plan.task, labels=plan.labels, row_id=row_id)
        self._plan = plan

    def conclude(self, facts: ShardFacts) -> None:
        """Write the facts; a shard without a prediction is a file without rows."""
        if self._writer is None:
            self._writer = self._opened(numbered=self._plan.numbered)
        self._writer.add_key_value_metadata({FACTS_KEY: facts.model_dump_json()})

    def _numbered(self, rows: Any) -> bool:  # noqa: ARG002 - of all shards, not of these rows
        return self._plan.numbered


def _error_table(plan: ShardPlan, row_id: str, errors: list[_Row]) -> bytes:
    ids = [row.row_id if plan.numbered else str(row.row_id) for row in errors]
    schema = pa.schema(
        [
            (row_id if row_id != REASON else "row_id", pa.int64() if plan.numbered else pa.string()),
            (REASON, pa.string()),
        ]
    )
    target = io.BytesIO()
    pq.write_table(pa.table([ids, [row.reason for row in errors]], schema=schema), target, compression="zstd")
    return target.getvalue()
