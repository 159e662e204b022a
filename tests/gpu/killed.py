"""A training on a GPU in a process that can be killed; imported before anything asks for the device."""

from __future__ import annotations

from pathlib import Path

from durabert.bert import progress
from durabert.bert.checkpointing import Checkpoints
from durabert.bert.loop import fine_tune
from durabert.specs import CheckpointPolicy, FineTuneConfig
from durabert.store.attempts import Attempt
from durabert.store.objects import open_store
from tests.tiny import agreements, degrees, sentiments, training_data

KINDS = {
    "dropout": (sentiments, {}, {}),
    "pair": (agreements, {}, {}),
    "regression": (degrees, {"task": "regression", "labels": ("score",)}, {"task": "regression"}),
}
STEPS_PER_EPOCH, EPOCHS, EVERY = 25, 40, 100


def train(directory, model, kind, number, pipe) -> None:
    """Make an attempt, tell each step that is reported, and in the end what came of it."""
    # Often enough for a kill at any step: half a second is a third of the training.
    progress.INTERVAL = 0.01
    make, of_task, fields = KINDS[kind]
    config = FineTuneConfig.parse(
        {
            "model": str(model), "epochs": EPOCHS, "batch_size": 16, "max_length": 64, "device": "cuda",
            "learning_rate": 1e-4, **fields,
        }
    )  # fmt: skip
    attempt = Attempt.begin(
        open_store(str(Path(directory) / "store"), home=Path(directory)),
        kind,
        identity="i",
        execution="x",
        temporal_attempt=number,
        policy=CheckpointPolicy(),
        environment={},
    )
    begun_at = 0 if attempt.resumed is None else attempt.resumed.step
    trained = fine_tune(
        config,
        training_data(make(16 * STEPS_PER_EPOCH), make(40, seed=1), **of_task),
        output=Path(directory) / f"model-{number}",
        report=lambda told: pipe.send(("step", told.step or 0)),
        should_stop=lambda: False,
        checkpoints=Checkpoints(attempt, every_steps=EVERY, files=attempt.files),
    )
    history = [epoch.model_dump() for epoch in trained.history]
    ends_with = (trained.model_sha256, attempt.state_sha256, trained.metrics, history)
    pipe.send(("done", (begun_at, trained.device, trained.notices, ends_with)))
