"""Events that a trial adds to the history of a sweep with ASHA; its training is a stub."""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.sweep import SPACE, lengths, served
from durabert.client import Client
from durabert.specs import DataSpec, FineTuneConfig, SweepSpec

TRIALS = 200
EPOCHS = {2: 16, 3: 9, 4: 16}
"""Of a whole training, by reduction factor."""
CONCURRENCIES = (1, 8)


def measure() -> dict[str, object]:
    """Events and rungs a trial, by reduction factor and concurrency."""
    return asyncio.run(_measure())


async def _measure() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        async with served(Path(directory)) as client:
            return {
                f"factor_{factor}_concurrency_{concurrency}": await _figures(client, factor, concurrency)
                for concurrency in CONCURRENCIES
                for factor in EPOCHS
            }


async def _figures(client: Client, factor: int, concurrency: int) -> dict[str, object]:
    spec = SweepSpec(
        name=f"halving-{factor}-{concurrency}",
        data=DataSpec(source="stub.csv"),
        config=FineTuneConfig(epochs=EPOCHS[factor]),
        space=SPACE,
        algorithm="random",
        stopping="asha",
        reduction_factor=factor,
        trials=TRIALS,
        concurrency=concurrency,
    )
    sweep = await client.start_sweep(spec)
    result = await sweep.result()
    events = sum(await lengths(client, sweep))
    rungs = sum(epochs <= trial.epochs for trial in result.trials for epochs in spec.rungs)
    figures = {
        "events_a_trial": round(events / TRIALS, 1),
        "rungs_a_trial": round(rungs / TRIALS, 2),
    }
    print(f"{spec.name}: {figures}", file=sys.stderr, flush=True)
    return figures
