"""What evaluates inside the child process: data, model and store put together. No Temporal here."""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from durabert.activities.dataset_jobs import take_snapshot
from durabert.activities.jobs import ChildJob, finished_run, progress_to, stoppable
from durabert.bert.evaluation import MAX_SLICES, Evaluation, evaluate_rows
from durabert.bert.evaluation_data import (
    EvaluationRows,
    chosen_split,
    evaluation_columns,
    read_evaluation_rows,
)
from durabert.bert.evaluation_tables import prediction_table, worst_table
from durabert.bert.metrics import best_metric
from durabert.bert.predict import CHUNK_ROWS, Predictor
from durabert.bert.progress import Reporter
from durabert.bert.snapshots import open_snapshot
from durabert.bert.sources import Sources
from durabert.bert.tokens import truncation_notice
from durabert.bert.weighted_metrics import chosen_metrics
from durabert.faults import reach
from durabert.specs import (
    EvaluationOptions,
    EvaluationRequest,
    EvaluationResult,
    FineTuneResult,
)
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.evaluations import (
    PREDICTIONS,
    REPORT,
    WORST,
    EvaluationStore,
    identity_digest,
)
from durabert.store.objects import ObjectStore
from durabert.store.runs import RunStore
from durabert.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from durabert.supervisor import Channel

SHOWN_NOTICES: Final = 10
"""In a result; a history is no place for more."""


class EvaluationJob(ChildJob):
    """Everything the child needs to evaluate."""

    request: EvaluationRequest
    """What the workflow asked for."""
    attempt: int
    """Number of the attempt from 1."""


@stoppable()
def evaluate(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Evaluate a finished run, unless the store has this evaluation already."""
    job = EvaluationJob.model_validate(payload)
    began = time.perf_counter()
    objects, progress = job.objects(), progress_to(channel)
    progress.phase("loading data")
    run = finished_run(objects, job.request.run, job.home)
    subject = _Subject.of(job, run, objects, progress)
    store = EvaluationStore(objects)
    there = store.find(run.run, subject.id)
    if there is not None:
        return there.result.model_copy(update={"reused": True}).model_dump(mode="json")
    rows = subject.rows()
    predictor = subject.predictor(progress)
    logits, notices = _logits(predictor, rows, progress)
    reach("evaluation.predicted", run.run)
    evaluation = _evaluated(subject, rows, logits, progress)
    result = subject.result(
        evaluation, rows, notices, predictor, seconds=time.perf_counter() - began, attempts=job.attempt
    )
    progress.phase("saving")
    files = {
        PREDICTIONS: prediction_table(evaluation, rows),
        WORST: worst_table(evaluation, rows),
        REPORT: evaluation.report.model_dump_json(indent=1).encode(),
    }
    return store.commit(subject.identity, result, files).result.model_dump(mode="json")


class _Subject:
    """What is evaluated: a run, and rows that fit it."""

    def __init__(
        self, run: FineTuneResult, job: EvaluationJob, snapshot: str, sources: Sources, label: str | None
    ) -> None:
        request = job.request
        self.run, self.request, self.snapshot, self.sources = run, request, snapshot, sources
        self._home = job.home
        self.split = chosen_split(sources, request.split)
        self._source = sources.splits()[self.split]
        self.metrics = chosen_metrics(request.metrics, run.task)
        self.columns = evaluation_columns(self._source, request.data, texts=run.text_columns, label=label)
        self.identity: dict[str, Any] = {
            "run": run.run,
            "model_sha256": run.model_sha256,
            "snapshot": snapshot,
            "split": self.split,
            "columns": [*self.columns.texts, self.columns.label],
            "options": request.model_dump(
                mode="json", include=set(EvaluationOptions.model_fields) - {"split"}
            ),
        }

    @classmethod
    def of(
        cls, job: EvaluationJob, run: FineTuneResult, objects: ObjectStore, progress: Reporter
    ) -> _Subject:
        """Find the rows, taking a snapshot of them unless there is one."""
        request = job.request
        snapshot = request.snapshot
        if snapshot is None:
            snapshot = take_snapshot(request.data, objects, job.home, progress, labelled=False).snapshot
        sources = open_snapshot(SnapshotStore(objects, job.home / "cache").fetch(snapshot))
        return cls(run, job, snapshot, sources, _trained_label(run, objects))

    @property
    def id(self) -> str:
        """Digest of all that it is."""
        return identity_digest(self.identity)

    def rows(self) -> EvaluationRows:
        """Read the rows."""
        return read_evaluation_rows(
            self._source,
            self.columns,
            task=self.run.task,
            labels=self.run.labels,
            slice_by=self.request.slice_by,
        )

    def predictor(self, progress: Reporter) -> Predictor:
        """Load the model."""
        progress.phase("loading model")
        return Predictor.load(
            RunStore(self._home).model_directory(self.run.run),
            precision=self.request.precision,
            device=self.request.device,
        )

    def result(
        self,
        evaluation: Evaluation,
        rows: EvaluationRows,
        notices: list[str],
        predictor: Predictor,
        *,
        seconds: float,
        attempts: int,
    ) -> EvaluationResult:
        """Return what a history holds of it."""
        usage = predictor.usage()
        told = [*rows.notices, *notices, *evaluation.notices, *self._own_rows()]
        regression = self.run.task == "regression"
        return EvaluationResult(
            evaluation=self.id,
            run=self.run.run,
            model_sha256=self.run.model_sha256,
            data=self.sources.name,
            snapshot=self.snapshot,
            split=self.split,
            rows=len(rows),
            task=self.run.task,
            metric=self._first_metric(),
            metrics=evaluation.metrics,
            intervals=evaluation.intervals,
            confidence=self.request.confidence,
            calibration_error=evaluation.report.calibration_error,
            errors=None if regression else int(evaluation.judged.wrong().sum()),
            slices=len(evaluation.report.slices),
            seconds=seconds,
            device=usage["device"],
            precision=usage["precision"],
            attempts=attempts,
            notices=told[:SHOWN_NOTICES],
        )

    def _first_metric(self) -> str:
        usual = (self.run.metric, best_metric("auto", self.run.task))
        return next((name for name in usual if name in self.metrics), self.metrics[0])

    def _own_rows(self) -> list[str]:
        if self.snapshot != self.run.snapshot or self.split != "train":
            return []
        return [f"{self.split}: these are the rows that the run was trained on, which says nothing of others"]


def _trained_label(run: FineTuneResult, objects: ObjectStore) -> str | None:
    """Return the label column that a run was trained on, where it is known."""
    if run.task == "regression":
        return run.labels[0]
    for entry in RunCheckpoints(objects, run.run).journal.read().of_kind("started"):
        told: str | None = entry.body["environment"]["data"].get("label")
        return told
    return None


def _logits(
    predictor: Predictor, rows: EvaluationRows, progress: Reporter
) -> tuple[NDArray[np.float32], list[str]]:
    began = time.perf_counter()
    progress.phase("predicting", steps=len(rows))
    parts, num_truncated = [], 0
    for first in range(0, len(rows), CHUNK_ROWS):
        chunk = slice(first, first + CHUNK_ROWS)
        pairs = None if rows.pairs is None else rows.pairs[chunk]
        tokens, logits = predictor.logits(rows.texts[chunk], pairs, on_batch=progress.tick)
        parts.append(logits)
        num_truncated += tokens.num_truncated
        done = min(len(rows), first + CHUNK_ROWS)
        progress.tick(step=done, examples_per_second=done / (time.perf_counter() - began))
    notices = truncation_notice(
        "evaluation",
        num_truncated=num_truncated,
        num_texts=len(rows),
        max_length=predictor.facts.max_length,
    )
    return np.concatenate(parts), notices


def _evaluated(
    subject: _Subject, rows: EvaluationRows, logits: NDArray[np.float32], progress: Reporter
) -> Evaluation:
    num_slices = sum(min(MAX_SLICES, len(set(values))) for values in rows.slices.values())
    samples = itertools.count(1)
    progress.phase("evaluating", step=0, steps=subject.request.resamples * (1 + num_slices))
    return evaluate_rows(
        subject.run.task,
        subject.run.labels,
        logits,
        rows,
        subject.metrics,
        subject.request,
        on_sample=lambda: progress.tick(step=next(samples)),
    )
