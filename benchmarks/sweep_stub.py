"""A worker of sweeps whose training is a stub: ``python -m benchmarks.sweep_stub ADDRESS HOME QUEUE``.

Workflows, suggestions and the server are the real ones.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from temporalio import activity
from temporalio.worker import Worker

from benchmarks.sweep_score import STUB_SECONDS, score
from durabert.activities.devices import DeviceSlots
from durabert.activities.sweeps import SweepActivities
from durabert.connection import connect, plain_profile
from durabert.contract import CREATE_DATASET_SNAPSHOT, FINE_TUNE_BERT, PLAN_SWEEP
from durabert.specs import (
    EpochResult,
    FineTuneRequest,
    FineTuneResult,
    RowCounts,
    SnapshotRequest,
    SnapshotResult,
    SweepPlan,
    SweepPlanRequest,
)
from durabert.workflows import WORKFLOWS


@activity.defn(name=CREATE_DATASET_SNAPSHOT.name)
async def create_dataset_snapshot(request: SnapshotRequest) -> SnapshotResult:
    return SnapshotResult(
        snapshot="5" * 64, name=request.data.source, rows={"train": 3}, columns=["text"], created=True
    )


@activity.defn(name=PLAN_SWEEP.name)
async def plan_sweep(_: SweepPlanRequest) -> SweepPlan:
    return SweepPlan(task="binary", metric="accuracy")


@activity.defn(name=FINE_TUNE_BERT.name)
async def fine_tune_bert(request: FineTuneRequest) -> FineTuneResult:
    await asyncio.sleep(STUB_SECONDS)
    config = request.config
    accuracy = score(config.learning_rate, config.weight_decay, config.batch_size)
    metrics = {"accuracy": accuracy}
    thresholds = enumerate(request.thresholds, start=1)
    too_bad = (epoch for epoch, least in thresholds if least is not None and accuracy < least)
    epochs = next(too_bad, request.until_epoch or config.epochs)
    return FineTuneResult(
        run=request.run, experiment=request.experiment, directory="", task="binary", labels=["no", "yes"],
        text_columns=["text"], model=config.model, model_sha256="0" * 64, data_sha256="1" * 64,
        config=config, steps=epochs, epochs=epochs, best_epoch=1, attempts=1,
        finished=epochs == config.epochs, seconds=STUB_SECONDS,
        train_seconds=STUB_SECONDS, train_loss=0.1, metric="accuracy", metrics=metrics,
        history=[
            EpochResult(epoch=epoch, step=epoch, train_loss=0.1, metrics=metrics)
            for epoch in range(1, epochs + 1)
        ],
        rows=RowCounts(train=1, validation=1), examples_per_second=1.0, peak_memory_mib=1.0, device="stub",
        precision="fp32", deterministic=True, num_threads=1,
    )  # fmt: skip


async def serve(address: str, home: Path, queue: str) -> None:
    client = await connect(plain_profile(address))
    sweeps = SweepActivities(home, "", DeviceSlots([None]))
    activities = [create_dataset_snapshot, plan_sweep, fine_tune_bert, sweeps.suggest_trial]
    async with Worker(client, task_queue=queue, workflows=WORKFLOWS, activities=activities):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
