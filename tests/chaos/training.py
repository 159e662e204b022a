"""A training of some seconds with checkpoints, and how to follow it."""

from __future__ import annotations

import asyncio

from durabert.specs import CheckpointPolicy, DataSpec, ExperimentSpec, FineTuneConfig
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
