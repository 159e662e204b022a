"""What predicts inside the child process: model and store put together. No Temporal here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.dataset_jobs import snapshot_split
from durabert.activities.engines import load_predictor
from durabert.activities.jobs import ChildJob, finished_run, progress_to, reporter, stoppable
from durabert.bert.predict import Predictor, predict_file
from durabert.bert.records import RecordSource
from durabert.specs import FineTuneResult, InferenceRequest, InferenceResult

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class InferenceJob(ChildJob):
    """Everything the child needs to predict."""

    request: InferenceRequest
    """What the workflow asked for."""
    attempt: int
    """Number of the attempt from 1."""


@stoppable()
def predict(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Predict for inline texts, or from file to file."""
    job = InferenceJob.model_validate(payload)
    request, progress = job.request, progress_to(channel)
    began = time.perf_counter()
    progress.phase("loading model")
    objects = job.objects()
    run = finished_run(objects, request.run, job.home)
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
