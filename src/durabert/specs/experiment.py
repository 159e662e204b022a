"""Experiments: configurations to train on the same data, and how each of their runs ended."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from durabert.errors import SpecInvalid
from durabert.specs.base import RUN_SEPARATOR, ErrorInfo, Name, RunName, Wire
from durabert.specs.configuration import FineTuneConfig
from durabert.specs.data import DataSpec
from durabert.specs.durability import CheckpointPolicy, CheckpointRef
from durabert.specs.evaluation import MAX_EVALUATIONS, EvaluationOutcome, EvaluationSpec
from durabert.specs.training import FineTuneResult

RunStatus = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]

MAX_RUNS = 200
"""Largest number of runs in one experiment: a history stays far below Temporal's limits."""


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
