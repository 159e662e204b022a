"""Sweeps: a search over configurations, its trials, and what came out of them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from durabert.errors import NameInvalid, SpecInvalid
from durabert.specs.base import RUN_SEPARATOR, ErrorInfo, Name, Task, Wire, checked_name
from durabert.specs.configuration import FineTuneConfig
from durabert.specs.data import DataSpec
from durabert.specs.durability import CheckpointPolicy
from durabert.specs.experiment import table_of
from durabert.specs.search import Parameter, Space, grid
from durabert.specs.trial import Algorithm, TrialRecord

Stopping = Literal["none", "asha", "median"]

DEFAULT_TRIALS: Final = 20
MAX_TRIALS: Final = 2000
"""All of them are in one payload, which may have 2 MB."""
MAX_CONCURRENCY: Final = 64
MAX_FINAL_SEEDS: Final = 20
FINAL: Final = "-final"
"""After the name of a sweep: the experiment of its best configuration."""


class SweepControl(Wire):
    """What may be changed while a sweep runs, and the answer of each such update."""

    paused: bool = False
    """No training is begun; those that are running go on to their rung."""
    concurrency: int = Field(ge=1, le=MAX_CONCURRENCY)
    """Trials that are trained at once."""
    trials: int = Field(ge=1, le=MAX_TRIALS)
    """Trials in all."""


class SweepState(Wire):
    """What one execution of the workflow hands to the next."""

    snapshot: str
    """Id of the snapshot that all trials are trained on."""
    task: Task
    """What is learned."""
    metric: str
    """The validation metric that is searched for."""
    started: datetime
    """When the first trial was started, UTC."""
    control: SweepControl
    """What may be changed meanwhile."""
    trials: list[TrialRecord] = Field(default_factory=list)
    """All trials that were begun, by their number; none is running."""
    jobs: list[int] = Field(default_factory=list)
    """The trial of each training, in the order in which they were begun; a promoted one is there again."""
    known: int = Field(default=0, ge=0)
    """How many of them have been taken into account."""


class SweepSpec(Wire):
    """A search over configurations; the argument of ``BertSweepWorkflow``."""

    name: Name
    """Name of the sweep and id of its workflow; its trials are ``NAME.1``, ``NAME.2`` and so on."""
    data: DataSpec
    """What to train on."""
    config: FineTuneConfig = FineTuneConfig()
    """What all trials share; its ``epochs`` are those of a whole training, by which the rate falls."""
    space: Space
    """What is searched, by the field of the configuration."""
    algorithm: Algorithm = "tpe"
    """How configurations are chosen; all of them are Optuna's."""
    trials: int | None = Field(default=None, ge=1, le=MAX_TRIALS)
    """How many; default: 20, of a grid all points."""
    stopping: Stopping = "none"
    """How trials are ended early: ``asha`` by rungs, ``median`` by what others had at the same epoch."""
    min_epochs: int = Field(default=1, ge=1)
    """Epochs of every trial, after which it may be stopped."""
    reduction_factor: int = Field(default=3, ge=2, le=100)
    """One of so many goes on from a rung of ``asha`` to the next, and is trained so many times as long."""
    concurrency: int = Field(default=4, ge=1, le=MAX_CONCURRENCY)
    """Trials that are trained at once, as far as workers have free slots."""
    reproducible: bool = True
    """Decide by results in the order of their trainings, so that whatever is killed changes no trial; else by
    what has arrived, so that no place waits for a slow trial."""
    seed: int = Field(default=42, ge=0, le=2**32 - 1)
    """Seed of the choice of configurations; that of the trainings is ``config.seed``."""
    final_seeds: int = Field(default=0, ge=0, le=MAX_FINAL_SEEDS)
    """Trainings of the best configuration at the end, each with its own seed; they alone see test rows."""
    budget_epochs: int | None = Field(default=None, ge=1)
    """No training is begun that would bring the epochs of all trials above it."""
    budget_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """No training is begun when so many seconds have gone by since the first."""
    checkpoints: CheckpointPolicy = CheckpointPolicy()
    """When checkpoints are made and which are kept."""
    state: SweepState | None = None
    """Where the execution before this one has come to; not for users."""

    @property
    def num_trials(self) -> int:
        """How many trials there are, unless some are added."""
        if self.trials is not None:
            return self.trials
        return self.num_points() if self.algorithm == "grid" else DEFAULT_TRIALS

    @property
    def rungs(self) -> tuple[int, ...]:
        """Epochs after which it is decided whether a trial goes on, the last of them all that there are.

        Source:
            Li et al. 2020, algorithm 2: ``r * eta ** k``, with ``min_epochs`` for r and s = 0.
        """
        if "epochs" in self.space:
            return (int(max(map(float, self.space["epochs"].samples()))),)
        if self.stopping != "asha":
            return (self.config.epochs,)
        powers = (self.min_epochs * self.reduction_factor**power for power in itertools.count())
        return tuple(itertools.takewhile(lambda epochs: epochs <= self.config.epochs, powers))

    def num_points(self) -> int:
        """Return how many points the grid has."""
        return sum(1 for _ in itertools.islice(grid(self.space), MAX_TRIALS + 1))

    def run_name(self, number: int) -> str:
        """Return the name of the run, and of the workflow, of a trial."""
        return f"{self.name}{RUN_SEPARATOR}{number}"

    def digest(self) -> str:
        """Return the SHA-256 of the spec: equal for equal sweeps, whatever was left to defaults."""
        said = self.model_dump_json(exclude_defaults=True, exclude={"state"})
        return hashlib.sha256(said.encode()).hexdigest()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        # Others ask for the number of points, and for the rungs.
        if self.algorithm == "grid":
            self._check_grid()
        if self.stopping != "none":
            self._check_stopping()
        if self.config.name is not None:
            raise ValueError(f"config.name is {self.config.name!r}, but trials are named by their number")
        if self.budget_epochs is not None and self.budget_epochs < self.rungs[0]:
            raise ValueError(
                f"budget_epochs is {self.budget_epochs}, but should be at least {self.rungs[0]}, the epochs "
                "of a trial"
            )
        if self.final_seeds:
            _require_name(self.name + FINAL)
        return self

    def _check_grid(self) -> None:
        try:
            points = self.num_points()
        except SpecInvalid as error:
            raise ValueError(str(error)) from None
        most = min(points, MAX_TRIALS)
        if (self.trials or points) > most:
            wanted = self.trials or "all points"
            raise ValueError(
                f"trials is {wanted}, but should be at most {most}: "
                + (f"the grid has {points} points" if points <= MAX_TRIALS else "the grid has more points")
            )

    def _check_stopping(self) -> None:
        epochs = self.config.epochs
        if "epochs" in self.space:
            raise ValueError(
                f"epochs is searched, but with stopping {self.stopping!r} all trials need the same; "
                "set it for all of them"
            )
        if self.min_epochs >= epochs:
            raise ValueError(
                f"min_epochs is {self.min_epochs}, but should be below epochs, {epochs}, for a trial to be "
                "stopped"
            )
        if self.stopping == "asha":
            self._check_rungs()

    def _check_rungs(self) -> None:
        epochs, rungs = self.config.epochs, self.rungs
        if rungs[-1] != epochs or len(rungs) == 1:
            above = rungs[-1] * self.reduction_factor
            fitting = [str(one) for one in (*rungs[1:], above)][-2:]
            raise ValueError(
                f"epochs is {epochs}, but with min_epochs {self.min_epochs} and reduction_factor "
                f"{self.reduction_factor} should be {' or '.join(fitting)}"
            )
        needed = self.reduction_factor ** (len(rungs) - 1)
        if self.num_trials < needed:
            raise ValueError(
                f"trials is {self.num_trials}, but should be at least {needed}, so that one of them is "
                f"trained for all {epochs} epochs"
            )


class SweepPlanRequest(Wire):
    """The argument of the activity ``plan_sweep``."""

    data: DataSpec
    """What to train on."""
    snapshot: str
    """Id of its snapshot."""
    config: FineTuneConfig
    """What all trials share."""


class SweepPlan(Wire):
    """The result of ``plan_sweep``: what only who reads the data knows."""

    task: Task
    """What is learned."""
    metric: str
    """The validation metric that is searched for."""


class FinalRun(Wire):
    """One training of the best configuration."""

    run: str
    """Full name of the run."""
    seed: int
    """Its seed."""
    metrics: dict[str, float] | None = None
    """Validation metrics of its best epoch; none: it failed."""
    test_metrics: dict[str, float] | None = None
    """Metrics on the test rows; none without them."""
    model_sha256: str | None = None
    """Digest of its weights."""
    error: ErrorInfo | None = None
    """Why it failed."""


class FinalResult(Wire):
    """What the best configuration came to with other seeds."""

    config: FineTuneConfig
    """The best configuration, its seed aside."""
    runs: list[FinalRun]
    """One entry a seed."""
    test_mean: float | None = None
    """Mean of the metric on the test rows over all seeds; none without test rows."""
    test_std: float | None = None
    """Its sample standard deviation; none with fewer than two."""
    error: ErrorInfo | None = None
    """Why there is none."""


class SweepResult(Wire):
    """The result of ``BertSweepWorkflow``."""

    name: str
    """The sweep."""
    task: Task
    """What was learned."""
    metric: str
    """The validation metric that was searched for."""
    snapshot: str
    """Id of the snapshot that all trials were trained on."""
    trials: list[TrialRecord]
    """Every trial, by its number, failed ones included."""
    best: int | None
    """Number of the best trial: of those that came furthest."""
    final: FinalResult | None = None
    """Its configuration with other seeds, if that was asked for."""
    seconds: float
    """Wall-clock seconds from the first trial to the end."""


class RungProgress(Wire):
    """How many trials have come to a rung."""

    epochs: int
    """Epochs of the rung."""
    reached: int
    """Trials that have been trained so long."""
    running: int
    """Trials that are being trained up to it."""


class SweepProgress(Wire):
    """The answer of the query ``progress`` of ``BertSweepWorkflow``."""

    name: str
    """The sweep."""
    phase: Literal["preparing", "searching", "final trainings", "ended"]
    """What it is about."""
    metric: str | None = None
    """The validation metric that is searched for, once it is known."""
    control: SweepControl
    """What may be changed meanwhile."""
    rungs: list[RungProgress]
    """From the lowest to the highest."""
    epochs: int = 0
    """Epochs that all trials were trained."""
    best: int | None = None
    """Number of the best trial so far."""
    trials: list[TrialRecord] = Field(default_factory=list)
    """Every trial that was begun, by its number."""
    final: FinalResult | None = None
    """What the best configuration came to with other seeds."""


def sweep_from_toml(
    document: Mapping[str, Any],
    *,
    data: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> SweepSpec:
    """Build a sweep from a parsed TOML document.

    A table ``[space]`` holds what is searched, ``[defaults]`` what all trials share.

    Args:
        document: what the file says.
        data: fields of ``DataSpec`` that win over the document.
        config: fields of ``FineTuneConfig`` that win over the document.

    Raises:
        SpecInvalid: a field is unknown, out of range or in the wrong place.
    """
    fields = dict(document)
    misplaced = sorted(fields.keys() & FineTuneConfig.model_fields.keys() - SweepSpec.model_fields.keys())
    if misplaced:
        raise SpecInvalid(f"field {misplaced[0]!r} belongs under [space] or [defaults]")
    source = fields.pop("data", {})
    source = {"source": source} if isinstance(source, str) else table_of(source, "data")
    shared = {**table_of(fields.pop("defaults", {}), "defaults"), **(config or {})}
    space = table_of(fields.pop("space", {}), "space")
    twice = sorted(space.keys() & shared.keys())
    if twice:
        raise SpecInvalid(f"{twice[0]!r} is searched and set to {shared[twice[0]]!r}; leave one of them out")
    return SweepSpec.parse(
        {
            **fields,
            "data": DataSpec.parse({**source, **(data or {})}),
            "config": FineTuneConfig.parse(shared),
            "space": {name: _parameter(name, one) for name, one in space.items()},
        }
    )


def _parameter(name: str, fields: object) -> Parameter:
    try:
        return Parameter.parse(table_of(fields, name))
    except SpecInvalid as error:
        raise SpecInvalid(f"{name}: {error}") from None


def _require_name(name: str) -> None:
    try:
        checked_name(name)
    except NameInvalid as error:
        raise ValueError(str(error)) from None
