"""Several processes of one machine that make the steps of a training together, each a rank of torch's.

The batch of a step is cut into pieces as ever, and the ranks take the pieces in turn. Gradients and losses
are added in the order of the pieces, so the bits are those of one process that computes as many pieces.
Every rank then makes the same update of weights of its own; nothing else is divided. Rank 0 alone decides,
scores, tells and writes.

What is small goes over gloo on the CPU, also beside nccl: a rank that waits for a validation of rank 0 takes
nothing of its device. No port is opened: the ranks find each other by a file and talk over the loopback
device.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections.abc import Generator, Iterator
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from durabert.bert.device import Compute
from durabert.bert.gradients import GradientSum
from durabert.bert.metrics import Metrics
from durabert.bert.peers import Piece
from durabert.bert.weights import weights_sha256
from durabert.errors import ProcessKilled, SpecInvalid, UnexpectedError

T = TypeVar("T")
E = TypeVar("E")

BACKENDS: Final = {"cpu": "gloo", "cuda": "cpu:gloo,cuda:nccl"}
LOOPBACK: Final = "lo0" if sys.platform == "darwin" else "lo"
TIMEOUT: Final = timedelta(days=1)
"""Of a collective. Ranks wait for each other through validations; the launcher sees one that is gone at once,
and the supervisor one that hangs."""
PATIENCE: Final = 30.0
"""Seconds in which the launcher ends a rank that has lost another one."""


class Group:
    """The peers of one rank, which has joined the others."""

    def __init__(self, rank: int, size: int, compute: Compute) -> None:
        self.rank = rank
        self.size = size
        self._compute = compute
        self._gradients: GradientSum | None = None

    @classmethod
    @contextlib.contextmanager
    def joined(cls, file: Path, *, rank: int, size: int, compute: Compute) -> Iterator[Group]:
        """Join the ranks that find each other by a file, and leave them when the block is done.

        Raises:
            SpecInvalid: the device is not one that several processes can share the work of.
        """
        if compute.device.type not in BACKENDS:
            raise SpecInvalid(
                f"num_processes is {size}, but {compute.device.type!r} is one device for one process; "
                "use 1, or device 'cpu'"
            )
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)
        group = cls(rank, size, compute)
        with group._with_the_others():
            dist.init_process_group(
                BACKENDS[compute.device.type],
                store=dist.FileStore(str(file), size),  # type: ignore[attr-defined]  # it is documented there
                rank=rank,
                world_size=size,
                timeout=TIMEOUT,
            )
        yield group
        # Not after an error: who fails ends, and must not wait for what nccl still has to do with the others.
        dist.destroy_process_group()

    def add_up(self, piece: Piece, num_pieces: int, model: Any) -> torch.Tensor:
        """Compute the pieces whose turn is this rank's; return the sum of all losses, on every rank.

        Raises:
            MemoryError: a piece did not fit into the memory of a rank.
        """
        if self._gradients is None:
            self._gradients = GradientSum(model, num_processes=self.size)
        total = torch.zeros(())
        first_facts: list[list[float]] = []
        for first in range(0, num_pieces, self.size):
            losses, facts = self._computed(piece, first + self.rank, num_pieces, self._gradients)
            count = min(self.size, num_pieces - first)
            with self._with_the_others():
                self._gradients.add(facts, count=count, first=first == 0)
            first_facts = first_facts or facts
            # In fp32, as the sum of one process.
            for loss in losses[:count]:
                total = total + loss
        with self._with_the_others():
            self._gradients.give(first_facts)
        return total

    def led(self, work: Generator[E, None, Metrics]) -> Generator[E, None, Metrics]:
        """Let rank 0 do the work, and return what it found."""
        if self.rank == 0:
            metrics = yield from work
            return Metrics(**self.agreed(asdict(metrics)))
        return Metrics(**self.agreed({}))

    def agreed(self, value: T) -> T:
        """Return what rank 0 has."""
        sent: T = json.loads(self._from_first(json.dumps(value).encode()))
        return sent

    def shared(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Return the files of rank 0."""
        names = self.agreed(list(files))
        return {name: self._from_first(files.get(name, b"")) for name in names}

    def require_same_weights(self, model: Any, *, step: int) -> None:
        """Compare the digests of all weights.

        Raises:
            UnexpectedError: a rank has other weights than rank 0.
        """
        digest = bytes.fromhex(weights_sha256(model.state_dict()))
        first, *others = self._gathered(torch.tensor(list(digest), dtype=torch.uint8))
        for rank, other in enumerate(others, start=1):
            if not torch.equal(first, other):
                raise UnexpectedError(f"rank {rank} has other weights than rank 0 after step {step}")

    def await_end(self) -> None:
        """Let the launcher end this rank, as it does when another one has failed."""
        threading.Event().wait(PATIENCE)

    def _computed(
        self, piece: Piece, number: int, num_pieces: int, gradients: GradientSum
    ) -> tuple[list[torch.Tensor], list[list[float]]]:
        """Compute a piece, if it is there; return losses of all ranks, and the facts of their gradients."""
        fits, loss = True, 0.0
        try:
            if number < num_pieces:
                loss = float(piece(number).item())
        except (RuntimeError, MemoryError) as error:
            if not self._compute.is_out_of_memory(error):
                raise
            fits = False
        told = torch.tensor([fits, loss, *gradients.facts()], dtype=torch.float64)
        everyone = [facts.tolist() for facts in self._gathered(told)]
        full = [rank for rank, facts in enumerate(everyone) if not facts[0]]
        if full:
            raise MemoryError(f"out of memory on rank {full[0]} of {self.size}")
        return [torch.tensor(facts[1]) for facts in everyone], [facts[2:] for facts in everyone]

    def _gathered(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._with_the_others():
            dist.all_gather(parts, tensor)
        return parts

    def _from_first(self, data: bytes) -> bytes:
        with self._with_the_others():
            size = torch.tensor(len(data))
            dist.broadcast(size, src=0)
            content = (
                np.frombuffer(data, np.uint8).copy() if self.rank == 0 else np.empty(int(size), np.uint8)
            )
            if int(size):
                dist.broadcast(torch.from_numpy(content), src=0)
        return content.tobytes()

    @contextlib.contextmanager
    def _with_the_others(self) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            # The one that is gone has told why, or the launcher sees how it ended; it ends this one, too, and
            # a word from here would only hide the reason.
            self.await_end()
            line = str(error).strip().split("\n", 1)[0][:200]
            raise ProcessKilled(f"rank {self.rank} of {self.size} has lost the others: {line}") from error
