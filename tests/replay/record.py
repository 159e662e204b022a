"""Record the histories of this version's workflows: ``python -m tests.replay.record``.

Run it once for a release that changes what a workflow decides; older files stay as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from temporalio.client import WorkflowHandle, WorkflowHistory

from durabert.client import Client
from durabert.client.running import ContinuedJob
from durabert.connection import connect, plain_profile
from durabert.contract import REPORT_SIGNAL, SEARCH_ATTRIBUTES
from durabert.engine import Engine
from durabert.errors import DurabertError
from durabert.specs import (
    BatchInferenceRequest,
    DataSpec,
    EvaluationRequest,
    EvaluationSpec,
    ExperimentSpec,
    ExportRequest,
    FineTuneConfig,
    InferenceRequest,
    Parameter,
    RetrainingPromotion,
    RetrainingRequest,
    RetrainingTiming,
    RunReport,
    SweepSpec,
    TextsSpec,
)
from durabert.specs.registry import ApprovalPolicy, PromotionRequest
from durabert.version import __version__
from tests.real import until
from tests.workflow.conftest import Bench, serving

PREFIXES = {"bert_finetune": "", "bert_checkpointing": "checkpointed-", "bert_eval": "eval-"}
"""Of the names of histories, by pattern."""

ASKING = ("experiments", "promotions")
"""Modules of the client that write down who asks."""

RARELY = RetrainingTiming(every_seconds=300 * 86400)
"""A schedule that fires when it is told to."""

HISTORIES = Path(__file__).parent / "histories"


async def record() -> None:
    """Run every kind of course that a workflow can take, and keep its history."""
    with tempfile.TemporaryDirectory() as home:
        engine = Engine.attach(Path(home), worker=False, search_attributes=SEARCH_ATTRIBUTES)
        try:
            temporal = await connect(plain_profile(engine.info.address))
            # Who records is nobody's business; in the payloads it could not be replaced afterwards.
            users = [patch(f"durabert.client.{name}.who", lambda: "somebody@host") for name in ASKING]
            async with serving(temporal, "recording") as bench:
                with users[0], users[1]:
                    await _courses(bench)
        finally:
            engine.close()


async def _courses(bench: Bench) -> None:
    client = bench.client
    for pattern, prefix in PREFIXES.items():
        course = Courses(client, pattern, prefix)
        await course.ended("one-run", "minilm")
        await course.ended("two-runs", "minilm", "minilm")
        await course.ended("in-order", "minilm", "minilm", in_order=True)
        await course.ended("one-failed", "minilm", "missing")
        await course.ended("all-failed", "missing", "missing")
        await course.ended("retried", "flaky")
        await course.cancelled("cancelled", "", "endless")
        await course.cancelled("one-cancelled", ".1", "endless", "minilm")
    checkpointed = Courses(client, "bert_checkpointing", PREFIXES["bert_checkpointing"])
    await checkpointed.ended("no-snapshot", "minilm", source="missing.csv")
    await checkpointed.paused("paused", "endless")
    await checkpointed.cancelled("snapshot-cancelled", "", "minilm", source="endless.csv")
    goes_on = bench.activities.may_leave.set
    await checkpointed.cancelled("one-never-begun", ".1", "minilm", "minilm", source="held.csv", then=goes_on)
    prediction = await client.start_prediction(InferenceRequest(run="one-run", texts=("good", "bad")))
    await prediction.result()
    _keep("prediction", await prediction.handle.fetch_history())
    await _batches(client)
    await _exports(client)
    await _evaluations(client)
    await _promotions(client)
    await _retrainings(client)
    await _sweeps(bench)


async def _sweeps(bench: Bench) -> None:
    """Sweeps that end, continue as new, fail, are steered and are cancelled, and trials of one."""
    client = bench.client
    whole = await client.start_sweep(_sweep("sweep", stopping="asha", final_seeds=1))
    result = await whole.result()
    _keep("sweep", await whole.handle.fetch_history())
    _keep("trial-promoted", await client.history(f"sweep.{result.best}"))
    stopped = next(one.number for one in result.trials if one.status == "stopped")
    _keep("trial", await client.history(f"sweep.{stopped}"))
    long = await client.start_sweep(_sweep("sweep-goes-on", trials=115, concurrency=1))
    await long.result()
    _keep("sweep-goes-on", await (await first_execution(client, long)).fetch_history())
    _keep("sweep-gone-on", await long.handle.fetch_history())
    for course, config in (
        ("sweep-failed", FineTuneConfig(model="missing")),
        ("sweep-no-metric", FineTuneConfig(best_metric="pearson")),
    ):
        failed = await client.start_sweep(_sweep(course, config=config))
        with contextlib.suppress(DurabertError):
            await failed.result()
        _keep(course, await failed.handle.fetch_history())
    _keep("trial-failed", await client.history("sweep-failed.1"))
    median = await client.start_sweep(_sweep("sweep-median", stopping="median", trials=8))
    await median.result()
    _keep("sweep-median", await median.handle.fetch_history())
    await _steered_sweep(bench)


async def _steered_sweep(bench: Bench) -> None:
    endless = FineTuneConfig(model="endless")
    sweep = await bench.client.start_sweep(_sweep("sweep-steered", config=endless, concurrency=1))

    async def running() -> bool:
        return bench.activities.running == 1

    await until(running, seconds=20, what="a trial runs")
    await sweep.set_paused(True)
    await sweep.add_trials(1)
    await sweep.set_concurrency(2)
    await sweep.set_paused(False)
    await sweep.cancel()
    _keep("sweep-steered", await sweep.handle.fetch_history())
    _keep("trial-cancelled", await bench.client.history("sweep-steered.1"))


def _sweep(name: str, **fields: Any) -> SweepSpec:
    options = {
        "config": FineTuneConfig(),
        "algorithm": "random",
        "trials": 6,
        "concurrency": 2,
        "space": {"learning_rate": Parameter(log_uniform=(1e-5, 1e-1))},
    }
    return SweepSpec(name=name, data=DataSpec(source="reviews.csv"), **{**options, **fields})


async def _batches(client: Client) -> None:
    """Batches that end, go on in another execution, find all done, fail and are cancelled."""
    courses = {
        "batch": "one-run",
        "batch-finished": "finished",
        "batch-failed": "broken",
        "batch-retried": "flaky",
    }
    for course, run in courses.items():
        batch = await client.start_batch(_request(run, 50))
        with contextlib.suppress(DurabertError):
            await batch.result()
        _keep(course, await batch.handle.fetch_history())
    long = await client.start_batch(_request("long", 900))
    await long.result()
    _keep("batch-goes-on", await (await first_execution(client, long)).fetch_history())
    _keep("batch-gone-on", await long.handle.fetch_history())
    endless = await client.start_batch(_request("endless", 90))

    async def in_flight() -> bool:
        progress = await endless.progress()
        return progress is not None and progress.in_flight == 3

    await until(in_flight, seconds=20, what="the window is full")
    await endless.cancel()
    _keep("batch-cancelled", await endless.handle.fetch_history())


def _request(run: str, rows: int) -> BatchInferenceRequest:
    return BatchInferenceRequest(
        run=run, input=TextsSpec(path=f"{rows}.csv"), output="out", shard_rows=10, concurrency=3
    )


async def first_execution(client: Client, job: ContinuedJob) -> WorkflowHandle:
    """Return the first execution of a batch or a sweep that has continued as new."""
    description = await job.handle.describe()
    run_id = description.raw_description.workflow_execution_info.first_run_id
    return client.temporal.get_workflow_handle(job.name, run_id=run_id)


async def _exports(client: Client) -> None:
    for course, output in (("export", "/exported"), ("export-refused", "/refused")):
        export = await client.start_export(ExportRequest(run="one-run", format="onnx-int8", output=output))
        with contextlib.suppress(DurabertError):
            await export.result()
        _keep(course, await export.handle.fetch_history())


async def _evaluations(client: Client) -> None:
    """Experiments with sets and seeds, and single evaluations that end, fail and are cancelled."""
    courses = Courses(client, "bert_eval", PREFIXES["bert_eval"])
    await courses.ended("seeds", "minilm", "missing", sets=("test.csv", "broken.csv"), seeds=(1, 2))
    await courses.ended("unfit", "minilm", sets=("unfit.csv",))
    await courses.ended("flaky", "minilm", sets=("flaky.csv",), max_concurrent=1)
    await courses.cancelled("evaluation-cancelled", "", "minilm", sets=("endless.csv",))
    for course, source in (("evaluation", "test.csv"), ("evaluation-failed", "broken.csv")):
        evaluation = await client.start_evaluation(
            EvaluationRequest(run="one-run", data=DataSpec(source=source))
        )
        with contextlib.suppress(DurabertError):
            await evaluation.result()
        _keep(course, await evaluation.handle.fetch_history())


async def _promotions(client: Client) -> None:
    """Promotions that pass, are refused, approved, rejected and expire."""
    soon = ApprovalPolicy(remind_after_seconds=0.3, expire_after_seconds=2.5)
    courses = {
        "promotion": ("champion", None, None),
        "promotion-refused": ("refused", None, None),
        "promotion-approved": ("approved", ApprovalPolicy(), True),
        "promotion-rejected": ("rejected", ApprovalPolicy(), False),
        "promotion-expired": ("expired", soon, None),
    }
    for course, (alias, approval, approved) in courses.items():
        request = PromotionRequest(
            run="one-run", name="films", alias=alias, approval=approval, requested_by="somebody@host"
        )
        promotion = await client.start_promotion(request)
        await promotion.settled()
        if approved is not None:
            await promotion.decide(approved=approved, reason="looked at it")
        await promotion.result()
        _keep(course, await promotion.handle.fetch_history())


async def _retrainings(client: Client) -> None:
    """Firings that promote, are refused, left, wait, skip, promote nothing, fail and are cancelled."""
    courses: dict[str, dict[str, Any]] = {
        "retraining": {"alias": "champion"},
        "retraining-beaten": {"alias": "beaten"},
        "retraining-without-sets": {"alias": "beaten", "sets": ()},
        "retraining-refused": {"alias": "refused"},
        "retraining-left": {"alias": "odd"},
        "retraining-same": {"alias": "same"},
        "retraining-waiting": {"alias": "waiting", "approval": ApprovalPolicy()},
        "retraining-trained": {},
        "retraining-failed": {"model": "missing"},
        "retraining-no-data": {"source": "missing.csv"},
        "retraining-unmeasured": {"sets": ("broken.csv",)},
    }
    for course, options in courses.items():
        await client.schedules.create(_retraining(course, **options), RARELY)
        await _fired(client, course, course)
    await _fired(client, "retraining", "retraining-skipped")
    await client.schedules.create(_retraining("retraining-cancelled", model="endless"), RARELY)
    firing = await client.schedules.trigger("retraining-cancelled")
    await firing.training()
    await firing.handle.cancel()
    with contextlib.suppress(DurabertError):
        await firing.result()
    _keep("retraining-cancelled", await firing.handle.fetch_history())


async def _fired(client: Client, schedule: str, course: str) -> None:
    firing = await client.schedules.trigger(schedule)
    with contextlib.suppress(DurabertError):
        await firing.result()

    async def learnt() -> bool:
        description = await client.temporal.get_schedule_handle(schedule).describe()
        return not description.info.running_actions

    await until(learnt, seconds=20, what="the schedule knows that its firing has ended")
    _keep(course, await firing.handle.fetch_history())


def _retraining(
    name: str,
    *,
    alias: str | None = None,
    approval: ApprovalPolicy | None = None,
    model: str = "minilm",
    source: str = "reviews.csv",
    sets: tuple[str, ...] = ("test.csv",),
) -> RetrainingRequest:
    evaluations = tuple(EvaluationSpec(data=DataSpec(source=one)) for one in sets)
    runs = (FineTuneConfig(model=model),)
    spec = ExperimentSpec(name=name, data=DataSpec(source=source), runs=runs, evaluations=evaluations)
    promotion = None
    if alias is not None:
        # One promotion to an alias at a time: each course has a model of its own.
        promotion = RetrainingPromotion(name=name, alias=alias, approval=approval)
    return RetrainingRequest(
        experiment=spec, spec_sha256=spec.digest(), promotion=promotion, started_by="somebody@host"
    )


class Courses:
    """Experiments of one pattern, each with a course of its own."""

    def __init__(self, client: Client, pattern: str, prefix: str) -> None:
        self._client = client
        self._pattern = pattern
        self._prefix = prefix

    async def ended(self, course: str, *models: str, **fields: Any) -> None:
        name = await self._start(course, *models, **fields)
        await self._client.wait(name)
        _keep(name, await self._client.history(name))

    async def cancelled(
        self,
        course: str,
        run: str,
        *models: str,
        then: Callable[[], None] = lambda: None,
        **fields: Any,
    ) -> None:
        name = await self._start(course, *models, **fields)
        await self._running(name, name + run, evaluating=bool(fields.get("sets")))
        await self._client.cancel(name + run)
        then()
        await self._client.wait(name)
        _keep(name, await self._client.history(name))

    async def paused(self, course: str, *models: str) -> None:
        """Pause, resume, report twice, and cancel."""
        name = await self._start(course, *models)
        await self._running(name, name)
        await self._client.pause(name)
        await self._client.resume(name)
        await self._running(name, name)
        handle = self._client.temporal.get_workflow_handle(name)
        for step in (1, 2):
            report = RunReport(
                run=name, kind="progress", attempt=2, worker="1@host", step=step, steps=9, loss=0.5
            )
            await handle.signal(REPORT_SIGNAL, report)
            await handle.query("progress")
        await self._client.cancel(name)
        _keep(name, await self._client.history(name))

    async def _start(
        self,
        course: str,
        *models: str,
        source: str = "reviews.csv",
        sets: tuple[str, ...] = (),
        **fields: Any,
    ) -> str:
        name = self._prefix + course
        runs = tuple(FineTuneConfig(model=model) for model in models)
        evaluations = tuple(EvaluationSpec(data=DataSpec(source=one)) for one in sets)
        data = DataSpec(source=source)
        spec = ExperimentSpec(name=name, data=data, runs=runs, evaluations=evaluations, **fields)
        await self._client.start(spec, pattern=self._pattern)
        return name

    async def _running(self, name: str, target: str, *, evaluating: bool = False) -> None:
        async def running() -> bool:
            view = await self._client.status(name)
            return any(
                run.run == target
                and run.status == "running"
                and run.worker
                and (run.heartbeat_age_seconds is not None or not evaluating)
                and (run.result is not None) == evaluating
                for run in view.runs
            )

        await until(running, seconds=20, what=f"{target} runs")


def _keep(name: str, history: WorkflowHistory) -> None:
    path = HISTORIES / f"{__version__}-{name}.json"
    if path.exists():
        # Recorded before: what it was then is what must replay.
        return
    document = _anonymous(json.loads(history.to_json()))
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")


def _anonymous(value: Any) -> Any:
    """Drop what tells whose machine it was: stack traces with paths, and the host in identities."""
    if isinstance(value, dict):
        return {key: _anonymous(item) for key, item in value.items() if key != "stackTrace"}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value.replace(socket.gethostname(), "host") if isinstance(value, str) else value


if __name__ == "__main__":
    asyncio.run(record())
