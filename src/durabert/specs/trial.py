"""Trials of a sweep: how their configuration is chosen, how far they are trained, what they came to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, field_serializer, model_validator

from durabert.errors import SpecInvalid
from durabert.specs.base import ErrorInfo, Name, Wire
from durabert.specs.configuration import FineTuneConfig
from durabert.specs.data import DataSpec
from durabert.specs.durability import CheckpointPolicy
from durabert.specs.search import Params, Scalar, Space

Algorithm = Literal["grid", "random", "tpe"]
TrialStatus = Literal["running", "stopped", "completed", "failed", "cancelled"]


class TrialRecord(Wire):
    """One trial, as a sweep remembers it."""

    number: int = Field(ge=1)
    """Number of the trial from 1."""
    status: TrialStatus = "running"
    """``stopped`` before the last epoch; ``completed`` at the end of its training."""
    params: Params = Field(default_factory=dict)
    """What was searched; empty until it is known."""
    values: list[float] = Field(default_factory=list)
    """The metric on the validation rows after each epoch."""
    model_sha256: str | None = None
    """Digest of the weights of its best epoch so far."""
    state_sha256: str | None = None
    """Digest of its newest checkpoint."""
    seconds: float = 0.0
    """Wall-clock seconds of its last attempts, one at each rung."""
    error: ErrorInfo | None = None
    """Why it failed."""

    @property
    def epochs(self) -> int:
        """Epochs that it was trained."""
        return len(self.values)

    def best_value(self, *, lower_is_better: bool) -> float | None:
        """Return the best value so far; none before the first."""
        if not self.values:
            return None
        return min(self.values) if lower_is_better else max(self.values)


class KnownTrial(Wire):
    """A trial as the choice of another configuration takes it into account."""

    params: Params
    """What was chosen."""
    epochs: int
    """Epochs after which the value was so."""
    value: float | None = None
    """The best value of the metric up to there; none: it failed."""
    complete: bool = False
    """Whether that is the end of its training."""


class SuggestionRequest(Wire):
    """The argument of the activity ``suggest_trial``, which knows nothing else."""

    space: Space
    """What is searched."""
    algorithm: Algorithm
    """How to choose."""
    seed: int
    """Seed of the choice."""
    number: int = Field(ge=1)
    """Number of the trial."""
    lower_is_better: bool
    """Which way the metric is to go."""
    known: list[KnownTrial] = Field(default_factory=list)
    """Trials with what was known of them, as rows in JSON; none if the algorithm learns nothing from them."""

    @field_serializer("known", when_used="json")
    def _as_rows(self, known: list[KnownTrial]) -> list[list[Scalar | None]]:
        # A history has every request; of many known trials, names would be more than half of it. A row has
        # epochs, value, whether complete, and the parameters in the order of the space, null if not there.
        return [
            [one.epochs, one.value, one.complete, *(one.params.get(name) for name in self.space)]
            for one in known
        ]

    @model_validator(mode="before")
    @classmethod
    def _of_rows(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or not isinstance(fields.get("known"), list):
            return fields
        names = list(fields.get("space") or ())
        return {**fields, "known": [_of_row(one, names) for one in fields["known"]]}


def _of_row(row: Any, names: Sequence[str]) -> Any:
    # Older histories have objects with names.
    if not isinstance(row, list) or len(row) != len(names) + 3:
        return row
    epochs, value, complete, *chosen = row
    params = {name: one for name, one in zip(names, chosen, strict=True) if one is not None}
    return {"params": params, "epochs": epochs, "value": value, "complete": complete}


class Suggestion(Wire):
    """The result of ``suggest_trial``."""

    params: Params
    """What was chosen, by the field of the configuration."""


class TrialRequest(Wire):
    """The argument of ``BertTrialWorkflow``: train one trial to a rung, or as far as it is good enough."""

    sweep: Name
    """The sweep that it belongs to."""
    number: int = Field(ge=1)
    """Number of the trial."""
    data: DataSpec
    """What to train on."""
    snapshot: str
    """Id of its snapshot."""
    config: FineTuneConfig
    """What all trials share."""
    params: Params | None = None
    """What was chosen for it; none: ``suggestion`` says how."""
    suggestion: SuggestionRequest | None = None
    """How its configuration is chosen."""
    until_epoch: int | None = Field(default=None, ge=1)
    """Epochs at most, counted from the beginning of the trial; none: to the end."""
    thresholds: tuple[float | None, ...] = ()
    """By epoch: the trial is stopped after it if its best value up to there is worse."""
    checkpoints: CheckpointPolicy
    """When checkpoints are made and which are kept."""

    def chosen(self, params: Params) -> FineTuneConfig | ErrorInfo:
        """Return the configuration with these values, or what is wrong if they do not go together."""
        try:
            return FineTuneConfig.parse({**self.config.model_dump(), **params})
        except SpecInvalid as error:
            return ErrorInfo(type=type(error).__name__, message=str(error))

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if (self.params is None) == (self.suggestion is None):
            raise ValueError("a trial should have either params or a suggestion")
        return self


def ranked_trials(trials: list[TrialRecord], *, lower_is_better: bool, best: int | None) -> list[TrialRecord]:
    """Return trials as they are shown: the best, then those that came furthest by their value."""
    sign = 1 if lower_is_better else -1

    def place(one: TrialRecord) -> tuple[bool, bool, int, float, int]:
        value = one.best_value(lower_is_better=lower_is_better)
        lost = one.status in {"failed", "cancelled"}
        return one.number != best, lost, -one.epochs, sign * (value or 0.0), one.number

    return sorted(trials, key=place)
