"""Recorded experiments made up: the shapes of real ones, of any size, without training."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

from durabert.activities.run_record import EvaluationRecord, RunRecord, Span
from durabert.bert.curve import Point
from durabert.client.recorded import RecordedExperiment, RecordedRun
from durabert.client.views import SweepView
from durabert.specs import (
    AttemptRecord,
    DataSpec,
    EpochResult,
    ErrorInfo,
    EvaluationReport,
    EvaluationResult,
    FineTuneConfig,
    FineTuneResult,
    Parameter,
    SweepSpec,
    TrainingProfile,
    TrialRecord,
)
from durabert.specs.training import RowCounts

BEGAN = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
SECONDS = 0.5
"""Of a step."""
LABELS = ["negative", "positive"]


def made_points(steps: int, *, epochs: int = 3, seed: int = 0) -> list[Point]:
    rng = random.Random(seed)
    rate = 10 ** rng.uniform(-5, -4)
    return [
        Point(
            step=step,
            epoch=1 + (step - 1) * epochs // steps,
            loss=0.15 + 0.55 * math.exp(-step * (2 + rate * 2e4) / steps) + rng.uniform(-0.06, 0.06),
            learning_rate=rate * min(1, 10 * step / steps) * (1 - step / (steps + 1)),
            examples=16,
            tokens=500,
            seconds=SECONDS * rng.uniform(0.9, 1.1),
        )
        for step in range(1, steps + 1)
    ]


def made_epochs(steps: int, *, epochs: int = 3, seed: int = 0) -> list[EpochResult]:
    best = random.Random(seed).uniform(0.8, 0.93)
    return [
        EpochResult(
            epoch=epoch,
            step=steps * epoch // epochs,
            train_loss=0.6 / epoch,
            metrics={"loss": 0.5 / epoch, "accuracy": best - 0.08 / epoch},
        )
        for epoch in range(1, epochs + 1)
    ]


def made_spans(steps: int, *, deaths: int, ended: str | None = None, began: datetime = BEGAN) -> list[Span]:
    """Return attempts that share the steps; all but the last die in turn by a kill and by an error.

    Args:
        steps: of all together.
        deaths: how many die.
        ended: error of the last one; none: it makes the result.
        began: when the first one began.
    """
    share = steps // (deaths + 1)
    spans, time, done = [], began, 0
    for number in range(1, deaths + 2):
        last = steps if number == deaths + 1 else done + share
        ticks = [done + (last - done) * part // 4 for part in (1, 2, 3, 4)]
        told = [(step, (time + timedelta(seconds=SECONDS * (step - done))).isoformat()) for step in ticks]
        error = "StoreUnavailable" if number % 2 == 0 else None
        error = error if number <= deaths else ended
        attempt = AttemptRecord(
            number=number,
            worker=f"4{number}@gpu-{number}",
            started=time.isoformat(),
            resumed_from=done or None,
            last_step=last,
            ended=error,
            message=error and "what happened, in one sentence",
        )
        completed = ended is None and number == deaths + 1
        spans.append(Span(attempt, told[-1][1], completed, told))
        time, done = datetime.fromisoformat(told[-1][1]) + timedelta(seconds=35), last
    return spans


def made_result(run: str, config: FineTuneConfig, epochs: list[EpochResult], **fields) -> FineTuneResult:
    given = {
        "run": run, "experiment": run.partition(".")[0], "directory": f"runs/{run}", "task": "binary",
        "labels": LABELS, "text_columns": ["text"], "model": config.model, "model_sha256": "ab" * 32,
        "data_sha256": "cd" * 32, "config": config, "steps": epochs[-1].step, "epochs": len(epochs),
        "best_epoch": len(epochs), "attempts": 1, "seconds": 300.0, "train_seconds": 280.0,
        "train_loss": epochs[-1].train_loss, "metric": "accuracy", "metrics": epochs[-1].metrics,
        "test_metrics": {"loss": 0.4, "accuracy": epochs[-1].metrics["accuracy"] - 0.01}, "history": epochs,
        "rows": RowCounts(train=2400, validation=300, test=300), "examples_per_second": 31.5,
        "peak_memory_mib": 1210.0, "device": "cpu", "precision": "fp32", "deterministic": True,
        "num_threads": 2, "versions": {"durabert": "0.4.0", "torch": "2.13.0", "transformers": "5.23.0"},
        "snapshot": "ef" * 32, "state_sha256": "12" * 32, "checkpoint_seconds": 0.4,
        "profile": TrainingProfile(
            tokens_per_second=4100.0, model_gflops=180.0, peak_gflops=400.0, flop_utilisation=0.45,
            data_share=0.02, forward_share=0.31, backward_share=0.56, optimizer_share=0.07,
            checkpoint_share=0.01,
        ),
    }  # fmt: skip
    return FineTuneResult(**given | fields)


def made_run(
    run: str,
    *,
    status: str = "completed",
    steps: int = 450,
    deaths: int = 0,
    seed: int = 0,
    error: ErrorInfo | None = None,
    result: dict | None = None,
    evaluations: tuple[EvaluationRecord, ...] = (),
    **config,
) -> RecordedRun:
    configuration = FineTuneConfig(**config)
    epochs = made_epochs(steps, seed=seed)
    points = made_points(steps, seed=seed)
    record = RunRecord(
        run=run,
        points=points,
        times=[BEGAN + timedelta(seconds=SECONDS * point.step) for point in points],
        epochs=epochs if status == "completed" else epochs[:1],
        spans=made_spans(steps, deaths=deaths, ended=error and error.type),
        environment={"data": {"source": "reviews.csv"}, "snapshot": "ef" * 32, "data_sha256": "cd" * 32},
        result=made_result(run, configuration, epochs, **result or {}) if status == "completed" else None,
        evaluations=evaluations,
        result_sha256="34" * 32 if status == "completed" else None,
    )
    return RecordedRun(run, status, configuration, record, error=error)


def made_evaluation(
    run: str, *, texts: tuple[str, ...] = ("a dull film", "so so"), **report
) -> EvaluationRecord:
    result = EvaluationResult(
        evaluation="56" * 32, run=run, model_sha256="ab" * 32, data="reviews.csv", snapshot="ef" * 32,
        split="test", rows=300, task="binary", metric="accuracy",
        metrics={"accuracy": 0.9, "loss": 0.31}, intervals={"accuracy": (0.86, 0.93), "loss": (0.25, 0.38)},
        confidence=0.95, calibration_error=0.041, errors=30, seconds=2.0, device="cpu", precision="fp32",
    )  # fmt: skip
    bins = [
        {"low": low / 10, "high": (low + 1) / 10, "rows": 20 * low - 80, "confidence": low / 10 + 0.05,
         "accuracy": low / 10 + 0.02}
        for low in range(5, 10)
    ]  # fmt: skip
    scores = {"precision": 0.9, "recall": 0.91, "f1": 0.905, "support": 150}
    given = {
        "labels": LABELS, "confusion": [[138, 12], [18, 132]], "calibration_error": 0.041,
        "per_class": [{"label": label, **scores} for label in LABELS], "reliability": bins,
    } | report  # fmt: skip
    worst = [
        {"row": number, "truth": "negative", "predicted": "positive", "loss": 4.2 - number, "text": text}
        for number, text in enumerate(texts)
    ]
    return EvaluationRecord(result, EvaluationReport.model_validate(given), worst)


def made_experiment(runs: list[RecordedRun], *, name: str = "films", status: str = "completed", **fields):
    given = {"started": BEGAN, "ended": BEGAN + timedelta(minutes=17)} | fields
    return RecordedExperiment(name, status, "reviews.csv", runs, **given)


def sweep_sized(num_runs: int, *, steps: int = 450) -> RecordedExperiment:
    """Return so many runs with configurations that differ, some of which crashed on the way."""
    rng = random.Random(0)
    runs = [
        made_run(
            f"search.{number:03}",
            steps=steps,
            seed=number,
            deaths=2 if number % 20 == 0 else 0,
            learning_rate=float(f"{10 ** rng.uniform(-5, -4):.2e}"),
            batch_size=rng.choice((8, 16, 32)),
            weight_decay=rng.choice((0.0, 0.01, 0.1)),
        )
        for number in range(num_runs)
    ]
    return made_experiment(runs, name="search")


SPACE = {
    "learning_rate": Parameter(log_uniform=(1e-6, 1e-2)),
    "batch_size": Parameter(choice=(8, 16, 32)),
    "schedule": Parameter(choice=("linear", "constant")),
    "warmup_ratio": Parameter(uniform=(0.0, 0.3), when={"schedule": "linear"}),
}


def made_sweep(num_trials: int, **fields) -> tuple[SweepView, SweepSpec]:
    """Return a sweep with early stopping, in which the learning rate decides nearly alone."""
    rng = random.Random(0)
    spec = SweepSpec(
        name="tuned", data=DataSpec(source="reviews.csv"), config=FineTuneConfig(epochs=9), space=SPACE,
        trials=max(9, num_trials), stopping="asha",
    )  # fmt: skip
    trials = [_trial(number, rng) for number in range(1, num_trials + 1)]
    best = max((one for one in trials if one.epochs == 9), key=lambda one: max(one.values), default=None)
    told = {
        "name": "tuned", "status": "completed", "phase": "ended", "metric": "accuracy", "started": BEGAN,
        "ended": BEGAN + timedelta(minutes=17), "trials": trials, "best": best and best.number,
    }  # fmt: skip
    return SweepView(**told | fields), spec


def _trial(number: int, rng: random.Random) -> TrialRecord:
    rate, schedule = 10 ** rng.uniform(-6, -2), rng.choice(("linear", "constant"))
    params = {"learning_rate": rate, "batch_size": rng.choice((8, 16, 32)), "schedule": schedule}
    if schedule == "linear":
        params["warmup_ratio"] = rng.uniform(0.0, 0.3)
    if number % 7 == 0:
        error = ErrorInfo(type="TrainingDiverged", message="the loss is not finite")
        return TrialRecord(number=number, status="failed", params=params, seconds=2.0, error=error)
    good = 0.95 - 0.1 * abs(math.log10(rate / 1e-4)) + rng.uniform(-0.01, 0.01)
    epochs = (9, 1, 1, 3, 1, 1)[number % 6]
    return TrialRecord(
        number=number,
        status="completed" if epochs == 9 else "stopped",
        params=params,
        values=[good - 0.1 / epoch for epoch in range(1, epochs + 1)],
        seconds=4.0 * epochs,
    )
