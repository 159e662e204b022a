"""Configurations, experiments, and what comes out of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from durabert.errors import SpecInvalid
from durabert.specs.base import (
    RUN_SEPARATOR,
    ConfigurationName,
    Device,
    ErrorInfo,
    Name,
    RunName,
    Task,
    Wire,
)
from durabert.specs.data import DataSpec
from durabert.specs.durability import AttemptRecord, CheckpointPolicy, CheckpointRef
from durabert.specs.evaluation import MAX_EVALUATIONS, EvaluationOutcome, EvaluationSpec
from durabert.specs.lineage import Lineage
from durabert.specs.profile import TrainingProfile

Phase = Literal[
    "starting",
    "loading data",
    "taking a snapshot",
    "tokenizing",
    "loading model",
    "training",
    "validating",
    "saving",
    "predicting",
    "exporting",
    "evaluating",
]
RunStatus = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]

LOWER_IS_BETTER = frozenset({"loss", "mse", "mae"})
"""Metrics of which less is better."""

MAX_RUNS = 200
"""Largest number of runs in one experiment: a history stays far below Temporal's limits."""


class FineTuneConfig(Wire):
    """One configuration: base model, optimization, limits. The defaults give a good model."""

    name: ConfigurationName | None = None
    """Name of the configuration inside its experiment; default: its number from 1."""
    model: str = Field(default="minilm", min_length=1)
    """``minilm`` (offline), a directory with safetensors weights, or a hub id such as ``roberta-base``."""
    task: Literal["auto"] | Task = "auto"
    """What the labels mean; default: inferred from the label column."""
    epochs: int = Field(default=3, ge=1, le=1000)
    """Passes over the training rows."""
    batch_size: int = Field(default=16, ge=1, le=4096)
    """Examples per optimizer step, over all micro-batches."""
    gradient_accumulation: int = Field(default=1, ge=1, le=4096)
    """Micro-batches that a batch is computed in, one after the other; the result is the same."""
    learning_rate: float = Field(default=5e-5, gt=0, le=1, allow_inf_nan=False)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(default=0.01, ge=0, le=1, allow_inf_nan=False)
    """Decoupled weight decay; biases and layer norms are exempt."""
    warmup_ratio: float = Field(default=0.06, ge=0, le=1, allow_inf_nan=False)
    """Share of all steps in which the learning rate rises from 0 to its peak."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the learning rate falls after the warm-up."""
    clip_norm: float | None = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Largest allowed global L2 norm of the gradient; none: no clipping."""
    max_length: int = Field(default=128, ge=4, le=32768)
    """Longest input in tokens; longer texts are truncated."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; ``auto`` is bf16 where the hardware has it, else fp32. Weights stay fp32."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, allow_inf_nan=False)
    """Probability mass spread over all classes; classification only."""
    class_weights: Literal["balanced"] | dict[str, float] | None = None
    """Weight of each label in the loss; ``balanced`` is inverse to its frequency."""
    early_stopping_patience: int | None = Field(default=None, ge=1)
    """Epochs without improvement after which training stops; none: never."""
    best_metric: Literal[
        "auto", "loss", "accuracy", "f1_macro", "f1_micro", "mcc", "pearson", "spearman", "mse"
    ] = "auto"
    """Validation metric that picks the best epoch; ``auto``: accuracy, f1_micro or pearson by task."""
    max_train_rows: int | None = Field(default=None, ge=1)
    """Train on a seeded sample of at most this many rows."""
    max_eval_rows: int | None = Field(default=None, ge=1)
    """Validate on a seeded sample of at most this many rows."""
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Seed of the new head, the order of the rows, and dropout."""
    device: Device = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""
    num_processes: Literal["auto"] | Annotated[int, Field(ge=1, le=64)] = 1
    """Processes of one machine that share each batch, one a GPU or on the CPU; ``auto``: one for each GPU."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.gradient_accumulation > self.batch_size:
            raise ValueError(
                f"gradient_accumulation is {self.gradient_accumulation}, but should be at most "
                f"batch_size, {self.batch_size}"
            )
        self._check_processes()
        if isinstance(self.class_weights, dict):
            for label, weight in self.class_weights.items():
                if not 0 < weight < float("inf"):
                    raise ValueError(f"class_weights[{label!r}] is {weight}, but should be a positive number")
        return self

    def _check_processes(self) -> None:
        if self.num_processes == "auto" or self.num_processes == 1:
            return
        if self.num_processes > self.batch_size:
            raise ValueError(
                f"num_processes is {self.num_processes}, but should be at most batch_size, {self.batch_size}"
            )
        if self.device == "mps" or ":" in self.device:
            raise ValueError(
                f"num_processes is {self.num_processes}, but should be 1 on {self.device!r}, "
                "which is one device"
            )


class ExperimentSpec(Wire):
    """Configurations to train on the same data; the argument of ``BertFineTuningWorkflow``."""

    name: Name
    """Name of the experiment and id of its workflow."""
    data: DataSpec
    """What to train on."""
    runs: tuple[FineTuneConfig, ...] = Field(default=(FineTuneConfig(),), min_length=1, max_length=MAX_RUNS)
    """The configurations."""
    in_order: bool = False
    """Train one after the other; default: all at once, as far as workers have free slots."""
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    """When checkpoints are made and which are kept; ``BertFineTuningWorkflow`` makes none."""
    start_from: CheckpointRef | None = None
    """Checkpoint of another run that every run goes on from; not in ``BertFineTuningWorkflow``."""
    seeds: tuple[Annotated[int, Field(ge=0, le=2**32 - 1)], ...] = Field(default=(), max_length=MAX_RUNS)
    """Train each configuration once a seed, in place of its own; none: once, with its own."""
    max_concurrent: int | None = Field(default=None, ge=1, le=MAX_RUNS)
    """Runs that go on at once; default: as many as workers have free slots."""
    evaluations: tuple[EvaluationSpec, ...] = Field(default=(), max_length=20)
    """What each run is evaluated on; only ``BertEvalWorkflow`` does, by default on its test rows."""
    reuse: bool = False
    """Link a run that was trained on the same inputs before, under another name, in place of training it."""
    reproduces: RunName | None = None
    """The run that this experiment is to do again, for its lineage alone."""

    @model_validator(mode="after")
    def _distinct_seeds(self) -> Self:
        twice = [seed for seed in self.seeds if self.seeds.count(seed) > 1]
        if twice:
            raise ValueError(f"seeds has {twice[0]} more than once, but each seed should be there once")
        num_runs = len(self.runs) * max(1, len(self.seeds))
        if num_runs > MAX_RUNS:
            raise ValueError(
                f"{len(self.runs)} configurations with {len(self.seeds)} seeds are {num_runs} runs, but an "
                f"experiment has at most {MAX_RUNS}"
            )
        return self

    @model_validator(mode="after")
    def _bounded_evaluations(self) -> Self:
        names = [name for name, _ in self.evaluation_sets()]
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"two evaluation sets have the name {twice[0]!r}, but each needs its own")
        num_runs = len(self.runs) * max(1, len(self.seeds))
        if num_runs * len(names) > MAX_EVALUATIONS:
            raise ValueError(
                f"{num_runs} runs on {len(names)} evaluation sets are {num_runs * len(names)} evaluations, "
                f"but an experiment has at most {MAX_EVALUATIONS}"
            )
        return self

    @model_validator(mode="after")
    def _one_bound(self) -> Self:
        if self.in_order and self.max_concurrent not in {None, 1}:
            raise ValueError(
                f"max_concurrent is {self.max_concurrent}, but in_order trains one run after the other"
            )
        return self

    @model_validator(mode="after")
    def _distinct_names(self) -> Self:
        names = self.run_names()
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two runs have the name {twice[0]!r}, but each needs its own")
        return self

    @model_validator(mode="after")
    def _another_parent(self) -> Self:
        if self.start_from is not None and self.start_from.run.partition(RUN_SEPARATOR)[0] == self.name:
            raise ValueError(
                f"start_from is {self.start_from.run!r}, but should be a run of an experiment other than "
                f"{self.name!r} itself"
            )
        return self

    def run_names(self) -> list[str]:
        """Return the full name of each run: the experiment's alone if it has one unnamed configuration."""
        return [name for name, _ in self.each_run()]

    def each_run(self) -> list[tuple[str, FineTuneConfig]]:
        """Return the full name and the configuration of each run, one for each seed if there are seeds."""
        alone = len(self.runs) == 1 and self.runs[0].name is None
        if not self.seeds:
            names = [str(config.name or number) for number, config in enumerate(self.runs, start=1)]
            full = [self.name] if alone else [f"{self.name}{RUN_SEPARATOR}{name}" for name in names]
            return list(zip(full, self.runs, strict=True))
        return [
            (
                f"{self.name}{RUN_SEPARATOR}{'' if alone else f'{config.name or number}-'}seed{seed}",
                config.model_copy(update={"seed": seed}),
            )
            for number, config in enumerate(self.runs, start=1)
            for seed in self.seeds
        ]

    def evaluation_sets(self) -> list[tuple[str, EvaluationSpec]]:
        """Return each evaluation set with its name; without any there is the training data's own."""
        sets = self.evaluations or (EvaluationSpec(),)
        return [(one.name or str(number), one) for number, one in enumerate(sets, start=1)]

    def digest(self) -> str:
        """Return the SHA-256 of the spec: equal for equal experiments, whatever was left to defaults."""
        # Whether a result may be linked does not change what it is.
        told = self.model_dump_json(exclude_defaults=True, exclude={"reuse"})
        return hashlib.sha256(told.encode()).hexdigest()


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


class RunOutcome(Wire):
    """How one run of an experiment ended."""

    run: str
    """Full name of the run."""
    status: RunStatus
    """``completed``, ``failed`` or ``cancelled`` once the experiment has ended."""
    result: FineTuneResult | None = None
    """The result of a completed run."""
    error: ErrorInfo | None = None
    """Why it failed."""
    evaluations: list[EvaluationOutcome] = Field(default_factory=list)
    """How each evaluation ended that was begun; only of ``BertEvalWorkflow``."""


class ExperimentResult(Wire):
    """The result of ``BertFineTuningWorkflow``: the outcome of every run, failed ones included."""

    name: str
    """The experiment."""
    outcomes: list[RunOutcome]
    """One entry a run, in the order of the configurations."""


class Progress(Wire):
    """How far a job is: the heartbeat of an activity, and what a progress bar shows."""

    phase: Phase
    """What the process is doing."""
    step: int = 0
    """Optimizer steps done, or rows predicted."""
    steps: int = 0
    """All of them, 0 while unknown."""
    epoch: int = 0
    """Current epoch from 1, 0 before the first."""
    epochs: int = 0
    """Epochs asked for."""
    loss: float | None = None
    """Training loss, smoothed over the last steps."""
    learning_rate: float | None = None
    """Learning rate of the last step."""
    examples_per_second: float | None = None
    """Examples a second, over the last steps."""
    tokens_per_second: float | None = None
    """Tokens a second without padding, over the last steps."""
    eta_seconds: float | None = None
    """Expected seconds to the end of the job."""
    metrics: dict[str, float] = Field(default_factory=dict)
    """Validation metrics of the last finished epoch."""
    process_id: int | None = None
    """Process id of the training process on the worker."""
    checkpoint_step: int | None = None
    """Step of the newest committed checkpoint."""
    attempt_log: list[AttemptRecord] = Field(default_factory=list)
    """The attempts before this one, the newest 10."""
    warnings: list[str] = Field(default_factory=list)
    """What is wrong and gone around: a damaged checkpoint, a store that does not answer."""


def experiment_from_toml(
    document: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> ExperimentSpec:
    """Build an experiment from a parsed TOML document.

    A table ``[defaults]`` holds fields that all ``[[runs]]`` share; ``data`` may be a path or a table.

    Args:
        document: what the file says.
        data: fields of ``DataSpec`` that win over the document.
        config: fields of ``FineTuneConfig`` that win over the document, in every run.

    Raises:
        SpecInvalid: a field is unknown, out of range or in the wrong place.
    """
    fields = dict(document)
    misplaced = sorted(
        fields.keys() & FineTuneConfig.model_fields.keys() - ExperimentSpec.model_fields.keys()
    )
    if misplaced:
        raise SpecInvalid(f"field {misplaced[0]!r} belongs under [defaults] or [[runs]]")
    source = fields.pop("data", {})
    source = {"source": source} if isinstance(source, str) else table_of(source, "data")
    defaults = table_of(fields.pop("defaults", {}), "defaults")
    runs = fields.pop("runs", [{}])
    if not isinstance(runs, list):
        raise SpecInvalid(f"runs is {runs!r}, but should be a list of tables, [[runs]]")
    merged = [{**defaults, **table_of(run, "runs"), **(config or {})} for run in runs]
    configs = [_config(run, number, of=len(runs)) for number, run in enumerate(merged, start=1)]
    return ExperimentSpec.parse(
        {**fields, "data": DataSpec.parse({**source, **(data or {})}), "runs": configs}
    )


def table_of(value: object, name: str) -> dict[str, Any]:
    """Return a table of a TOML document.

    Raises:
        SpecInvalid: it is something else.
    """
    if not isinstance(value, dict):
        raise SpecInvalid(f"{name} is {value!r}, but should be a table of fields")
    return value


def _config(fields: Mapping[str, Any], number: int, *, of: int) -> FineTuneConfig:
    try:
        return FineTuneConfig.parse(fields)
    except SpecInvalid as error:
        if of == 1:
            raise
        raise SpecInvalid(f"run {fields.get('name') or number}: {error}") from None
