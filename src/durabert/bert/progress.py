"""Say how far a job is, often enough to watch it and seldom enough to cost nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from durabert.faults import reach
from durabert.specs import Progress

INTERVAL: Final = 1.0
"""Seconds between two reports of the same phase; a heartbeat carries the last of them."""
YOUNG_SECONDS: Final = 10.0
"""In which each phase and each epoch is reported at once: who has just started something looks at it."""
CALM_INTERVALS: Final = 5
"""Intervals between two reports later, as each wakes the worker on a core that a model is trained on."""
_MEMORY: Final = 0.95
"""Weight of the past in smoothed values: about the last 20 steps count."""


class Stopped(Exception):
    """Someone asked the job to stop; nothing was written."""


@dataclass
class Smoothed:
    """An exponential mean that does not lean towards its start."""

    total: float = 0.0
    weight: float = 0.0

    def add(self, value: float) -> None:
        """Take one more value in."""
        self.total = _MEMORY * self.total + value
        self.weight = _MEMORY * self.weight + 1

    @property
    def mean(self) -> float | None:
        """The mean; none before the first value."""
        return self.total / self.weight if self.weight else None


class Reporter:
    """The current state of a job; passes it on when the phase changes or ``INTERVAL`` has gone by.

    After ``YOUNG_SECONDS`` a phase that has been there before waits for the next report.

    Args:
        report: gets each report.
        should_stop: asked each time that something happens.
    """

    def __init__(self, report: Callable[[Progress], None], should_stop: Callable[[], bool]) -> None:
        self._report = report
        self._should_stop = should_stop
        self._state: dict[str, Any] = {"phase": "starting"}
        self._seen = {"starting"}
        self._began = time.monotonic()
        self._last = float("-inf")

    @property
    def is_young(self) -> bool:
        """Whether the job is so young that all that happens is reported at once."""
        return time.monotonic() - self._began < YOUNG_SECONDS

    def phase(self, name: str, *, at_once: bool = False, **fields: Any) -> None:
        """Enter a phase and report it; fields that are not given stay as they were."""
        if name != self._state["phase"]:
            reach(f"phase.{name}")
            at_once = at_once or self.is_young or name not in self._seen
            self._seen.add(name)
        self.tick(at_once=at_once, phase=name, **fields)

    def tick(self, *, at_once: bool = False, **fields: Any) -> None:
        """Take new values in, and report if it is time.

        Raises:
            Stopped: the job was asked to stop.
        """
        self._state |= fields
        now = time.monotonic()
        if at_once or now - self._last >= INTERVAL * (1 if self.is_young else CALM_INTERVALS):
            self._last = now
            self._report(Progress(**self._state))
        if self._should_stop():
            raise Stopped


class TrainingMeter:
    """Speeds, the smoothed loss and the time to the end of a training.

    Args:
        num_steps: steps of the whole training.
        num_validations: validations of the whole training, the final test among them.
        validation_share: tokens of a validation over tokens of an epoch.
        steps_per_epoch: steps between two validations.
    """

    # A forward pass is about a third of a training step.
    _FORWARD: Final = 1 / 3

    def __init__(
        self, *, num_steps: int, num_validations: int, validation_share: float, steps_per_epoch: int
    ) -> None:
        self._steps_left = num_steps
        self._validations_left = num_validations
        self._validation_share = validation_share
        self._steps_per_epoch = steps_per_epoch
        self._validation_seconds: float | None = None
        self._loss, self._seconds, self._examples, self._tokens = (Smoothed() for _ in range(4))

    def step(self, *, loss: float, seconds: float, examples: int, tokens: int) -> None:
        """Count one training step."""
        self._steps_left -= 1
        for smoothed, value in (
            (self._loss, loss),
            (self._seconds, seconds),
            (self._examples, examples),
            (self._tokens, tokens),
        ):
            smoothed.add(value)

    def validation(self, seconds: float) -> None:
        """Count one validation."""
        self._validations_left -= 1
        self._validation_seconds = seconds

    def fields(self) -> dict[str, float | None]:
        """Return the fields of ``Progress`` that are measured here."""
        seconds = self._seconds.total
        return {
            "loss": self._loss.mean,
            "examples_per_second": self._examples.total / seconds if seconds else None,
            "tokens_per_second": self._tokens.total / seconds if seconds else None,
            "eta_seconds": self._eta(),
        }

    def _eta(self) -> float | None:
        step = self._seconds.mean
        if step is None:
            return None
        validation = self._validation_seconds
        if validation is None:
            validation = step * self._steps_per_epoch * self._validation_share * self._FORWARD
        return max(0, self._steps_left) * step + max(0, self._validations_left) * validation
