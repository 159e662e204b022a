"""Evaluations: what a trained model is measured on, how, and what comes out."""

from __future__ import annotations

import hashlib
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from durabert.specs.base import ConfigurationName, Device, ErrorInfo, RunName, Task, Wire
from durabert.specs.data import SNAPSHOT_PREFIX, DataSpec

EVALUATION_PREFIX: Final = "evaluate:"
"""Before the run and a digest in the id of a workflow; no name of a run begins with it."""
MAX_EVALUATIONS: Final = 500
"""Of one experiment, over all its runs: each costs a constant part of its history."""


class EvaluationOptions(Wire):
    """How to measure; all of it is a part of what an evaluation is."""

    split: str | None = Field(default=None, min_length=1)
    """Split of the data; default: test, else validation, else the only one."""
    metrics: tuple[str, ...] = ()
    """Metrics to compute; none: all that the task has."""
    slice_by: tuple[str, ...] = ()
    """Columns of the data; the metrics are also computed for the rows of each of their values."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Probability with which an interval is to hold the true value."""
    resamples: int = Field(default=1000, ge=100, le=100_000)
    """Samples of the bootstrap."""
    seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of the bootstrap."""
    bins: int = Field(default=15, ge=1, le=1000)
    """Bins of the reliability diagram."""
    worst: int = Field(default=20, ge=0, le=10_000)
    """Errors of largest loss that are kept with their texts."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; ``auto`` is bf16 where the hardware has it, else fp32."""
    device: Device = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for field in ("metrics", "slice_by"):
            names = getattr(self, field)
            twice = [name for name in names if names.count(name) > 1]
            if twice:
                raise ValueError(f"{field} has {twice[0]!r} more than once, but each should be there once")
        return self


class EvaluationSpec(EvaluationOptions):
    """One evaluation set of an experiment: every run is measured on it as soon as it is trained."""

    name: ConfigurationName | None = None
    """Name of the set inside its experiment; default: its number from 1."""
    data: DataSpec | None = None
    """Where the rows are; columns that it leaves out are those of the training; none: the training data."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, fields: Any) -> Any:
        return _with_split(fields)


class EvaluationRequest(EvaluationOptions):
    """The argument of ``BertRunEvaluationWorkflow`` and of the activity ``evaluate_bert``."""

    run: RunName
    """The run whose model is evaluated."""
    data: DataSpec
    """Where the rows are: anything that can be trained on, or a snapshot."""
    snapshot: str | None = None
    """Snapshot that was taken of the data before; none: it is taken now."""

    @model_validator(mode="before")
    @classmethod
    def _source_alone(cls, fields: Any) -> Any:
        return _with_split(fields)

    def evaluation_id(self) -> str:
        """Return the id of its workflow: the same request twice is one."""
        digest = hashlib.sha256(self.model_dump_json().encode()).hexdigest()
        return f"{EVALUATION_PREFIX}{self.run}:{digest[:16]}"


def _with_split(fields: Any) -> Any:
    """Read ``data = "snapshot:ID/SPLIT"`` as the data and the split."""
    if not isinstance(fields, dict):
        return fields
    data = fields.get("data")
    if isinstance(data, DataSpec):
        data = data.model_dump(exclude_unset=True)
    if isinstance(data, str):
        data = {"source": data}
    if not isinstance(data, dict):
        return fields
    source = data.get("source")
    if isinstance(source, str) and source.startswith(SNAPSHOT_PREFIX) and "/" in source:
        source, _, split = source.partition("/")
        if fields.get("split") not in {None, split}:
            raise ValueError(f"split is {fields['split']!r}, but the data says {split!r}")
        return {**fields, "data": {**data, "source": source}, "split": split}
    return {**fields, "data": data}


class EvaluationResult(Wire):
    """The result of ``evaluate_bert``: small; texts, predictions and tables are in the artifact store."""

    evaluation: str
    """Id: digest of run, model, snapshot, split and options."""
    run: str
    """The run whose model was evaluated."""
    model_sha256: str
    """Digest of its weights."""
    data: str
    """Short name of the data."""
    snapshot: str
    """Snapshot of the data."""
    split: str
    """Split of it."""
    rows: int
    """Rows with a text and a label."""
    task: Task
    """What the model has learned."""
    metric: str
    """The first one to look at: that which picked the best epoch, if it was computed."""
    metrics: dict[str, float]
    """Metrics on all rows."""
    intervals: dict[str, tuple[float, float]]
    """Percentile bootstrap interval of each metric."""
    confidence: float
    """Probability with which an interval is to hold the true value."""
    calibration_error: float | None = None
    """Expected calibration error, 0 to 1; none for regression."""
    errors: int | None = None
    """Rows with a wrong label; none for regression."""
    slices: int = 0
    """Slices in the report."""
    reused: bool = False
    """It was computed before and found in the store."""
    seconds: float
    """Wall-clock seconds of the computation."""
    device: str
    """Where it was computed."""
    precision: str
    """Compute precision that was used."""
    attempts: int = 1
    """Attempts of the activity, this one included."""
    notices: list[str] = Field(default_factory=list)
    """What was found in the data and handled; the first 10."""


class EvaluationOutcome(Wire):
    """How one evaluation of an experiment ended."""

    name: str
    """Name or number of the evaluation set."""
    status: Literal["completed", "failed", "cancelled"]
    """How it ended."""
    result: EvaluationResult | None = None
    """The result of a completed one."""
    error: ErrorInfo | None = None
    """Why it failed."""


class EvaluationPlanRequest(Wire):
    """The argument of the activity ``plan_evaluations``."""

    data: DataSpec
    """What is trained on."""
    snapshot: str
    """Snapshot of it."""
    tasks: tuple[str, ...]
    """Tasks that the configurations name."""
    sets: tuple[EvaluationSpec, ...]
    """What the runs are to be evaluated on."""


class PlannedEvaluation(Wire):
    """An evaluation set whose rows fit the training data."""

    data: DataSpec
    """Where the rows are, with all columns named."""
    snapshot: str
    """Snapshot of it."""
    split: str
    """Split of it."""
    rows: int
    """Rows with a text and a label."""


class EvaluationPlan(Wire):
    """The result of ``plan_evaluations``."""

    sets: list[PlannedEvaluation]
    """One entry an evaluation set, in their order."""


class ClassScores(Wire):
    """How one label is recognised."""

    label: str
    """The label."""
    precision: float
    """Share of the rows with this prediction that have the label."""
    recall: float
    """Share of the rows with this label that are predicted so."""
    f1: float
    """Harmonic mean of the two."""
    support: int
    """Rows with this label."""


class ReliabilityBin(Wire):
    """Predictions of about the same confidence."""

    low: float
    """Confidence above this."""
    high: float
    """Up to this."""
    rows: int
    """Predictions in the bin."""
    confidence: float | None
    """Their mean confidence; none: there are none."""
    accuracy: float | None
    """Share of them that is right."""


class SliceScores(Wire):
    """The metrics of the rows with one value in one column."""

    column: str
    """The column."""
    value: str
    """The value, as text."""
    rows: int
    """Rows with it."""
    metrics: dict[str, float]
    """Metrics on them."""
    intervals: dict[str, tuple[float, float]]
    """Percentile bootstrap interval of each."""


class EvaluationReport(Wire):
    """What an evaluation says beside its metrics; in the artifact store."""

    labels: list[str]
    """Label names by class number; one for regression."""
    per_class: list[ClassScores] = Field(default_factory=list)
    """One entry a label; none for regression."""
    confusion: list[list[int]] | None = None
    """Rows by true label and predicted label; one label per text only."""
    calibration_error: float | None = None
    """Expected calibration error."""
    reliability: list[ReliabilityBin] = Field(default_factory=list)
    """Bins of equal width; none for regression."""
    slices: list[SliceScores] = Field(default_factory=list)
    """By column, the largest slice first."""
