"""Models that are trained again on a schedule: what to train, what becomes of it, and what a firing gives."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from durabert.errors import NameInvalid
from durabert.specs.base import NAME_PATTERN, Name, Wire
from durabert.specs.data import SNAPSHOT_PREFIX, DataSpec
from durabert.specs.experiment import ExperimentSpec
from durabert.specs.registry import AliasName, ApprovalPolicy, GateResult, PromotionRequest

RETRAINING_PREFIX: Final = "retrain:"
"""Of the ids of workflows; Temporal adds the time of the firing."""
LONGEST_SCHEDULE_NAME: Final = 70
"""The names of its runs add a time and a digest, and have at most 100 characters."""

SHORTEST_INTERVAL: Final = 60.0
"""Seconds: no model is trained, evaluated and promoted in less."""
CATCH_UP_DEFAULT: Final = 7 * 86400.0
"""Seconds: a laptop that was off for some days makes up for a weekly firing."""

Overlap = Literal["skip", "buffer_one", "allow_all", "cancel_other"]
RetrainingStatus = Literal["skipped", "trained", "promoted", "refused", "waiting", "left"]
RetrainingPhase = Literal["snapshot", "training", "champion", "promotion", "ended"]


def checked_schedule(name: str) -> str:
    """Return ``name`` if a schedule can have it.

    Raises:
        NameInvalid: it cannot.
    """
    if not NAME_PATTERN.fullmatch(name) or len(name) > LONGEST_SCHEDULE_NAME:
        raise NameInvalid(name, what="schedule", longest=LONGEST_SCHEDULE_NAME)
    return name


class RetrainingTiming(Wire):
    """When a schedule fires, as its user wrote it."""

    cron: str | None = Field(default=None, min_length=1, max_length=200)
    """A cron expression; none: ``every_seconds``."""
    every_seconds: float | None = Field(default=None, ge=SHORTEST_INTERVAL, le=366 * 86400)
    """Seconds between two firings, counted from 1970-01-01 UTC; none: ``cron``."""
    time_zone: str = Field(default="UTC", min_length=1, max_length=100)
    """Time zone of the cron expression, such as ``Europe/Zurich``."""
    overlap: Overlap = "skip"
    """What becomes of a firing while the one before goes on, in Temporal's words."""
    catch_up_seconds: float = Field(default=CATCH_UP_DEFAULT, ge=10, le=366 * 86400)
    """Firings that were missed, since no server was up, are made up for if they are no older."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.cron is None) == (self.every_seconds is None):
            raise ValueError("a schedule has either a cron expression or an interval; give --cron or --every")
        return self


class RetrainingPromotion(Wire):
    """What becomes of each model that a schedule has trained."""

    name: Name
    """Name in the registry."""
    alias: AliasName
    """The alias that is to name it."""
    min_metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Validation metrics that must be at least so much."""
    approval: ApprovalPolicy | None = None
    """A person has to approve; none: nobody has."""

    def target(self) -> str:
        """Return ``NAME@ALIAS``."""
        return f"{self.name}@{self.alias}"

    def request(self, run: str, *, requested_by: str) -> PromotionRequest:
        """Return what is asked for one of the runs."""
        return PromotionRequest(
            run=run,
            name=self.name,
            alias=self.alias,
            min_metrics=self.min_metrics,
            approval=self.approval,
            requested_by=requested_by,
        )


class RetrainingRequest(Wire):
    """The argument of ``BertRetrainingWorkflow``, the same in every firing of a schedule."""

    experiment: ExperimentSpec
    """What to train: one configuration; its name is that of the schedule."""
    spec_sha256: str
    """Digest of the experiment; kept here, so that it is the same whatever version reads it."""
    promotion: RetrainingPromotion | None = None
    """Alias that is to name the model; none: it is trained and evaluated, and nothing is asked."""
    started_by: str
    """User and host of who created the schedule."""

    @model_validator(mode="after")
    def _one_model(self) -> Self:
        spec = self.experiment
        if len(spec.each_run()) != 1 or spec.seeds:
            raise ValueError(
                f"a schedule retrains one model, but the experiment has {len(spec.each_run())} runs"
                + (" with seeds" if spec.seeds else "")
            )
        if spec.start_from is not None:
            raise ValueError(
                f"start_from is {spec.start_from.run!r}, but a schedule trains from the base model each time"
            )
        return self

    def on(self, snapshot: str, *, fired: datetime) -> ExperimentSpec:
        """Return the experiment of one firing, on a snapshot: the same for the same time, data and spec."""
        spec = self.experiment
        digest = hashlib.sha256(f"{self.spec_sha256} {snapshot}".encode()).hexdigest()
        name = f"{spec.name}-{fired:%Y%m%dT%H%M%SZ}-{digest[:8]}"
        # How a file is to be read is settled; which columns count is not.
        data = DataSpec(
            source=SNAPSHOT_PREFIX + snapshot,
            **{
                field: getattr(spec.data, field)
                for field in ("text", "text_pair", "label", "validation_fraction", "split_seed")
            },
        )
        return spec.model_copy(update={"name": name, "data": data})


class Champion(Wire):
    """The result of ``find_champion``: what an alias names now."""

    version: int | None = None
    """Its version; none: the alias names nothing yet."""
    run: str | None = None
    """The run whose model it is."""
    model_sha256: str | None = None
    """Digest of its weights."""


class Standing(Wire):
    """A new model beside the champion, on one evaluation set."""

    name: str
    """The evaluation set."""
    rows: int
    """Rows of it."""
    metric: str
    """The metric to look at first."""
    value: float
    """Of the new model."""
    interval: tuple[float, float]
    """Its interval."""
    champion: float | None = None
    """Of the champion; none: there is none, or it was not evaluated."""


class RetrainingResult(Wire):
    """The result of ``BertRetrainingWorkflow``, and what the next firing is told of this one."""

    schedule: str
    """The schedule."""
    fired: str
    """When it was to fire, ISO 8601 in UTC."""
    status: RetrainingStatus
    """``skipped``: the data have not changed; ``waiting``: for approval; ``left``: ``reason`` says why."""
    reason: str
    """One sentence."""
    snapshot: str
    """Snapshot of the data."""
    spec_sha256: str
    """Digest of what was to be trained."""
    run: str
    """The run that was trained on this snapshot, now or, if this was skipped, before."""
    model_sha256: str
    """Digest of its weights."""
    reused_from: str | None = None
    """The run that it is linked to, where nothing had to be trained."""
    standings: list[Standing] = Field(default_factory=list)
    """One entry an evaluation set."""
    champion: str | None = None
    """The run that the alias named before."""
    version: int | None = None
    """The version that it has become."""
    gates: list[GateResult] = Field(default_factory=list)
    """What the gates said."""


class RetrainingState(Wire):
    """The answer of the query ``state`` of ``BertRetrainingWorkflow``."""

    phase: RetrainingPhase
    """What goes on."""
    run: str | None = None
    """The run, once it is known."""
