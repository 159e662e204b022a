"""How far a job is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from durabert.specs.base import Wire
from durabert.specs.durability import AttemptRecord

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
