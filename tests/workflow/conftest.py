"""Workflows on a real server, with activities that answer at once."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from temporalio import activity
from temporalio.exceptions import ApplicationError
from temporalio.worker import Replayer, Worker

from durabert.client import Client
from durabert.connection import TaskQueues
from durabert.contract import CREATE_DATASET_SNAPSHOT, EXPORT_BERT, FINE_TUNE_BERT, RUN_BERT_INFERENCE
from durabert.specs import (
    ExportRequest,
    ExportResult,
    FineTuneRequest,
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    Prediction,
    Progress,
    RowCounts,
    SnapshotRequest,
    SnapshotResult,
)
from durabert.wire import data_converter
from durabert.workflows import WORKFLOWS
from tests.real import until
from tests.workflow.fake_batches import FakeBatches, finished_as_it_is_cancelled
from tests.workflow.fake_evaluations import FakeEvaluations
from tests.workflow.fake_registry import FakeRegistry
from tests.workflow.fake_sweeps import FakeSweeps


def result_of(request: FineTuneRequest) -> FineTuneResult:
    return FineTuneResult(
        run=request.run,
        experiment=request.experiment,
        directory=f"/runs/{request.run}",
        task="binary",
        labels=["no", "yes"],
        text_columns=["text"],
        model=request.config.model,
        model_sha256="0" * 64,
        data_sha256="1" * 64,
        config=request.config,
        steps=10,
        epochs=request.config.epochs,
        best_epoch=1,
        attempts=1,
        seconds=1.0,
        train_seconds=0.5,
        train_loss=0.25,
        metric="accuracy",
        metrics={"accuracy": 0.75},
        history=[],
        rows=RowCounts(train=100, validation=10),
        examples_per_second=200.0,
        peak_memory_mib=512.0,
        device="cpu",
        precision="fp32",
        deterministic=True,
        num_threads=2,
    )


GOES_ON = Progress(
    phase="training", step=4, steps=10, epoch=1, epochs=3, loss=0.4, process_id=1, examples_per_second=2.0,
    eta_seconds=9.0,
)  # fmt: skip


@dataclass
class FakeActivities:
    """Answers like the real ones; the configuration's model name says how."""

    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    running: int = 0
    most_running: int = 0
    attempts: dict[str, int] = field(default_factory=dict)
    snapshots: int = 0
    requests: list[FineTuneRequest] = field(default_factory=list)
    queues: list[str] = field(default_factory=list)
    batches: FakeBatches = field(default_factory=FakeBatches)
    evaluations: FakeEvaluations = field(default_factory=FakeEvaluations)
    registry: FakeRegistry = field(default_factory=FakeRegistry)
    sweeps: FakeSweeps = field(default_factory=FakeSweeps)
    may_leave: asyncio.Event = field(default_factory=asyncio.Event)
    """What a stubborn run waits for when it is told to go, and a held snapshot before it is taken."""

    @activity.defn(name=FINE_TUNE_BERT.name)
    async def fine_tune_bert(self, request: FineTuneRequest) -> FineTuneResult:
        self.started.append(request.run)
        self.requests.append(request)
        self.queues.append(activity.info().task_queue)
        self.attempts[request.run] = activity.info().attempt
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await self._behave(request)
            if not request.score_test:
                await self.sweeps.hold(request)
        finally:
            self.running -= 1
            self.ended.append(request.run)
        return result_of(request) if request.score_test else self._result_of_trial(request)

    def _result_of_trial(self, request: FineTuneRequest) -> FineTuneResult:
        history = self.sweeps.trained(request)
        metric = request.config.best_metric
        return result_of(request).model_copy(
            update={
                "history": history,
                "epochs": len(history),
                "metric": metric,
                "metrics": history[-1].metrics,
                "finished": len(history) == request.config.epochs,
                "state_sha256": f"{len(history):064}",
            }
        )

    async def _behave(self, request: FineTuneRequest) -> None:
        activity.heartbeat(Progress(phase="training", step=3, steps=10, epoch=1, epochs=3, loss=0.5))
        if request.config.model == "missing":
            raise ApplicationError("no such model", type="ModelNotFound", non_retryable=True)
        if request.config.model == "odd":
            raise ApplicationError("a sentence with | and a\nline", type="DataInvalid", non_retryable=True)
        if request.config.model == "flaky" and activity.info().attempt == 1:
            raise ApplicationError("killed", type="ProcessKilled")
        if request.config.model == "lingering":
            await self._company()
        try:
            while request.config.model in {"endless", "stubborn"}:
                activity.heartbeat(GOES_ON)
                await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            # As a real process: it is not gone at the moment that it is told to go.
            await asyncio.sleep(0.5)
            if request.config.model == "stubborn":
                await self.may_leave.wait()
            raise

    async def _company(self) -> None:
        """Stay until another run goes on beside this one, or none has come."""

        async def accompanied() -> bool:
            return self.running > 1

        with contextlib.suppress(TimeoutError):
            await until(accompanied, seconds=1, what="another run goes on")

    @activity.defn(name=CREATE_DATASET_SNAPSHOT.name)
    async def create_dataset_snapshot(self, request: SnapshotRequest) -> SnapshotResult:
        source = request.data.source
        if source.startswith("snapshot:"):
            snapshot = source.removeprefix("snapshot:")
            return SnapshotResult(
                snapshot=snapshot, name="data", rows={"train": 3}, columns=["text"], created=False
            )
        if source == "missing.csv":
            raise ApplicationError("there is no missing.csv", type="DataNotFound", non_retryable=True)
        self.snapshots += 1
        if source.startswith("held"):
            await self.may_leave.wait()
        if source == "held-missing.csv":
            raise ApplicationError("it is gone", type="DataNotFound", non_retryable=True)
        if source == "finishing.csv":
            await finished_as_it_is_cancelled()
        while source == "endless.csv":
            activity.heartbeat(Progress(phase="taking a snapshot", step=7))
            await asyncio.sleep(0.05)
        return SnapshotResult(
            snapshot=(str(self.snapshots % 10) if source == "growing.csv" else "5") * 64,
            name="data",
            rows={"train": 3},
            columns=["text"],
            created=True,
        )

    @activity.defn(name=RUN_BERT_INFERENCE.name)
    async def run_bert_inference(self, request: InferenceRequest) -> InferenceResult:
        if request.shard is not None:
            return await self.batches.score(request)
        predictions = [Prediction(label="yes", confidence=0.9, scores={"yes": 0.9, "no": 0.1})] * len(
            request.texts
        )
        return InferenceResult(
            run=request.run, model_sha256="0" * 64, rows=len(request.texts), predictions=predictions,
            seconds=0.1, texts_per_second=10.0, peak_memory_mib=1.0, device="cpu", precision="fp32",
        )  # fmt: skip

    @activity.defn(name=EXPORT_BERT.name)
    async def export_bert(self, request: ExportRequest) -> ExportResult:
        if request.output == "/refused":
            raise ApplicationError("it predicts otherwise", type="ExportRefused", non_retryable=True)
        while request.output == "/endless":
            activity.heartbeat(Progress(phase="exporting"))
            await asyncio.sleep(0.05)
        return ExportResult(
            run=request.run, format=request.format, output=request.output, model_sha256="0" * 64, size=7,
            seconds=0.1,
        )  # fmt: skip


class Bench:
    """A client whose queue is served by fake activities."""

    def __init__(self, client: Client, activities: FakeActivities) -> None:
        self.client = client
        self.activities = activities

    async def replay(self, name: str) -> None:
        """Fail if the workflow code would not decide again as it did."""
        history = await self.client.history(name)
        replayer = Replayer(workflows=WORKFLOWS, data_converter=data_converter)
        await replayer.replay_workflow(history)


@pytest.fixture
def unique() -> str:
    return f"test-{uuid.uuid4().hex[:10]}"


@pytest.fixture
async def bench(temporal, unique):
    async with serving(temporal, unique) as bench:
        yield bench


@asynccontextmanager
async def serving(temporal, queue, **options):
    activities = FakeActivities()
    client = Client(temporal, queues=TaskQueues(train=queue, inference=queue))
    from datetime import timedelta

    async with Worker(
        temporal,
        task_queue=queue,
        workflows=WORKFLOWS,
        activities=[
            activities.create_dataset_snapshot,
            activities.fine_tune_bert,
            activities.run_bert_inference,
            activities.batches.plan_batch_inference,
            activities.batches.commit_batch_inference,
            activities.export_bert,
            activities.evaluations.plan_evaluations,
            activities.evaluations.evaluate_bert,
            activities.registry.check_promotion,
            activities.registry.register_version,
            activities.sweeps.plan_sweep,
            activities.sweeps.suggest_trial,
            activities.registry.find_champion,
        ],
        max_heartbeat_throttle_interval=timedelta(milliseconds=100),
        default_heartbeat_throttle_interval=timedelta(milliseconds=100),
        **options,
    ):
        yield Bench(client, activities)
