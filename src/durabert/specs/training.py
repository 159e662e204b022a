"""One training: what the activity ``fine_tune_bert`` is asked for, and what a finished run is."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from durabert.specs.base import Name, RunName, Task, Wire
from durabert.specs.configuration import FineTuneConfig
from durabert.specs.data import DataSpec
from durabert.specs.durability import AttemptRecord, CheckpointPolicy, CheckpointRef
from durabert.specs.lineage import Lineage
from durabert.specs.profile import TrainingProfile


class FineTuneRequest(Wire):
    """The argument of the activity ``fine_tune_bert``."""

    experiment: Name
    """The experiment that the run belongs to."""
    run: RunName
    """Full name of the run, and of its directory."""
    data: DataSpec
    """What to train on."""
    config: FineTuneConfig
    """How to train."""
    snapshot: str | None = None
    """Snapshot to train on in place of the data's source; its columns are chosen as ``data`` says."""
    checkpoints: CheckpointPolicy | None = None
    """Make checkpoints and resume from them; none: start anew in every attempt."""
    start_from: CheckpointRef | None = None
    """Checkpoint of another run to begin with; only with ``checkpoints``."""
    reuse: bool = False
    """Link a run that was trained on the same inputs before, in place of training."""
    started_by: str | None = None
    """User and host of the client that started the experiment."""
    reproduces: RunName | None = None
    """The run that this one is to do again."""
    until_epoch: int | None = Field(default=None, ge=1)
    """Stop after so many epochs of the configuration's with a checkpoint of that very state; none: do not."""
    thresholds: tuple[float | None, ...] = ()
    """By epoch: stop after it, too, if the best value of the metric so far is worse."""
    score_test: bool = True
    """Whether the finished model is scored on the test rows, if there are any."""

    @model_validator(mode="after")
    def _goes_on_from_checkpoints(self) -> Self:
        if self.checkpoints is None and (self.until_epoch is not None or self.thresholds):
            raise ValueError("until_epoch and thresholds need checkpoints, from which training goes on later")
        return self


class RowCounts(Wire):
    """Rows that were used."""

    train: int
    """Rows trained on in each epoch."""
    validation: int
    """Rows of the validation after each epoch."""
    test: int = 0
    """Rows of the final test, 0 without one."""


class EpochResult(Wire):
    """The state after one epoch."""

    epoch: int
    """Number of the epoch from 1."""
    step: int
    """Optimizer steps done so far."""
    train_loss: float
    """Mean training loss of the epoch, by example."""
    metrics: dict[str, float]
    """Validation metrics."""


class FineTuneResult(Wire):
    """What a finished run is: the result of the activity ``fine_tune_bert``, and ``result.json``."""

    run: str
    """Full name of the run."""
    experiment: str
    """The experiment that it belongs to."""
    directory: str
    """The run's directory on the worker."""
    task: Task
    """What was learned."""
    labels: list[str]
    """Label names by class number; one for regression."""
    text_columns: list[str]
    """The one or two columns that were read."""
    model: str
    """The base model, as it was asked for."""
    model_sha256: str
    """Digest of the trained weights: names, types, shapes and bytes in sorted order."""
    finished: bool = True
    """Whether it is at its end; else it was left after ``epochs`` epochs, has no model yet, and can go on."""
    data_sha256: str
    """Digest of the rows that were used, independent of the file format."""
    config: FineTuneConfig
    """The configuration."""
    steps: int
    """Optimizer steps."""
    epochs: int
    """Epochs that were trained; fewer than asked for after early stopping."""
    best_epoch: int
    """The epoch whose weights were kept, from 1."""
    attempts: int
    """Attempts of the activity, this one included."""
    seconds: float
    """Wall-clock seconds of this attempt, loading and saving included."""
    train_seconds: float
    """Wall-clock seconds of the training steps alone."""
    train_loss: float
    """Mean training loss of the last epoch, by example."""
    metric: str
    """The validation metric that picked the best epoch."""
    metrics: dict[str, float]
    """Validation metrics of the best epoch."""
    test_metrics: dict[str, float] | None = None
    """Metrics on the test rows; none without labelled test rows."""
    history: list[EpochResult]
    """One entry an epoch."""
    rows: RowCounts
    """Rows that were used."""
    examples_per_second: float
    """Training examples a second of the training steps."""
    peak_memory_mib: float
    """Largest resident memory of the training process, MiB."""
    peak_device_memory_mib: float | None = None
    """Largest memory that torch reserved on the GPU, MiB; none on a CPU."""
    device: str
    """Where it was trained, such as ``cpu`` or ``cuda (NVIDIA H100)``."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Compute precision that was used."""
    deterministic: bool
    """Whether torch was held to deterministic kernels."""
    num_threads: int
    """CPU threads that torch computed with; sums are ordered by it, so equal bits need equal numbers."""
    notices: list[str] = Field(default_factory=list)
    """What was found in the data and handled, one sentence each, with counts and first line numbers."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of durabert and the libraries that matter."""
    snapshot: str | None = None
    """Snapshot that was trained on."""
    parent: CheckpointRef | None = None
    """Checkpoint of another run that this one began with."""
    state_sha256: str | None = None
    """Digest of the final state: weights, optimizer, best weights, metrics; none without checkpoints."""
    micro_batches: int | None = None
    """Pieces that each batch was computed in at the end; more than asked for after lack of memory."""
    num_processes: int = 1
    """Processes that shared each batch in this attempt."""
    attempt_log: list[AttemptRecord] = Field(default_factory=list)
    """What each attempt began with and how it ended; the newest 100."""
    checkpoint_seconds: float | None = None
    """Seconds of this attempt that the training loop stood still for checkpoints."""
    profile: TrainingProfile | None = None
    """Where the time of this attempt's steps went; none if it made none."""
    reused_from: str | None = None
    """The run that was trained on the same inputs and is linked here; none: this one was trained."""
    lineage: Lineage | None = None
    """What it was made of; none: an older version trained it."""
