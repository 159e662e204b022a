"""Some steps of a training once more, from a checkpoint: what comes out can be held against the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch

from durabert.bert.checkpoint import StateCopier, files_of, load_state
from durabert.bert.data import TrainingData
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute
from durabert.bert.metrics import best_metric
from durabert.bert.preparing import prepare
from durabert.bert.progress import Reporter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.steps import EpochReport, StepReport, TrainState, train
from durabert.specs import FineTuneConfig, Progress


@dataclass(frozen=True)
class Moment:
    """The training after a step, or after the validation that ends an epoch."""

    step: int
    loss: float | None
    """Of the step; none after a validation."""
    state: Callable[[], Iterator[tuple[str, memoryview]]]
    """Gives the files of the state; to be called before the next moment."""


def rerun(
    config: FineTuneConfig,
    data: TrainingData,
    files: Mapping[str, bytes] | None,
    *,
    num_steps: int,
    num_threads: int,
    report: Callable[[Progress], None],
) -> Iterator[Moment]:
    """Make steps from a checkpoint, and yield the state after each of them.

    Args:
        config: of the run.
        data: of the run.
        files: of the checkpoint; none: from the beginning.
        num_steps: how many steps; the validation after the last one is among them.
        num_threads: CPU threads of the run, which decide on the order of sums.
        report: gets the progress.

    Raises:
        CheckpointNotUsable: the checkpoint is of another model.
    """
    torch.set_num_threads(num_threads)
    compute = Compute.choose(device=config.device, precision=config.precision)
    reporter = Reporter(report, lambda: False)
    copier = StateCopier()
    with quiet_libraries(), deterministic_kernels():
        job = prepare(config, data, compute, best_metric(config.best_metric, data.task), reporter)
        state = TrainState.fresh(job.model, job.plan)
        if files is not None:
            load_state(files, state, job.plan)
        last = state.step + num_steps
        for event in train(state, job.plan):
            if isinstance(event, StepReport):
                if event.step > last:
                    return
                reporter.tick(step=event.step, steps=last, phase="training", loss=event.loss)
                yield Moment(event.step, event.loss, lambda: files_of(copier.copy(state)))
            elif isinstance(event, EpochReport):
                yield Moment(state.step, None, lambda: files_of(copier.copy(state)))
