"""Fine-tune one model: from a configuration and rows to a model directory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from durabert.bert.allocator import keep_freed_memory
from durabert.bert.card import ModelCard, versions, write_model
from durabert.bert.checkpoint import load_state
from durabert.bert.checkpointing import Checkpoints, CheckpointWriter, waiting
from durabert.bert.curve import Point
from durabert.bert.data import TrainingData
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute, Precision, device_errors, process_peak_memory_mib
from durabert.bert.metrics import Metrics, best_metric
from durabert.bert.peers import ALONE, Peers
from durabert.bert.preparing import PreparedJob, prepare
from durabert.bert.profile import Totals
from durabert.bert.progress import Reporter, Stopped, TrainingMeter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.steps import (
    TO_THE_END,
    Best,
    EpochReport,
    EvalReport,
    StepReport,
    Stopping,
    TrainPlan,
    TrainState,
    is_finished,
    score_split,
    train,
)
from durabert.bert.weights import weights_sha256
from durabert.errors import CheckpointNotUsable
from durabert.specs import EpochResult, FineTuneConfig, Progress, RowCounts, TrainingProfile

__all__ = ["Stopped", "TrainedModel", "fine_tune"]


@dataclass(frozen=True)
class TrainedModel:
    """What a training gave; the fields are those of ``FineTuneResult``."""

    steps: int
    epochs: int
    best_epoch: int
    train_seconds: float
    train_loss: float
    metric: str
    metrics: dict[str, float]
    test_metrics: dict[str, float] | None
    history: list[EpochResult]
    rows: RowCounts
    examples_per_second: float
    peak_memory_mib: float
    peak_device_memory_mib: float | None
    device: str
    precision: Precision
    deterministic: bool
    num_threads: int
    micro_batches: int
    checkpoint_seconds: float | None
    profile: TrainingProfile | None
    model_sha256: str
    finished: bool
    notices: list[str]
    versions: dict[str, str]


def fine_tune(
    config: FineTuneConfig,
    data: TrainingData,
    *,
    output: Path,
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    checkpoints: Checkpoints | None = None,
    halvings: int = 0,
    base_model: Path | None = None,
    token_cache: Path | None = None,
    peers: Peers = ALONE,
    stopping: Stopping = TO_THE_END,
) -> TrainedModel:
    """Train, keep the weights of the best epoch, and write them to a model directory.

    A training that is left before its end writes no model; with ``checkpoints`` its last state is committed.

    Args:
        config: how to train.
        data: what to train on.
        output: directory that is written at the end, whole or not at all; replaced if it exists.
        report: gets the progress, between steps every second, and every five seconds after ten of them.
        should_stop: asked between steps, chunks of texts and batches.
        checkpoints: what to go on from, and where to put others; none: begin anew and make none.
        halvings: how often to halve the micro-batches at the start, because a process before this one was
            killed for its memory.
        base_model: its directory, where it has been looked up already; none: by its name.
        token_cache: directory in which tokens are kept for the next run on the same texts; none: nowhere.
        peers: who makes the steps; of several processes the others call ``assist``.
        stopping: where to leave it before its end.

    Raises:
        Stopped: ``should_stop`` said so; no model is written, and with ``checkpoints`` the last step is
            committed.
        UserError: a field does not fit the model, the data or this machine; nothing is written.
        TrainingDiverged: loss, gradient or predictions are not finite; nothing is written.
        InfrastructureError: the device failed or has too little memory; nothing is written.
    """
    keep_freed_memory()
    reporter = Reporter(report, should_stop)
    compute = Compute.choose(device=config.device, precision=config.precision)
    metric = best_metric(config.best_metric, data.task)
    with quiet_libraries(), device_errors(compute), deterministic_kernels():
        job = prepare(
            config, data, compute, metric, reporter, base_model=base_model, token_cache=token_cache
        ).shared_with(peers, stopping=stopping)
        state = TrainState.fresh(job.model, job.plan)
        peers.shared((checkpoints and checkpoints.files) or {})
        if checkpoints is not None:
            _restore(state, job.plan, checkpoints)
        state.cut(job.plan, halvings=halvings)
        with _writing(checkpoints, state) as writer:
            totals = _train(state, job, reporter, writer)
            card, model_sha256 = _kept(job, data, state, output, reporter)
            if writer is not None:
                writer.settle(wait=waiting(reporter.tick))
        seconds = None if writer is None else writer.seconds
        finished = is_finished(state, job.plan)
        return _result(card, state, totals, compute, model_sha256, seconds, finished=finished)


def _kept(
    job: PreparedJob, data: TrainingData, state: TrainState, output: Path, reporter: Reporter
) -> tuple[ModelCard, str]:
    """Write the weights of the best epoch if training is finished; return what is said of them."""
    best = state.best
    assert best is not None
    if not is_finished(state, job.plan):
        return _card(job, data, state, best, None), weights_sha256(best.weights.tensors)
    job.model.load_state_dict(best.weights.tensors)
    state.forward.weights_changed()
    test = _test(state, job, reporter)
    reporter.phase("saving", eta_seconds=0.0)
    card = _card(job, data, state, best, test)
    return card, write_model(output, job.model, job.tokenizer, card)


def _restore(state: TrainState, plan: TrainPlan, checkpoints: Checkpoints) -> None:
    if not checkpoints.files:
        return
    load_state(checkpoints.files, state, plan)
    checkpoints.files.clear()
    if checkpoints.from_parent and is_finished(state, plan):
        raise CheckpointNotUsable(
            f"the checkpoint has done {state.step} steps in {len(state.history)} epochs, and with epochs = "
            f"{plan.config.epochs} nothing is left to do; give more epochs"
        )


@contextlib.contextmanager
def _writing(checkpoints: Checkpoints | None, state: TrainState) -> Iterator[CheckpointWriter | None]:
    if checkpoints is None:
        yield None
        return
    writer = CheckpointWriter(checkpoints, state)
    try:
        yield writer
    finally:
        writer.close()


def _train(
    state: TrainState, job: PreparedJob, reporter: Reporter, writer: CheckpointWriter | None
) -> Totals:
    if writer is None:
        return _make_steps(state, job, reporter, lambda _: None)
    try:
        totals = _make_steps(state, job, reporter, lambda point: writer.after_step(state, point))
    except Stopped:
        # The state is whole between any two events, also in the middle of a validation.
        writer.save(state)
        raise
    # Written while the model is tested and saved.
    writer.begin_last(state)
    return totals


def _make_steps(
    state: TrainState, job: PreparedJob, reporter: Reporter, on_step: Callable[[Point], None]
) -> Totals:
    plan, totals = job.plan, Totals(job.plan.peers.size)
    num_train, num_validation = len(plan.train.tokens.ids), len(plan.validation.tokens.ids)
    meter = TrainingMeter(
        num_steps=plan.num_steps - state.step,
        num_validations=plan.config.epochs - len(state.history) + (job.test is not None),
        validation_share=num_validation / max(1, num_train),
        steps_per_epoch=plan.steps_per_epoch,
    )
    first = state.step + 1
    reporter.phase("training", epoch=len(state.history) + 1, step=state.step, steps=plan.num_steps)
    for event in train(state, plan):
        match event:
            case StepReport():
                on_step(_point(event))
                totals.add(
                    seconds=event.seconds,
                    examples=event.num_examples,
                    tokens=event.num_tokens,
                    operations=event.operations,
                    parts=event.parts,
                )
                meter.step(
                    loss=event.loss,
                    seconds=event.seconds,
                    examples=event.num_examples,
                    tokens=event.num_tokens,
                )
                reporter.phase(
                    "training",
                    at_once=event.step == first,
                    step=event.step,
                    epoch=event.epoch,
                    learning_rate=event.learning_rate,
                    **meter.fields(),
                )
            case EvalReport():
                reporter.phase("validating")
            case EpochReport():
                meter.validation(event.seconds)
                reporter.tick(at_once=reporter.is_young, metrics=event.result.metrics, **meter.fields())
    return totals


def _point(event: StepReport) -> Point:
    return Point(
        step=event.step,
        epoch=event.epoch,
        loss=event.loss,
        learning_rate=event.learning_rate,
        examples=event.num_examples,
        tokens=event.num_tokens,
        seconds=event.seconds,
    )


def _test(state: TrainState, job: PreparedJob, reporter: Reporter) -> Metrics | None:
    if job.test is None:
        return None
    scoring = score_split(state, job.plan, job.test)
    while True:
        try:
            next(scoring)
        except StopIteration as end:
            return end.value
        reporter.phase("validating")


def _card(
    job: PreparedJob, data: TrainingData, state: TrainState, best: Best, test: Metrics | None
) -> ModelCard:
    return ModelCard(
        config=job.plan.config,
        data=data,
        history=state.history,
        metric=job.plan.metric,
        best_epoch=best.epoch,
        validation=best.metrics,
        test=test,
        device=job.plan.compute.describe(),
        precision=job.plan.compute.precision,
        deterministic=job.deterministic,
        notices=(*job.notices, *_memory_notice(state, job.plan), *_capture_notice(state)),
        versions=versions(),
    )


def _memory_notice(state: TrainState, plan: TrainPlan) -> list[str]:
    if state.micro_batches == plan.num_pieces:
        return []
    return [
        f"batches were computed in {state.micro_batches} pieces instead of {plan.num_pieces}, with the same "
        "rows and the same batch size: the memory was too small, or more processes had begun"
    ]


def _capture_notice(state: TrainState) -> list[str]:
    return [] if state.on_gpu is None or state.on_gpu.notice is None else [state.on_gpu.notice]


def _result(
    card: ModelCard,
    state: TrainState,
    totals: Totals,
    compute: Compute,
    model_sha256: str,
    checkpoint_seconds: float | None,
    *,
    finished: bool,
) -> TrainedModel:
    data = card.data
    return TrainedModel(
        steps=state.step,
        epochs=len(state.history),
        best_epoch=card.best_epoch,
        train_seconds=totals.seconds,
        train_loss=state.history[-1].train_loss,
        metric=card.metric,
        metrics=card.validation.values,
        test_metrics=None if card.test is None else card.test.values,
        history=state.history,
        rows=RowCounts(
            train=len(data.train),
            validation=len(data.validation),
            test=0 if data.test is None else len(data.test),
        ),
        # An attempt that found the training finished has measured no step.
        examples_per_second=totals.examples / totals.seconds if totals.seconds else 0.0,
        peak_memory_mib=process_peak_memory_mib(),
        peak_device_memory_mib=compute.peak_memory_mib(),
        device=card.device,
        precision=compute.precision,
        deterministic=card.deterministic,
        num_threads=torch.get_num_threads(),
        micro_batches=state.micro_batches,
        checkpoint_seconds=checkpoint_seconds,
        profile=totals.profile(compute, checkpoint_seconds=checkpoint_seconds or 0.0),
        model_sha256=model_sha256,
        finished=finished,
        notices=list(card.notices),
        versions=card.versions,
    )
