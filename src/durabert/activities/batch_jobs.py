"""What a batch does inside child processes: plan, score a shard, commit. No Temporal here."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from durabert.activities.batch_planning import BatchInput, require_same, same_batch
from durabert.activities.inference_jobs import InferenceJob
from durabert.activities.jobs import ChildJob, finished_run, progress_to, reporter, stoppable
from durabert.bert.card import ModelFacts
from durabert.bert.device import process_peak_memory_mib
from durabert.bert.inspection import counted
from durabert.bert.predict import Predictor
from durabert.bert.progress import Reporter
from durabert.bert.rows import REPLACEMENT
from durabert.bert.shards import facts_of, score_shard
from durabert.bert.tokens import truncation_notice
from durabert.errors import RunNotUsable
from durabert.specs import (
    BatchCommit,
    BatchInferenceRequest,
    BatchInferenceResult,
    BatchPlan,
    FineTuneResult,
    InferenceResult,
    Progress,
    RowRange,
    ShardPlan,
    ShardRecord,
    Wire,
)
from durabert.store.batches import BatchOutput
from durabert.store.runs import RunStore

if TYPE_CHECKING:
    from durabert.supervisor import Channel

RESULT_FORMAT: Final = 1


class PlanJob(ChildJob):
    """Everything the child needs to plan a batch."""

    request: BatchInferenceRequest
    """What the workflow asked for."""


class CommitJob(Wire):
    """Everything the child needs to commit a batch."""

    request: BatchCommit
    """What the workflow asked for."""
    home: Path
    """The worker's home directory."""


@stoppable()
def plan(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Find out what is to be predicted on, and claim the output for it; or that all is done."""
    job = PlanJob.model_validate(payload)
    request, progress = job.request, progress_to(channel)
    progress.phase("loading model")
    objects = job.objects()
    run = finished_run(objects, request.run, job.home)
    facts = ModelFacts.read(RunStore(job.home).model_directory(request.run))
    given = BatchInput(request, facts, objects, job.home)
    given.require_readable()
    # Before a snapshot is taken, which may be long work.
    if not BatchOutput.is_new(request.output):
        there = BatchOutput.open(request.output, home=job.home).plan()
        if there is not None and (there[0].run, there[0].model_sha256) != (run.run, run.model_sha256):
            require_same(there[0], run=run.run, model_sha256=run.model_sha256, output=request.output)
    wanted = given.plan(progress)
    output = BatchOutput.open(request.output, home=job.home)
    planned, plan_sha256 = output.claim(wanted)
    if not same_batch(planned, wanted):
        require_same(planned, output=request.output, run=run.run, model_sha256=run.model_sha256, ours=wanted)
    answer = BatchPlan(
        plan_sha256=plan_sha256,
        snapshot=_snapshot_name(planned),
        model_sha256=planned.model_sha256,
        rows=planned.rows,
        shard_rows=planned.shard_rows,
        first_row=output.committed_rows(planned),
        result=_finished(output, request.output),
    )
    return answer.model_dump(mode="json")


def score(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Predict on one shard, unless it is committed already."""
    return score_with(Predictor.load, payload, channel)


@stoppable()
def score_with(load: Callable[..., Any], payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Predict on one shard with what ``load`` makes of a model directory."""
    job = InferenceJob.model_validate(payload)
    request, report, began = job.request, reporter(channel), time.perf_counter()
    assert request.shard is not None
    assert request.output is not None
    report(Progress(phase="loading model"))
    output = BatchOutput.open(request.output, home=job.home)
    planned = output.planned(request.shard.plan_sha256)
    record = output.record(request.shard)
    if record is None:
        record = _score(load, job, planned, output, Reporter(report, channel.stop_requested))
    seconds = time.perf_counter() - began
    answer = InferenceResult(
        run=request.run,
        model_sha256=planned.model_sha256,
        rows=request.shard.num_rows,
        output=record.predictions.path,
        output_sha256=record.predictions.sha256,
        skipped=request.shard.num_rows - record.predictions.rows,
        seconds=seconds,
        texts_per_second=request.shard.num_rows / seconds,
        peak_memory_mib=process_peak_memory_mib(),
        device=record.facts.device,
        precision=record.facts.precision,
        attempts=job.attempt,
    )
    return answer.model_dump(mode="json")


def _score(
    load: Callable[..., Any], job: InferenceJob, planned: ShardPlan, output: BatchOutput, progress: Reporter
) -> ShardRecord:
    request = job.request
    assert request.shard is not None
    shard: RowRange = request.shard
    objects = job.objects()
    _require_model(finished_run(objects, request.run, job.home), planned)
    directory = RunStore(job.home).model_directory(request.run)
    predictor = load(directory, precision=request.precision, device=request.device)
    source = BatchInput.rows_of(planned, objects, job.home)
    with RunStore(job.home).staging(request.run) as staging:
        scored = score_shard(predictor, planned, shard, source, staging, progress)

    def facts(predictions: bytes, path: str) -> Any:
        return facts_of(predictions, plan_sha256=shard.plan_sha256, path=path)

    return output.commit(shard, scored.predictions, scored.errors, facts)


@stoppable()
def commit(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Name every shard in ``result.json``, once all of them are there."""
    job = CommitJob.model_validate(payload)
    progress = progress_to(channel)
    output = BatchOutput.open(job.request.output, home=job.home)
    planned = output.planned(job.request.plan_sha256)
    progress.phase("saving", steps=planned.rows)
    records = []
    for record in output.records(planned, job.request.plan_sha256):
        records.append(record)
        progress.tick(step=record.facts.first_row + record.facts.num_rows)
    output.finish(_document(planned, job.request.plan_sha256, records))
    result = _finished(output, job.request.output)
    assert result is not None
    return result.model_dump(mode="json")


def _require_model(run: FineTuneResult, planned: ShardPlan) -> None:
    if run.model_sha256 != planned.model_sha256:
        raise RunNotUsable(
            f"run {planned.run!r} has the model {run.model_sha256} on this worker, but the batch was planned "
            f"with {planned.model_sha256}"
        )


def _snapshot_name(planned: ShardPlan) -> str:
    return f"snapshot:{planned.snapshot}/{planned.split}"


def _document(planned: ShardPlan, plan_sha256: str, records: list[ShardRecord]) -> bytes:
    labels: Counter[str] = Counter()
    for record in records:
        labels.update(record.facts.label_counts)
    predicted = sum(record.predictions.rows for record in records)
    fields = {
        "format": RESULT_FORMAT,
        "run": planned.run,
        "model_sha256": planned.model_sha256,
        "snapshot": _snapshot_name(planned),
        "plan_sha256": plan_sha256,
        "rows": planned.rows,
        "predicted": predicted,
        "errors": planned.rows - predicted,
        "label_counts": dict(labels),
        "notices": _notices(planned, records, num_errors=planned.rows - predicted),
        "shards": [_named(record) for record in records],
    }
    return json.dumps(fields, indent=1, ensure_ascii=False).encode()


def _named(record: ShardRecord) -> dict[str, Any]:
    return {
        "first_row": record.facts.first_row,
        "rows": record.facts.num_rows,
        "predictions": record.predictions.model_dump(),
        "errors": record.errors and record.errors.model_dump(),
    }


def _notices(planned: ShardPlan, records: list[ShardRecord], *, num_errors: int) -> list[str]:
    notices = list(planned.notices)
    if num_errors:
        notices.append(f"{counted(num_errors, 'row')} could not be scored; errors/ has the reason of each")
    replaced = sum(record.facts.replaced for record in records)
    if replaced:
        texts = counted(replaced, "text")
        notices.append(f"{texts} with half a surrogate pair, replaced by {REPLACEMENT!r}")
    return notices + truncation_notice(
        "input",
        num_truncated=sum(record.facts.truncated for record in records),
        num_texts=planned.rows,
        max_length=planned.max_length,
    )


def _finished(output: BatchOutput, name: str) -> BatchInferenceResult | None:
    data = output.result()
    if data is None:
        return None
    fields = json.loads(data)
    told = {field: fields[field] for field in _TOLD}
    return BatchInferenceResult(
        **told, shards=len(fields["shards"]), output=name, result_sha256=hashlib.sha256(data).hexdigest()
    )


_TOLD: Final = (
    "run", "model_sha256", "snapshot", "rows", "predicted", "errors", "label_counts", "notices",
)  # fmt: skip
"""Fields of ``result.json`` that a result has, too."""
