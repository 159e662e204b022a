"""What a checkpoint costs a training of MiniLM: the steps after it beside those in which none is written."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from unittest import mock

import numpy as np

from benchmarks.figures import summary
from durabert.bert import loop
from durabert.bert.checkpointing import Checkpoints
from durabert.bert.data import load_training_data
from durabert.bert.loop import fine_tune
from durabert.bert.steps import Event, StepReport, TrainPlan, TrainState
from durabert.specs import CheckpointPolicy, DataSpec, FineTuneConfig
from durabert.store.attempts import Attempt
from durabert.store.objects import open_store

EPOCHS, STEPS_OF_AN_EPOCH = 11, 63
EVERY, AFFECTED = 30, 12
"""Steps between two checkpoints, and those after one in which it may still be written."""
FIRST = 60
"""Steps in which kernels are made ready."""


def measure() -> dict[str, object]:
    """Seconds by which a checkpoint makes the steps after it longer, and of those in which none is made."""
    data = load_training_data(DataSpec(source=str(files("durabert.demo") / "reviews")))
    with tempfile.TemporaryDirectory() as directory, _clocked() as clocked:
        attempt = Attempt.begin(
            open_store(None, home=Path(directory)), "measured", identity="0" * 64, execution="measured",
            temporal_attempt=1, policy=CheckpointPolicy(), environment={},
        )  # fmt: skip
        trained = fine_tune(
            FineTuneConfig(epochs=EPOCHS),
            data,
            output=Path(directory) / "model",
            report=lambda _: None,
            should_stop=lambda: False,
            checkpoints=Checkpoints(attempt, every_steps=EVERY),
        )
    assert trained.steps == EPOCHS * STEPS_OF_AN_EPOCH
    costs = _costs(clocked)
    return {
        "cost_seconds": summary(costs),
        "standard_error": round(statistics.stdev(costs) / len(costs) ** 0.5, 3),
        "standstill_seconds": round((trained.checkpoint_seconds or 0.0) / (trained.steps // EVERY), 3),
    }


@contextlib.contextmanager
def _clocked() -> Iterator[list[tuple[float, int]]]:
    """Yield when each step ended, and its tokens."""
    steps: list[tuple[float, int]] = []
    train = loop.train

    def clocked(state: TrainState, plan: TrainPlan) -> Iterator[Event]:
        for event in train(state, plan):
            if isinstance(event, StepReport):
                # A checkpoint is begun when this is yielded: its copy falls into the next step.
                steps.append((time.perf_counter(), event.num_tokens))
            yield event

    with mock.patch.object(loop, "train", clocked):
        yield steps


def _costs(clocked: list[tuple[float, int]]) -> list[float]:
    ends, tokens = map(np.array, zip(*clocked, strict=True))
    seconds, tokens, done = np.diff(ends), tokens[1:], np.arange(1, len(ends))
    # The first step of an epoch has the validation before it.
    usual = (done > FIRST) & (done % STEPS_OF_AN_EPOCH != 0)
    undisturbed = usual & (done % EVERY >= AFFECTED)
    excess = seconds - np.polyval(np.polyfit(tokens[undisturbed], seconds[undisturbed], 1), tokens)
    return [
        float(excess[usual & (done // EVERY == number) & (done % EVERY < AFFECTED)].sum())
        for number in range(FIRST // EVERY + 1, int(done[-1]) // EVERY)
    ]
