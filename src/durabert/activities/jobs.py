"""What runs inside the child process: data, model and store put together. No Temporal here."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.bert.data import TrainingData, load_training_data
from durabert.bert.loop import TrainedModel, fine_tune
from durabert.bert.predict import Predictor, predict_file
from durabert.bert.progress import Stopped
from durabert.errors import NameInUse, WorkerStopping
from durabert.specs import (
    FineTuneRequest,
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    Progress,
    Wire,
)
from durabert.store import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durabert.supervisor import Channel


class TrainJob(Wire):
    """Everything the child needs to train one run."""

    request: FineTuneRequest
    """What the workflow asked for."""
    home: Path
    """The worker's home directory."""
    staging: Path
    """The attempt's own directory, on the same disk as the home."""
    attempt: int
    """Number of the attempt from 1."""


class InferenceJob(Wire):
    """Everything the child needs to predict."""

    request: InferenceRequest
    """What the workflow asked for."""
    home: Path
    """The worker's home directory."""
    attempt: int
    """Number of the attempt from 1."""


@contextmanager
def _stoppable() -> Iterator[None]:
    # A stop that was asked for is no fault, of which the worker's log would show a traceback.
    try:
        yield
    except Stopped:
        raise WorkerStopping("it was asked to stop") from None


@_stoppable()
def train(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Train one run and publish it; a run that is published already is not trained again."""
    job = TrainJob.model_validate(payload)
    request, store = job.request, RunStore(job.home)
    report = _reporter(channel)
    began = time.perf_counter()
    report(Progress(phase="loading data", epochs=request.config.epochs))
    data = load_training_data(
        request.data,
        task=request.config.task,
        max_train_rows=request.config.max_train_rows,
        max_eval_rows=request.config.max_eval_rows,
        seed=request.config.seed,
    )
    published = store.result(request.run)
    if published is None:
        trained = fine_tune(
            request.config,
            data,
            output=job.staging / MODEL_DIRECTORY,
            report=report,
            should_stop=channel.stop_requested,
        )
        result = _result(job, data, trained, seconds=time.perf_counter() - began)
        (job.staging / RESULT_FILE).write_text(result.model_dump_json(indent=2))
        try:
            store.publish(job.staging, request.run)
        except RunExists:
            # An earlier attempt of this run, thought dead, was faster; or somebody else's run.
            published = store.result(request.run)
        else:
            return result.model_dump(mode="json")
    assert published is not None
    return _same_run(published, request, data).model_dump(mode="json")


@_stoppable()
def predict(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Predict for inline texts, or from file to file."""
    job = InferenceJob.model_validate(payload)
    request, report = job.request, _reporter(channel)
    began = time.perf_counter()
    report(Progress(phase="loading model"))
    store = RunStore(job.home)
    directory = store.model_directory(request.run)
    predictor = Predictor.load(directory, precision=request.precision, device=request.device)
    run = store.result(request.run)
    assert run is not None
    answer = (
        _predict_inline(predictor, request)
        if request.input is None
        else _predict_file(predictor, request, run, channel)
    )
    answer |= {"run": request.run, "model_sha256": run.model_sha256, "attempts": job.attempt}
    answer |= {"seconds": time.perf_counter() - began, **predictor.usage()}
    return InferenceResult.model_validate(answer).model_dump(mode="json")


def _predict_inline(predictor: Predictor, request: InferenceRequest) -> dict[str, Any]:
    began = time.perf_counter()
    texts = [text if isinstance(text, str) else text[0] for text in request.texts]
    pairs = [text[1] for text in request.texts if not isinstance(text, str)]
    predictions = predictor.predict(texts, pairs or None)
    seconds = time.perf_counter() - began
    return {
        "rows": len(texts),
        "predictions": [prediction.model_dump() for prediction in predictions],
        "texts_per_second": len(texts) / seconds,
    }


def _predict_file(
    predictor: Predictor, request: InferenceRequest, run: FineTuneResult, channel: Channel
) -> dict[str, Any]:
    assert request.input is not None
    assert request.output is not None
    output = Path(request.output)
    done = predict_file(
        predictor,
        request.input,
        output,
        columns=run.text_columns,
        report=_reporter(channel),
        should_stop=channel.stop_requested,
    )
    return {
        "rows": done.rows,
        "skipped": done.skipped,
        "label_counts": done.label_counts,
        "output": str(output),
        "output_sha256": done.sha256,
        "texts_per_second": done.rows / done.seconds,
        "notices": list(done.notices),
    }


def _reporter(channel: Channel) -> Any:
    def report(progress: Progress) -> None:
        channel.report("progress", progress.model_dump(mode="json"))

    return report


def _result(job: TrainJob, data: TrainingData, trained: TrainedModel, *, seconds: float) -> FineTuneResult:
    request = job.request
    return FineTuneResult(
        run=request.run,
        experiment=request.experiment,
        directory=str(RunStore(job.home).directory(request.run)),
        task=data.task,
        labels=list(data.labels),
        text_columns=list(data.text_columns),
        model=request.config.model,
        data_sha256=data.sha256,
        config=request.config,
        attempts=job.attempt,
        seconds=seconds,
        **{field.name: getattr(trained, field.name) for field in fields(trained)},
    )


def _same_run(published: FineTuneResult, request: FineTuneRequest, data: TrainingData) -> FineTuneResult:
    if published.data_sha256 != data.sha256:
        raise NameInUse(request.run, difference="the data has changed since it was trained")
    if published.config != request.config:
        raise NameInUse(request.run, difference=_difference(published, request))
    return published


def _difference(published: FineTuneResult, request: FineTuneRequest) -> str:
    theirs, ours = published.config.model_dump(), request.config.model_dump()
    field = next(name for name in ours if theirs[name] != ours[name])
    return f"its {field} is {theirs[field]!r}, not {ours[field]!r}"
