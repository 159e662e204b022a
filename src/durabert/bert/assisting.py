"""What the other processes do while the first one trains a model."""

from __future__ import annotations

from pathlib import Path

from durabert.bert.allocator import keep_freed_memory
from durabert.bert.checkpoint import load_state
from durabert.bert.data import TrainingData
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute, device_errors
from durabert.bert.metrics import best_metric
from durabert.bert.peers import Peers
from durabert.bert.preparing import prepare
from durabert.bert.progress import Reporter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.steps import TO_THE_END, Stopping, TrainState, train
from durabert.faults import reach
from durabert.specs import FineTuneConfig


def assist(
    config: FineTuneConfig,
    data: TrainingData,
    *,
    peers: Peers,
    halvings: int = 0,
    token_cache: Path | None = None,
    stopping: Stopping = TO_THE_END,
) -> None:
    """Make the steps of ``fine_tune`` together with the process that called that, and write nothing.

    Args:
        config: as there.
        data: as there.
        peers: who makes the steps.
        halvings: as there.
        token_cache: as there; the tokens are in it by then.
        stopping: as there.

    Raises:
        DurabertError: what is wrong with the device, with the training or with another process.
    """
    keep_freed_memory()
    # When the first process has them, the tokens are made.
    files = peers.shared({})
    reporter = Reporter(lambda _: None, lambda: False)
    compute = Compute.choose(device=config.device, precision=config.precision)
    metric = best_metric(config.best_metric, data.task)
    with quiet_libraries(), device_errors(compute), deterministic_kernels():
        job = prepare(config, data, compute, metric, reporter, token_cache=token_cache)
        job = job.shared_with(peers, stopping=stopping)
        state = TrainState.fresh(job.model, job.plan)
        if files:
            load_state(files, state, job.plan)
            files.clear()
        state.cut(job.plan, halvings=halvings)
        for _ in train(state, job.plan):
            reach("assist", state.step)
