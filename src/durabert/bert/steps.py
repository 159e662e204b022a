"""The training itself: an explicit state, and a generator that moves it forward one step at a time.

Everything that a step needs is in ``TrainState`` or a pure function of the plan and the number of the step.
A state that is saved between two events and taken up again ends with the same bits.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from durabert.bert.batches import BatchOrder, Indices, Layout, micro_batches
from durabert.bert.device import Compute, to_device
from durabert.bert.forward import Forward
from durabert.bert.loss import Labels, Loss
from durabert.bert.metrics import Metrics, evaluate, is_better
from durabert.bert.optim import Optimizer, TorchAdamW, build_optimizer, learning_rate
from durabert.bert.peers import ALONE, Peers
from durabert.bert.profile import DeviceIdle, Laps, ModelOperations, Part
from durabert.bert.scoring import Scorer
from durabert.bert.tensor_files import TensorFiles
from durabert.bert.tokens import Tokens
from durabert.errors import TrainingDiverged
from durabert.faults import reach, strikes
from durabert.specs import EpochResult, FineTuneConfig, Task

if TYPE_CHECKING:
    from durabert.bert.cuda_graphs import GpuBackward


@dataclass(frozen=True)
class Examples:
    """A split, ready for the model."""

    tokens: Tokens
    labels: Labels

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Stopping:
    """Where a training is left before its end; its state is whole there, and it can go on."""

    until_epoch: int | None = None
    """After so many epochs."""
    thresholds: tuple[float | None, ...] = ()
    """By epoch: after it, if the best value of the metric up to there is worse."""


TO_THE_END: Final = Stopping()


@dataclass(frozen=True)
class TrainPlan:
    """What does not change during a training."""

    config: FineTuneConfig
    task: Task
    label_names: tuple[str, ...]
    train: Examples
    validation: Examples
    loss: Loss
    metric: str
    compute: Compute
    layout: Layout
    order: BatchOrder
    operations: ModelOperations
    peers: Peers = ALONE
    stopping: Stopping = TO_THE_END

    @property
    def num_pieces(self) -> int:
        """Pieces that a batch is computed in as long as they fit into the memory."""
        return max(self.config.gradient_accumulation, self.peers.size)

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in an epoch."""
        return self.order.per_epoch

    @property
    def num_steps(self) -> int:
        """Optimizer steps of all epochs, without early stopping."""
        return self.steps_per_epoch * self.config.epochs


@dataclass
class Best:
    """The best epoch so far."""

    epoch: int
    metrics: Metrics
    weights: TensorFiles


@dataclass
class TrainState:
    """What changes during a training; whole between any two events of ``train``."""

    model: Any
    forward: Forward
    optimizer: Optimizer
    scaler: torch.amp.GradScaler | None = None
    """Only for fp16, whose small gradients would vanish without it."""
    step: int = 0
    """Optimizer steps done."""
    epoch_loss: float = 0.0
    """Sum of the losses of the current epoch's examples."""
    epoch_examples: int = 0
    history: list[EpochResult] = field(default_factory=list)
    best: Best | None = None
    micro_batches: int = 1
    """Pieces that a batch is computed in; doubled when a piece does not fit into the memory."""
    on_gpu: GpuBackward | None = None
    """Computes the pieces on a GPU in bf16."""
    idle: DeviceIdle | None = None
    """Of a GPU."""

    @classmethod
    def fresh(cls, model: Any, plan: TrainPlan) -> TrainState:
        """Return the state before the first step."""
        device = plan.compute.device
        scaler = torch.amp.GradScaler(device.type) if plan.compute.precision == "fp16" else None
        forward = Forward.of(model, plan.compute)
        optimizer = build_optimizer(
            model, weight_decay=plan.config.weight_decay, device=device, halves=forward.halves()
        )
        state = cls(model, forward, optimizer, scaler, micro_batches=plan.num_pieces)
        if device.type == "cuda":
            state.idle = DeviceIdle()
        if plan.compute.is_bf16_on_gpu:
            from durabert.bert.cuda_graphs import GpuBackward

            state.on_gpu = GpuBackward(forward, plan.loss)
        return state

    def cut(self, plan: TrainPlan, *, halvings: int) -> None:
        """See to it that each process has a piece of a batch, and halve the pieces so many times."""
        pieces = max(self.micro_batches, plan.peers.size) * 2**halvings
        self.micro_batches = min(plan.config.batch_size, pieces)


@dataclass(frozen=True)
class StepReport:
    """One optimizer step is done."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    num_examples: int
    num_tokens: int
    operations: float
    """Of the model's products."""
    seconds: float
    parts: Mapping[Part, float]
    """Seconds of the parts of the step."""


@dataclass(frozen=True)
class EvalReport:
    """Some rows of a validation are done."""

    done: int
    rows: int


@dataclass(frozen=True)
class EpochReport:
    """An epoch is done and validated."""

    result: EpochResult
    seconds: float
    """Of the validation."""


Event = StepReport | EvalReport | EpochReport


def train(state: TrainState, plan: TrainPlan) -> Iterator[Event]:
    """Train to the end or to where the plan stops, from wherever ``state`` is, and yield after each step.

    Raises:
        TrainingDiverged: loss, gradient or predictions are not finite; the weights are those of the last
            good step.
    """
    # They may have been loaded.
    state.forward.weights_changed()
    while not (is_finished(state, plan) or is_left(state, plan)):
        if state.step == (len(state.history) + 1) * plan.steps_per_epoch:
            yield from _end_epoch(state, plan)
        else:
            yield _train_step(state, plan)


def is_finished(state: TrainState, plan: TrainPlan) -> bool:
    """Return whether no step is left, or early stopping ended the training."""
    epochs, patience = len(state.history), plan.config.early_stopping_patience
    if epochs == plan.config.epochs:
        return True
    return patience is not None and state.best is not None and epochs - state.best.epoch >= patience


def is_left(state: TrainState, plan: TrainPlan) -> bool:
    """Return whether training is to be left where it is, after an epoch, whether or not it is finished."""
    epochs, stopping = len(state.history), plan.stopping
    if stopping.until_epoch is not None and epochs >= stopping.until_epoch:
        return True

    def better(best: float, value: float) -> float:
        return value if is_better(plan.metric, value, than=best) else best

    values = [result.metrics[plan.metric] for result in state.history]
    # Each of them: the state may be further than where it had to be left.
    return any(
        threshold is not None and is_better(plan.metric, threshold, than=value)
        for value, threshold in zip(itertools.accumulate(values, better), stopping.thresholds, strict=False)
    )


def _train_step(state: TrainState, plan: TrainPlan) -> StepReport:
    started, laps = time.perf_counter(), Laps()
    config = plan.config
    indices = plan.order.indices(state.step)
    rate = learning_rate(
        state.step,
        plan.num_steps,
        peak=config.learning_rate,
        warmup_ratio=config.warmup_ratio,
        schedule=config.schedule,
    )
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    loss = _update(state, plan, _backward_that_fits(state, plan, indices, laps), laps)
    state.step += 1
    state.epoch_loss += loss * len(indices)
    state.epoch_examples += len(indices)
    lengths = plan.train.tokens.lengths[indices]
    return StepReport(
        step=state.step,
        epoch=len(state.history) + 1,
        loss=loss,
        learning_rate=rate,
        num_examples=len(indices),
        num_tokens=int(lengths.sum()),
        operations=plan.operations.count(lengths),
        seconds=time.perf_counter() - started,
        parts=laps.seconds,
    )


def _backward_that_fits(state: TrainState, plan: TrainPlan, indices: Indices, laps: Laps) -> torch.Tensor:
    # Weights and moments are untouched until the update, so the step can be begun again in smaller pieces.
    while True:
        try:
            return _backward(state, plan, indices, laps)
        except (RuntimeError, MemoryError) as error:
            if not plan.compute.is_out_of_memory(error) or state.micro_batches >= len(indices):
                raise
        state.micro_batches = min(2 * state.micro_batches, len(indices))
        plan.compute.release_memory()


def _backward(state: TrainState, plan: TrainPlan, indices: Indices, laps: Laps) -> torch.Tensor:
    labels = plan.train.labels[indices]
    divisor = plan.loss.divisor(torch.from_numpy(labels))
    if not state.model.training:
        state.model.train()
    state.forward.forget_gradients()
    pieces = micro_batches(np.arange(len(indices)), state.micro_batches)

    def piece(number: int) -> torch.Tensor:
        rows = pieces[number]
        begin = functools.partial(state.forward.begin, plan.config.seed, state.step, number)
        reach("step.backward", state.step)
        batch = plan.layout.batch(plan.train.tokens, indices[rows])
        truth = to_device(labels[rows], plan.compute.device)
        laps.end("data")
        if state.idle is not None:
            state.idle.end()
        if state.on_gpu is not None:
            loss = state.on_gpu(batch, truth, divisor, begin=begin)
        else:
            begin()
            # In fp32 whatever the precision: a sum over a batch loses bits in bf16.
            loss = plan.loss.sum(state.forward.logits(batch), truth) / divisor
            laps.end("forward")
            (loss if state.scaler is None else state.scaler.scale(loss)).backward()
        if max(len(pieces), plan.peers.size) > 1:
            # In fp32: a sum of many loses bits in bf16.
            state.forward.gradients_taken()
        laps.end("backward")
        # A part of the sum that is no number is seen by all who add up.
        return loss.detach() * math.nan if strikes("step.nan", state.step) else loss.detach()

    return plan.peers.add_up(piece, len(pieces), state.model)


def _update(state: TrainState, plan: TrainPlan, total: torch.Tensor, laps: Laps) -> float:
    """Move the weights, and return the loss."""
    optimizer, clip_norm = state.optimizer, plan.config.clip_norm
    if state.scaler is not None:
        assert isinstance(optimizer, TorchAdamW)
        state.scaler.unscale_(optimizer)
    gradients = state.forward.gradients()
    # A GPU is asked for the norm before anything waits for the loss.
    norm, loss = optimizer.gradient_norm(gradients), float(total.item())
    if state.idle is not None:
        # What its batches took of a GPU, not of the processor beside it.
        laps.seconds["data"] = state.idle.seconds()
    # Before the step: Adam moments that absorbed a NaN never recover.
    _require_finite(state, loss, norm)
    if state.scaler is None:
        optimizer.update(gradients, norm=norm, clip_norm=clip_norm)
    else:
        assert isinstance(optimizer, TorchAdamW)
        optimizer.clip(gradients, norm=norm, clip_norm=clip_norm)
        state.scaler.step(optimizer)
        state.scaler.update()
    if state.idle is not None:
        state.idle.begin()
    laps.end("optimizer")
    return loss


def _require_finite(state: TrainState, loss: float, norm: float) -> None:
    # An fp16 gradient that overflows is normal while the scale is being found: the scaler skips that step.
    finding_scale = state.scaler is not None and state.scaler.get_scale() > 1
    if math.isfinite(loss) and (math.isfinite(norm) or finding_scale):
        return
    raise TrainingDiverged(
        f"training diverged at step {state.step + 1}: the loss is {loss:.4g} and the gradient norm "
        f"{norm:.4g}; a lower learning_rate may help"
    )


def _end_epoch(state: TrainState, plan: TrainPlan) -> Iterator[Event]:
    started = time.perf_counter()
    epoch = len(state.history) + 1
    plan.peers.require_same_weights(state.model, step=state.step)
    metrics = yield from plan.peers.led(score_split(state, plan, plan.validation))
    result = EpochResult(
        epoch=epoch,
        step=state.step,
        train_loss=state.epoch_loss / state.epoch_examples,
        metrics=metrics.values,
    )
    state.history.append(result)
    state.epoch_loss, state.epoch_examples = 0.0, 0
    value = metrics.values[plan.metric]
    if state.best is None or is_better(plan.metric, value, than=state.best.metrics.values[plan.metric]):
        state.best = Best(epoch, metrics, TensorFiles.of("best", state.model.state_dict()))
    yield EpochReport(result, time.perf_counter() - started)


def score_split(
    state: TrainState, plan: TrainPlan, examples: Examples
) -> Generator[EvalReport, None, Metrics]:
    """Yield how far the scoring of a split is, and return its metrics.

    Raises:
        TrainingDiverged: a prediction is not finite.
    """
    logits_NC = np.empty((len(examples), len(plan.label_names)), np.float32)
    done = 0
    for indices, logits_BC in Scorer(state.forward, plan.layout).batches(examples.tokens):
        logits_NC[indices] = logits_BC
        done += len(indices)
        yield EvalReport(done, len(examples))
    if not np.isfinite(logits_NC).all():
        raise TrainingDiverged(
            f"training diverged: the predictions after step {state.step} are not finite; "
            "a lower learning_rate may help"
        )
    return evaluate(plan.task, logits_NC, examples.labels, plan.label_names)
