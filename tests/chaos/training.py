"""A training of some seconds with checkpoints, and how to follow it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from durabert.bert.checkpointing import Checkpoints
from durabert.bert.data import load_training_data
from durabert.bert.loop import TrainedModel, fine_tune
from durabert.specs import CheckpointPolicy, DataSpec, ExperimentSpec, FineTuneConfig
from durabert.store.attempts import Attempt
from durabert.store.objects import open_store
from tests.real import until

CONFIG = {
    "epochs": 60,
    "batch_size": 16,
    "max_length": 32,
    "learning_rate": 1e-3,
    "device": "cpu",
    "precision": "fp32",
}
EVERY = 60
"""Steps between checkpoints; 14 steps are an epoch of the reviews, and all of them take some seconds."""


def spec_for(name, data, model, *, every=EVERY, **config) -> ExperimentSpec:
    return ExperimentSpec(
        name=name,
        data=DataSpec(source=str(data)),
        runs=(FineTuneConfig.parse({**CONFIG, "model": str(model), **config}),),
        checkpoints=CheckpointPolicy(every_steps=every),
    )


def trained_directly(
    directory: Path, spec: ExperimentSpec, *, every: int | None = None
) -> tuple[TrainedModel, str]:
    """Return what the only run of an experiment gives without a server, and the digest of its state."""
    [config] = spec.runs
    attempt = Attempt.begin(
        open_store(str(directory / "store"), home=directory),
        spec.name,
        identity="i",
        execution="x",
        temporal_attempt=1,
        policy=CheckpointPolicy(),
        environment={},
    )
    trained = fine_tune(
        config,
        load_training_data(spec.data, task=config.task),
        output=directory / "model",
        report=lambda _: None,
        should_stop=lambda: False,
        checkpoints=Checkpoints(attempt, every_steps=every),
    )
    return trained, attempt.state_sha256


async def finished(client, name, *, seconds=90):
    async with asyncio.timeout(seconds):
        return await client.wait(name)


async def at_step(client, name, step, *, attempt=1):
    async def there() -> bool:
        view = await client.run_status(name)
        assert not view.ended, view
        progress = view.progress
        return view.attempts >= attempt and progress is not None and progress.step >= step

    await until(there, seconds=60, what=f"{name} is at step {step} in attempt {attempt}")
    return await client.run_status(name)
