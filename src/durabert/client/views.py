"""What a client shows of runs and experiments, to people and to programs."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal

from pydantic import Field

from durabert.specs import (
    AttemptRecord,
    CheckpointRef,
    ErrorInfo,
    EvaluationOutcome,
    FinalResult,
    FineTuneConfig,
    FineTuneResult,
    Progress,
    RetrainingResult,
    RetrainingTiming,
    RungProgress,
    RunStatus,
    SweepControl,
    TrialRecord,
    Wire,
)

ENDED: Final = frozenset({"completed", "failed", "cancelled"})


class RunView(Wire):
    """One run as a client shows it."""

    run: str
    """Full name of the run."""
    experiment: str
    """The experiment, and id of the workflow."""
    status: RunStatus
    """``queued`` until a worker has it, and between two attempts."""
    config: FineTuneConfig
    """The configuration."""
    parent: CheckpointRef | None = None
    """Checkpoint of another run that it was to begin from."""
    attempts: int = 0
    """Attempts so far; 0 while no worker has had it."""
    pausing: bool = False
    """A pause was asked for, and its process is about to leave."""
    progress: Progress | None = None
    """The last heartbeat; none before the first, between two attempts and after the end."""
    heartbeat_age_seconds: float | None = None
    """Seconds since that heartbeat reached the server."""
    worker: str | None = None
    """Identity of the worker that has it, or had it last."""
    last_error: ErrorInfo | None = None
    """What ended the attempt before this one."""
    error: ErrorInfo | None = None
    """Why the run failed."""
    result: FineTuneResult | None = None
    """The result of a completed run, also while it is evaluated."""
    evaluations: list[EvaluationOutcome] = Field(default_factory=list)
    """Its evaluations that have ended; only of the pattern ``bert_eval``."""

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self.status in ENDED

    @property
    def attempt_log(self) -> list[AttemptRecord]:
        """What each attempt began with and how it ended, where the run makes checkpoints."""
        if self.result is not None:
            return self.result.attempt_log
        return self.progress.attempt_log if self.progress is not None else []

    def as_json(self) -> dict[str, Any]:
        """Return one flat object with the same fields for every status."""
        result, progress = self.result, self.progress
        steps = result.steps if result else progress.step if progress and progress.phase == "training" else 0
        document: dict[str, Any] = {
            "run": self.run,
            "experiment": self.experiment,
            "status": self.status,
            "steps": steps,
            "attempts": self.attempts,
            "seconds": result.seconds if result else None,
            "train_loss": result.train_loss if result else progress.loss if progress else None,
            "metrics": result.metrics if result else progress.metrics if progress else {},
            "test_metrics": result.test_metrics if result else None,
            "examples_per_second": _rate(result, progress),
            "peak_memory_mib": result.peak_memory_mib if result else None,
            "model_sha256": result.model_sha256 if result else None,
            "directory": result.directory if result else None,
            "error": self.error.model_dump() if self.error else None,
            "last_error": self.last_error.model_dump() if self.last_error else None,
            "worker": self.worker,
            "config": self.config.model_dump(),
        }
        document |= self._durability()
        document["evaluations"] = [one.model_dump(mode="json") for one in self.evaluations]
        document["progress"] = progress.model_dump() if progress else None
        document["result"] = result.model_dump(mode="json") if result else None
        return document

    def _durability(self) -> dict[str, Any]:
        result, progress = self.result, self.progress
        return {
            "pausing": self.pausing,
            "checkpoint_step": progress.checkpoint_step if progress else None,
            "attempt_log": [one.model_dump(mode="json") for one in self.attempt_log],
            "warnings": progress.warnings if progress else [],
            "parent": self.parent.model_dump() if self.parent else None,
            "snapshot": result.snapshot if result else None,
            "state_sha256": result.state_sha256 if result else None,
            "reused_from": result.reused_from if result else None,
            "micro_batches": result.micro_batches if result else None,
        }


class ExperimentView(Wire):
    """An experiment as a client shows it."""

    name: str
    """Name of the experiment."""
    status: str
    """``running``, the status that all runs ended with, or ``partial`` where they differ."""
    started: datetime
    """When it was started, UTC."""
    ended: datetime | None = None
    """When it ended, UTC."""
    data: str
    """What it trains on."""
    runs: list[RunView]
    """One entry a run, in the order of the configurations."""
    num_events: int
    """Length of its history."""


class SweepView(Wire):
    """A sweep as a client shows it."""

    name: str
    """Name of the sweep."""
    status: Literal["running", "paused", "completed", "failed", "cancelled"]
    """``paused``: no training is begun."""
    phase: str = "preparing"
    """What it is about."""
    started: datetime
    """When it was started, or was last continued as new, UTC."""
    ended: datetime | None = None
    """When it ended, UTC."""
    metric: str | None = None
    """The validation metric that is searched for, once it is known."""
    control: SweepControl | None = None
    """What may be changed meanwhile; none after the end."""
    rungs: list[RungProgress] = Field(default_factory=list)
    """How many trials have come to each rung; empty after the end."""
    trials: list[TrialRecord] = Field(default_factory=list)
    """Every trial that was begun, by its number."""
    best: int | None = None
    """Number of the best trial so far."""
    final: FinalResult | None = None
    """What the best configuration came to with other seeds."""
    error: ErrorInfo | None = None
    """Why it failed."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.status in ENDED


def _rate(result: FineTuneResult | None, progress: Progress | None) -> float | None:
    if result:
        return result.examples_per_second
    return progress.examples_per_second if progress else None


@dataclass(frozen=True)
class Started:
    """What ``Client.start`` did."""

    name: str
    """The experiment."""
    joined: bool
    """It was there already, with the same spec and pattern."""


@dataclass(frozen=True)
class Resumed:
    """What ``Client.resume`` did."""

    name: str
    """The experiment."""
    how: Literal["unpaused", "moved", "restarted", "running"]
    """It was paused, or waited for a worker of another queue, or had ended, or ran all the time."""


class FiringView(Wire):
    """A firing of a schedule as a client shows it."""

    workflow: str
    """Id of its workflow; the time at its end is when it was to fire."""
    execution: str
    """Run id of its execution."""
    status: str
    """``running``, ``failed``, ``cancelled``, or the status of its result."""
    started: datetime
    """When it was started, UTC."""
    ended: datetime | None = None
    """When it ended, UTC."""
    phase: str | None = None
    """What goes on, as its worker says."""
    run: str | None = None
    """The run that it trains or has trained, or, where it was skipped, the one before."""
    result: RetrainingResult | None = None
    """What has become of it."""
    error: ErrorInfo | None = None
    """Why it failed."""


class ScheduleView(Wire):
    """A schedule as a client shows it."""

    name: str
    """Its name."""
    data: str
    """What it trains on."""
    model: str
    """The base model."""
    timing: RetrainingTiming
    """When it fires."""
    promote_to: str | None = None
    """``NAME@ALIAS`` that is to name what it trains."""
    require_approval: bool = False
    """A person has to approve."""
    paused: bool
    """It does not fire."""
    note: str | None = None
    """Why it was paused."""
    next: list[datetime]
    """When it will fire, UTC, the next ten times; also while it is paused, if it were not."""
    num_fired: int
    """How often it has fired."""
    num_waiting: int
    """Firings that wait for the one that goes on."""
    num_overlapping: int
    """Firings that were dropped while one before went on."""
    num_missed: int
    """Firings that were older than the catch-up window."""
    started_by: str
    """User and host of who created it."""
    firings: list[FiringView]
    """The last ones, the newest last."""
