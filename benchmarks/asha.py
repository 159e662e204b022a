"""What ASHA saves: the same trials on a sample of SST-2, each trained to its end, and stopped early.

Both sweeps draw the same configurations. The best one of each is trained again with other seeds and scored on
test rows, so that it can be told whether the two are as good.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

from benchmarks.yardstick import SST2
from durabert.client import Client
from durabert.specs import DataSpec, FineTuneConfig, Parameter, SweepResult, SweepSpec

TRIALS, EPOCHS, FINAL_SEEDS = 12, 9, 2
CONFIG = FineTuneConfig(epochs=EPOCHS, max_train_rows=300, max_eval_rows=300, batch_size=32, max_length=64)
SPACE = {
    "learning_rate": Parameter(log_uniform=(1e-6, 1e-3)),
    "weight_decay": Parameter(uniform=(0.0, 0.1)),
    "warmup_ratio": Parameter(uniform=(0.0, 0.3)),
}


def measure() -> dict[str, object]:
    """Epochs trained with and without ASHA, and how good the best configuration of each is."""
    return asyncio.run(_sweeps())


async def _sweeps() -> dict[str, object]:
    with tempfile.TemporaryDirectory() as home:
        async with Client.connect(home=Path(home)) as client:
            whole, early = [await _sweep(client, stopping) for stopping in ("none", "asha")]
    assert whole.final is not None
    assert early.final is not None
    # Trial by trial, as both draw by the seed of the search and the number of the trial.
    same = {one.number: one.params for one in whole.trials} == {
        one.number: one.params for one in early.trials
    }
    epochs = [sum(one.epochs for one in result.trials) for result in (whole, early)]
    return {
        "trials": TRIALS,
        "same_configurations": same,
        "epochs_whole": epochs[0],
        "epochs_asha": epochs[1],
        "times_less": round(epochs[0] / epochs[1], 2),
        "best_trial_whole": whole.best,
        "best_trial_asha": early.best,
        "test_accuracy_whole": [whole.final.test_mean, whole.final.test_std],
        "test_accuracy_asha": [early.final.test_mean, early.final.test_std],
    }


async def _sweep(client: Client, stopping: str) -> SweepResult:
    spec = SweepSpec(
        name=f"sst2-{stopping}",
        data=DataSpec(source=str(SST2)),
        config=CONFIG,
        space=SPACE,
        algorithm="random",
        stopping=stopping,
        trials=TRIALS,
        concurrency=1,
        final_seeds=FINAL_SEEDS,
    )
    result = await (await client.start_sweep(spec)).result()
    print(f"{spec.name}: {sum(one.epochs for one in result.trials)} epochs", file=sys.stderr, flush=True)
    return result
