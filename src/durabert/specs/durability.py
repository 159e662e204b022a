"""Snapshots and checkpoints: what to ask for and what is told of them."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from durabert.specs.base import RunName, Wire, checked_run
from durabert.specs.data import DataSpec

CURVE_FILE: Final = "curve.parquet"
"""The steps since the checkpoint before; no part of the state, and never dropped: the curve stays whole."""
STATE_FILE: Final = "state.json"
"""Numbers of the state: step, metrics, and the history of the epochs."""


class CheckpointPolicy(Wire):
    """When checkpoints are made and which of them are kept."""

    every_steps: int | None = Field(default=None, ge=1)
    """Optimizer steps between two checkpoints; none: by their measured cost, at most 60 s apart."""
    keep_last: int = Field(default=2, ge=1, le=1000)
    """How many of the newest are kept; that of the best epoch is kept besides."""
    keep_every: int | None = Field(default=None, ge=1)
    """Keep every k-th besides; none: no others."""


class CheckpointRef(Wire):
    """A checkpoint of a run, written ``RUN`` or ``RUN@STEP``."""

    run: RunName
    """Full name of the run."""
    step: int | None = Field(default=None, ge=0)
    """Optimizer steps done; none: its newest checkpoint."""

    @classmethod
    def parse_text(cls, text: str) -> CheckpointRef:
        """Read ``RUN`` or ``RUN@STEP``.

        Raises:
            NameInvalid: the run's name is not allowed.
            SpecInvalid: the step is no number from 0.
        """
        run, separator, step = text.partition("@")
        return cls.parse({"run": checked_run(run), "step": step if separator else None})


class SnapshotRequest(Wire):
    """The argument of the activity ``create_dataset_snapshot``."""

    data: DataSpec
    """What to take a snapshot of."""


class SnapshotResult(Wire):
    """The result of ``create_dataset_snapshot``."""

    snapshot: str
    """Id: digest of all splits, columns and class names."""
    name: str
    """Short name of the source."""
    rows: dict[str, int]
    """Number of rows by split."""
    columns: list[str]
    """Names of the columns."""
    created: bool
    """Whether it is new; the same content is stored once."""
    notices: list[str] = Field(default_factory=list)
    """What was found in the data and handled, one sentence each."""


class AttemptRecord(Wire):
    """One attempt of a run, as its journal tells it."""

    number: int
    """Number of the attempt from 1, over all executions of the workflow."""
    worker: str
    """Host and process that made it."""
    started: str
    """When it began, ISO 8601 in UTC."""
    resumed_from: int | None = None
    """Step of the checkpoint that it went on from; none: the beginning."""
    last_step: int | None = None
    """Newest step that it committed a checkpoint of."""
    ended: str | None = None
    """Class name of the error that ended it; none: it completed, or was killed without a word."""
    message: str | None = None
    """What that error said."""


class RunReport(Wire):
    """What an activity tells its workflow of a run, seldom: the argument of the signal ``report``."""

    run: str
    """Full name of the run."""
    kind: Literal["started", "progress", "ended"]
    """An attempt began, goes on, or ended with an error; how a run completes, its result tells."""
    attempt: int
    """Number of the attempt, as the server counts."""
    worker: str
    """Host and process of the worker."""
    step: int = 0
    """Optimizer steps done."""
    steps: int = 0
    """All of them, 0 while unknown."""
    epoch: int = 0
    """Current epoch from 1, 0 before the first."""
    loss: float | None = None
    """Training loss, smoothed over the last steps."""
    checkpoint_step: int | None = None
    """Step of the newest committed checkpoint."""
    resumed_from: int | None = None
    """Step of the checkpoint that the attempt went on from; none: the beginning."""
    error: str | None = None
    """Class name of the error that ended the attempt."""
    message: str | None = None
    """What that error said."""


class AttemptReport(Wire):
    """One attempt, as a workflow knows it."""

    number: int
    """Number of the attempt, as the server counts."""
    worker: str
    """Host and process of the worker."""
    resumed_from: int | None = None
    """Step of the checkpoint that it went on from; none: the beginning."""
    ended: str | None = None
    """Class name of the error that ended it; none: it goes on, or completed."""
    message: str | None = None
    """What that error said."""


class RunProgress(Wire):
    """How far a run is, as its activity last reported."""

    run: str
    """Full name of the run."""
    step: int = 0
    """Optimizer steps done."""
    steps: int = 0
    """All of them, 0 while unknown."""
    epoch: int = 0
    """Current epoch from 1, 0 before the first."""
    loss: float | None = None
    """Training loss, smoothed over the last steps."""
    checkpoint_step: int | None = None
    """Step of the newest committed checkpoint."""
    attempts: list[AttemptReport] = Field(default_factory=list)
    """The newest 50."""


class ExperimentProgress(Wire):
    """The answer of the query ``progress`` of ``CheckpointedBertTrainingWorkflow``."""

    runs: list[RunProgress]
    """One entry a run, in the order of the configurations."""
