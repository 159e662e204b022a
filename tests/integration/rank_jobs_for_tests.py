"""What the tests of ranks run in several processes."""

import os
from pathlib import Path

import torch

from durabert.activities.ranks import GROUP, run_ranks
from durabert.bert.device import Compute
from durabert.bert.group import Group

SIZE = 2


def together(payload, channel):
    return run_ranks(
        f"{__name__}:{payload['what']}", payload, channel, size=SIZE, meeting=Path(payload["meeting"])
    )


def joined(payload, rank):
    compute = Compute.choose(device="cpu", precision="fp32")
    return Group.joined(Path(payload["meeting"]) / GROUP, rank=rank, size=SIZE, compute=compute)


def different_weights(payload, channel, rank):
    model = torch.nn.Linear(2, 2)
    torch.nn.init.constant_(model.weight, rank)
    with joined(payload, rank) as group:
        group.require_same_weights(model, step=7)


def large_things(payload, channel, rank):
    with joined(payload, rank) as group:
        files = {"a": bytes(range(256)) * 4096, "empty": b""} if rank == 0 else {}
        said = group.agreed({"one": [1, None, 0.1]} if rank == 0 else None)
        shared = group.shared(files)
        assert shared == {"a": bytes(range(256)) * 4096, "empty": b""}
        return said if rank == 0 else None


def leaves_early(payload, channel, rank):
    with joined(payload, rank) as group:
        if rank == 1:
            os._exit(3)
        group.agreed(1)
        group.require_same_weights(torch.nn.Linear(2, 2), step=0)
