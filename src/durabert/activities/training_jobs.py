"""What trains inside the child process: data, model and store put together. No Temporal here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from durabert.activities.dataset_jobs import snapshot_directory
from durabert.activities.jobs import ChildJob, fetch_run, reporter, stoppable
from durabert.activities.reuse import Inputs, linked, remember, trained_as
from durabert.bert.card import versions
from durabert.bert.checkpointing import Checkpoints
from durabert.bert.data import TrainingData, load_training_data
from durabert.bert.loop import TrainedModel, fine_tune
from durabert.bert.peers import ALONE, Peers
from durabert.bert.progress import Reporter, Stopped
from durabert.bert.steps import Stopping
from durabert.errors import (
    AttemptSuperseded,
    CheckpointNotUsable,
    DivergenceSuspected,
    DurabertError,
    NameInUse,
    RunPaused,
    StoreUnavailable,
    TrainingDiverged,
    WorkerStopping,
)
from durabert.specs import (
    AttemptRecord,
    CheckpointRef,
    FineTuneConfig,
    FineTuneRequest,
    FineTuneResult,
    Progress,
)
from durabert.store.attempts import Attempt
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore, document
from durabert.store.runs import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore
from durabert.supervisor.failure import classified

if TYPE_CHECKING:
    from durabert.supervisor import Channel

SHOWN_ATTEMPTS: Final = 10
"""In a heartbeat."""
RESULT_ATTEMPTS: Final = 100
SAME_PLACE: Final = ("model", "batch_size", "seed", "max_train_rows", "task")
"""Fields of a configuration by which a step of one run is the same place in the data of another."""


class TrainJob(ChildJob):
    """Everything the child needs to train one run."""

    request: FineTuneRequest
    """What the workflow asked for."""
    staging: Path
    """The attempt's own directory, on the same disk as the home."""
    execution: str
    """Which execution of which workflow asks."""
    attempt: int
    """Number of the attempt in that execution, from 1."""
    num_processes: int = 1
    """Processes that share each batch."""
    meeting: Path | None = None
    """Directory by which they find each other; none for one process."""
    halvings: int = 0
    """How often to halve the micro-batches because a process before this one was killed for its memory."""

    @property
    def token_cache(self) -> Path:
        """Directory of the tokens that runs share."""
        return self.home / "cache" / "tokens"

    @property
    def stopping(self) -> Stopping:
        """Where the training is left before its end."""
        return Stopping(self.request.until_epoch, self.request.thresholds)


@stoppable()
def train(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Train one run and publish it; what is there already, by name or by content, is not trained again."""
    return trained(TrainJob.model_validate(payload), channel, ALONE)


def trained(job: TrainJob, channel: Channel, peers: Peers) -> dict[str, Any]:
    """Train one run with these peers, of which this is the first, and publish it."""
    began = time.perf_counter()
    report = reporter(channel)
    report(Progress(phase="loading data", epochs=job.request.config.epochs))
    objects = job.objects()
    data = load_data(job, objects, Reporter(report, channel.stop_requested))
    inputs, published = None, fetch_run(objects, job.request.run, job.home)
    if published is None:
        inputs = Inputs.of(job.request, data)
        published = linked(objects, job.request, inputs.lineage, job.home, job.staging, attempt=job.attempt)
    if peers.agreed(published is None):
        assert inputs is not None
        published = _train_anew(job, objects, inputs, channel, peers, began=began)
        # An earlier attempt of this run, thought dead, was faster; or somebody else's run.
        published = published or fetch_run(objects, job.request.run, job.home)
    assert published is not None
    result = _same_run(published, job.request, data)
    # One that was left has no model yet, and one that was kept from the test rows is not what others ask for.
    if result.finished and job.request.score_test:
        remember(objects, result)
    return result.model_dump(mode="json")


def load_data(job: TrainJob, objects: ObjectStore, progress: Reporter) -> TrainingData:
    """Return what a run is trained on; a snapshot comes from the store or from the cache."""
    request, config = job.request, job.request.config
    directory = snapshot_directory(request.data, request.snapshot, objects, job.home, progress)
    data = load_training_data(
        request.data,
        task=config.task,
        max_train_rows=config.max_train_rows,
        max_eval_rows=config.max_eval_rows,
        seed=config.seed,
        snapshot=directory,
    )
    return data if request.score_test else replace(data, test=None)


def _train_anew(
    job: TrainJob, objects: ObjectStore, inputs: Inputs, channel: Channel, peers: Peers, *, began: float
) -> FineTuneResult | None:
    """Train and, if that is finished, publish; None if the run is published by then."""
    if job.request.checkpoints is None:
        model = _fine_tune(job, inputs, channel, peers, reporter(channel), None)
        return _publish(job, objects, _result(job, inputs, model, began=began), None)
    attempt = _begin(job, objects, inputs)
    teller = _Teller(attempt, reporter(channel))
    with _ending_told(attempt, job.execution):
        checkpoints = _checkpoints(job, objects, inputs.data, attempt, teller)
        model = _fine_tune(job, inputs, channel, peers, teller.report, checkpoints)
        result = _result(job, inputs, model, began=began).model_copy(
            update={
                "parent": job.request.start_from,
                "state_sha256": attempt.state_sha256,
                "attempt_log": _log(attempt, last_step=model.steps),
                "attempts": len(attempt.log),
                "notices": [*model.notices, *map(str, attempt.passed)],
            }
        )
        if not result.finished:
            _tell(attempt, RunPaused(f"it was to stop after epoch {result.epochs} of {result.config.epochs}"))
            return result
        return _publish(job, objects, result, attempt)


def _fine_tune(
    job: TrainJob,
    inputs: Inputs,
    channel: Channel,
    peers: Peers,
    report: Callable[[Progress], None],
    checkpoints: Checkpoints | None,
) -> TrainedModel:
    return fine_tune(
        job.request.config,
        inputs.data,
        output=job.staging / MODEL_DIRECTORY,
        report=report,
        should_stop=channel.stop_requested,
        checkpoints=checkpoints,
        halvings=job.halvings,
        base_model=inputs.base_model,
        token_cache=job.token_cache,
        peers=peers,
        stopping=job.stopping,
    )


def _begin(job: TrainJob, objects: ObjectStore, inputs: Inputs) -> Attempt:
    request = job.request
    assert request.checkpoints is not None
    what = {
        "config": request.config.model_dump(mode="json"),
        "data_sha256": inputs.data.sha256,
        "parent": None if request.start_from is None else request.start_from.model_dump(mode="json"),
    }
    # A checkpoint does not know how many processes there were.
    same = {**what, "config": request.config.model_dump(mode="json", exclude={"num_processes"})}
    identity = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
    return Attempt.begin(
        objects,
        request.run,
        identity=identity,
        execution=job.execution,
        temporal_attempt=job.attempt,
        policy=request.checkpoints,
        environment={
            **what,
            "data": request.data.model_dump(mode="json"),
            "snapshot": request.snapshot,
            "versions": versions(),
            "num_threads": torch.get_num_threads(),
            "num_processes": job.num_processes,
            "lineage": inputs.lineage.model_dump(mode="json"),
        },
    )


def _checkpoints(
    job: TrainJob, objects: ObjectStore, data: TrainingData, attempt: Attempt, teller: _Teller
) -> Checkpoints:
    request = job.request
    assert request.checkpoints is not None
    files, from_parent = attempt.files, False
    if attempt.resumed is None and request.start_from is not None:
        files, from_parent = _parent_files(request.start_from, request.config, objects, data), True
    return Checkpoints(
        sink=attempt,
        every_steps=request.checkpoints.every_steps,
        files=files,
        from_parent=from_parent,
        on_commit=teller.committed,
        on_trouble=teller.trouble,
    )


def _parent_files(
    parent: CheckpointRef, config: FineTuneConfig, objects: ObjectStore, data: TrainingData
) -> dict[str, bytes]:
    checkpoints = RunCheckpoints(objects, trained_as(objects, parent.run))
    checkpoint, files = checkpoints.at(parent.step)
    told = checkpoints.environment(checkpoint)
    if told["data_sha256"] != data.sha256:
        raise CheckpointNotUsable(f"run {parent.run!r} was trained on other data than this one")
    ours = config.model_dump(mode="json")
    for field in SAME_PLACE:
        if told["config"][field] != ours[field]:
            raise CheckpointNotUsable(
                f"run {parent.run!r} has {field} {told['config'][field]!r}, not {ours[field]!r}; "
                "a run that goes on from a checkpoint needs the same"
            )
    return files


class _Teller:
    """Adds what the store knows of a run to the progress that is reported."""

    def __init__(self, attempt: Attempt, report: Callable[[Progress], None]) -> None:
        self._report = report
        self._step = attempt.resumed.step if attempt.resumed else None
        self._trouble: str | None = None
        self._log = attempt.log[-SHOWN_ATTEMPTS:]
        self._passed = [str(one) for one in attempt.passed]

    def report(self, progress: Progress) -> None:
        warnings = [*self._passed, *([self._trouble] if self._trouble else [])]
        told = {"checkpoint_step": self._step, "attempt_log": self._log, "warnings": warnings}
        self._report(progress.model_copy(update=told))

    def committed(self, step: int) -> None:
        self._step = step

    def trouble(self, trouble: str | None) -> None:
        self._trouble = trouble


@contextmanager
def _ending_told(attempt: Attempt, execution: str) -> Iterator[None]:
    """Write into the journal what ends the attempt, and decide whether it is worth another one."""
    try:
        yield
    except AttemptSuperseded as error:
        last = attempt.checkpoints.journal.read().of_kind("started")[-1]
        if last.body["execution"] != execution:
            # Another server or home: to take the run back would go on without end.
            raise NameInUse(
                attempt.checkpoints.run, difference="it has taken this run's place in the store"
            ) from None
        raise error from None
    except Stopped:
        _tell(attempt, WorkerStopping("it was asked to stop"))
        raise
    except TrainingDiverged as error:
        seen = str(error) in attempt.ends_before(DivergenceSuspected.__name__)
        ending = error if seen else DivergenceSuspected(str(error))
        _tell(attempt, ending)
        raise ending from None
    except Exception as error:
        _tell(attempt, classified(error))
        raise


def _tell(attempt: Attempt, error: DurabertError) -> None:
    try:
        attempt.end(type(error).__name__, str(error))
    except (StoreUnavailable, AttemptSuperseded) as unsaid:
        # The next attempt finds this one without an end, as if it had been killed.
        print(f"the end of attempt {attempt.number} cannot be written down: {unsaid}")  # noqa: T201 - the log


def _log(attempt: Attempt, *, last_step: int) -> list[AttemptRecord]:
    *before, this = attempt.log[-RESULT_ATTEMPTS:]
    return [*before, this.model_copy(update={"last_step": last_step})]


def _publish(
    job: TrainJob, objects: ObjectStore, result: FineTuneResult, attempt: Attempt | None
) -> FineTuneResult | None:
    results, runs = ResultStore(objects), RunStore(job.home)
    files = results.upload(job.staging / MODEL_DIRECTORY)
    if attempt is not None:
        # A superseded attempt ends here.
        attempt.complete(hashlib.sha256(document(result, files)).hexdigest())
    (job.staging / RESULT_FILE).write_text(result.model_dump_json(indent=2))
    try:
        results.publish(result, files)
        runs.publish(job.staging, result.run)
    except RunExists:
        return None
    return result


def _result(job: TrainJob, inputs: Inputs, trained: TrainedModel, *, began: float) -> FineTuneResult:
    request, data = job.request, inputs.data
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
        seconds=time.perf_counter() - began,
        snapshot=request.snapshot,
        num_processes=job.num_processes,
        lineage=inputs.lineage,
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
