"""What trains inside the ranks of a run that several processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from durabert.activities.jobs import stoppable
from durabert.activities.ranks import GROUP, run_ranks
from durabert.activities.training_jobs import TrainJob, load_data, trained
from durabert.bert.assisting import assist
from durabert.bert.device import Compute
from durabert.bert.group import Group
from durabert.bert.progress import Reporter
from durabert.errors import TrainingDiverged

if TYPE_CHECKING:
    from durabert.supervisor import Channel


def train(payload: dict[str, Any], channel: Channel) -> dict[str, Any]:
    """Train one run in several processes and publish it; one that is published is not trained again."""
    job = TrainJob.model_validate(payload)
    assert job.meeting is not None
    entry = f"{__name__}:{train_rank.__name__}"
    result: dict[str, Any] = run_ranks(entry, payload, channel, size=job.num_processes, meeting=job.meeting)
    return result


@stoppable()
def train_rank(payload: dict[str, Any], channel: Channel, rank: int) -> dict[str, Any] | None:
    """Train as one of the ranks; rank 0 returns the result."""
    job = TrainJob.model_validate(payload)
    assert job.meeting is not None
    config = job.request.config
    torch.set_num_threads(max(1, torch.get_num_threads() // job.num_processes))
    compute = Compute.choose(device=config.device, precision=config.precision)
    with Group.joined(job.meeting / GROUP, rank=rank, size=job.num_processes, compute=compute) as peers:
        if rank == 0:
            return trained(job, channel, peers)
        _assist(job, peers)
        return None


def _assist(job: TrainJob, peers: Group) -> None:
    # What rank 0 has loaded by then is in the caches.
    if not peers.agreed(False):
        return
    data = load_data(job, job.objects(), Reporter(lambda _: None, lambda: False))
    try:
        assist(
            job.request.config,
            data,
            peers=peers,
            halvings=job.halvings,
            token_cache=job.token_cache,
            stopping=job.stopping,
        )
    except TrainingDiverged:
        # Rank 0 has come to the same, and decides whether that is worth another attempt.
        peers.await_end()
        raise
