"""What predicts inside the child process: model and store put together. No Temporal here."""

from __future__ import annotations

import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.dataset_jobs import snapshot_split
from durabert.activities.engines import load_predictor
from durabert.bert.predict import Predictor, predict_file
from durabert.bert.progress import Reporter, Stopped
from durabert.bert.records import RecordSource
from durabert.errors import RunNotFound, WorkerStopping
from durabert.specs import (
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    Progress,
    Wire,
)
from durabert.store.objects import ObjectStore, open_store
from durabert.store.results import ResultStore
from durabert.store.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durabert.supervisor import Channel


class InferenceJob(Wire):
    """Everything the child needs to predict."""

    request: InferenceRequest
    """What the workflow asked for."""
    home: Path
    """The worker's home directory."""
    store: str
    """URL or path of the artifact store."""
    attempt: int
    """Number of the attempt from 1."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn a stop that was asked for into the error that hands the work over."""
    # A stop that was asked for is no fault, of which the worker's log would show a traceback.
    try:
        yield
    except Stopped:
        raise WorkerStopping("it was asked to stop") from None


@stoppable()
def predict(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Predict for inline texts, or from file to file."""
    job = InferenceJob.model_validate(payload)
    request, progress = job.request, Reporter(reporter(channel), channel.stop_requested)
    began = time.perf_counter()
    progress.phase("loading model")
    objects = open_store(job.store, home=job.home)
    run = fetch_run(objects, request.run, job.home)
    if run is None:
        raise RunNotFound(request.run)
    predictor = load_predictor(request, run, objects, job.home, progress)
    answer = (
        _predict_inline(predictor, request)
        if request.input is None
        else _predict_file(
            predictor, request, run, channel, snapshot_split(request.input.path, objects, job.home)
        )
    )
    answer |= {"run": request.run, "model_sha256": run.model_sha256, "attempts": job.attempt}
    answer |= {"seconds": time.perf_counter() - began, **predictor.usage()}
    return InferenceResult.model_validate(answer).model_dump(mode="json")


def fetch_run(objects: ObjectStore, run: str, home: Path) -> FineTuneResult | None:
    """Return the result of a finished run, its model fetched to this home; None if it is not finished."""
    local = RunStore(home).result(run)
    if local is not None:
        return local
    results = ResultStore(objects)
    stored = results.result(run)
    if stored is None:
        return None
    results.fetch(stored, home)
    return RunStore(home).result(run)


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
    predictor: Predictor,
    request: InferenceRequest,
    run: FineTuneResult,
    channel: Channel,
    source: RecordSource | None,
) -> dict[str, Any]:
    assert request.input is not None
    assert request.output is not None
    output = Path(request.output)
    done = predict_file(
        predictor,
        request.input,
        output,
        columns=run.text_columns,
        source=source,
        report=reporter(channel),
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


def reporter(channel: Channel) -> Callable[[Progress], None]:
    """Return what passes the progress of a job on to the worker."""

    def report(progress: Progress) -> None:
        channel.report("progress", progress.model_dump(mode="json"))

    return report
