"""What plans the evaluations of an experiment in the child process: every set must fit the training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from durabert.activities.dataset_jobs import take_snapshot
from durabert.activities.jobs import ChildJob, progress_to, stoppable
from durabert.bert.evaluation_data import chosen_split, encoded_labels, evaluation_columns, labelled_rows
from durabert.bert.labels import scheme_of
from durabert.bert.progress import Reporter
from durabert.bert.schema import choose_columns, require_columns
from durabert.bert.snapshots import open_snapshot
from durabert.bert.weighted_metrics import chosen_metrics
from durabert.errors import DataInvalid, DurabertError, UserError
from durabert.specs import (
    DataSpec,
    EvaluationPlan,
    EvaluationPlanRequest,
    EvaluationSpec,
    PlannedEvaluation,
)
from durabert.store.objects import ObjectStore
from durabert.store.snapshots import SnapshotStore

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class PlanJob(ChildJob):
    """Everything the child needs to plan the evaluations of an experiment."""

    request: EvaluationPlanRequest
    """What the workflow asked for."""


@stoppable()
def plan(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Take a snapshot of each evaluation set, and refuse one that does not fit the training data."""
    job = PlanJob.model_validate(payload)
    planner = _Planner(job, job.objects(), progress_to(channel))
    planned = []
    for number, one in enumerate(job.request.sets, start=1):
        with _named(f"evaluation set {one.name or number}", of=len(job.request.sets)):
            planned.append(planner.plan(one))
    return EvaluationPlan(sets=planned).model_dump(mode="json")


@contextmanager
def _named(what: str, *, of: int) -> Iterator[None]:
    """Say which of several evaluation sets a mistake is about."""
    try:
        yield
    except UserError as error:
        if of == 1:
            raise
        raise DurabertError.restored(type(error).__name__, f"{what}: {error}") from None


class _Planner:
    def __init__(self, job: PlanJob, objects: ObjectStore, progress: Reporter) -> None:
        self._job, self._objects, self._progress = job, objects, progress
        self._snapshots = SnapshotStore(objects, job.home / "cache")
        request = job.request
        self._training = open_snapshot(self._snapshots.fetch(request.snapshot))
        self._columns = choose_columns(self._training.train, request.data)
        rows = labelled_rows(self._training.train, self._columns)
        declared = self._training.class_names.get(self._columns.label)
        self._schemes = [
            scheme_of(rows, self._columns.label, task=task, declared=declared)  # type: ignore[arg-type]
            for task in request.tasks
        ]

    def plan(self, one: EvaluationSpec) -> PlannedEvaluation:
        """Return the rows that a set stands for."""
        data, snapshot, split = self._place(one)
        sources = open_snapshot(self._snapshots.fetch(snapshot))
        split = chosen_split(sources, split)
        source = sources.splits()[split]
        columns = evaluation_columns(source, data, texts=self._columns.texts, label=self._columns.label)
        require_columns(source, (*columns.texts, columns.label, *one.slice_by))
        rows = labelled_rows(source, columns)
        for scheme in self._schemes:
            chosen_metrics(one.metrics, scheme.task)
            encoded_labels(scheme, rows)
        named = {"text": columns.text, "text_pair": columns.pair, "label": columns.label}
        return PlannedEvaluation(
            data=data.model_copy(update=named), snapshot=snapshot, split=split, rows=len(rows)
        )

    def _place(self, one: EvaluationSpec) -> tuple[DataSpec, str, str | None]:
        request = self._job.request
        if one.data is not None:
            taken = take_snapshot(one.data, self._objects, self._job.home, self._progress, labelled=False)
            return one.data, taken.snapshot, one.split
        split = one.split or next(
            (name for name in ("test", "validation") if name in self._training.splits()), None
        )
        if split is None:
            raise DataInvalid(
                f"{self._training.name} has neither test nor validation rows of its own to evaluate on; "
                "name an evaluation set with --eval-data"
            )
        return request.data, request.snapshot, split
