"""Who makes the steps of a training: one process alone, or several that share the pieces of each batch.

A batch is cut into pieces (micro-batches), and the gradient of a step is the sum over its pieces, added in
their order. ``Peers`` says who computes which piece and brings the sum together; everything else of a step
is the same for one process and for many, and so are the bits. ``durabert.bert.group`` has the peers of
several processes.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeVar

import torch

from durabert.bert.metrics import Metrics

T = TypeVar("T")
E = TypeVar("E")

Piece = Callable[[int], torch.Tensor]
"""Computes the piece of a number, leaves its gradient with the parameters, and returns its loss, ()."""


class Peers(Protocol):
    """The processes that make the steps of a training; each calls the same methods in the same order."""

    @property
    def size(self) -> int:
        """Number of processes."""

    def add_up(self, piece: Piece, num_pieces: int, model: Any) -> torch.Tensor:
        """Compute all pieces of a batch; return the sum of their losses, and leave that of their gradients.

        Args:
            piece: computes one.
            num_pieces: how many there are.
            model: its parameters have no gradient before, and the sum of all pieces after.

        Raises:
            MemoryError: a piece did not fit into the memory of one of the processes; each of them raises it.
        """

    def led(self, work: Generator[E, None, Metrics]) -> Generator[E, None, Metrics]:
        """Let the first process do the work, and return on each of them what it found."""

    def agreed(self, value: T) -> T:
        """Return on each process what the first one has, as JSON holds it."""

    def shared(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Return on each process the files of the first one."""

    def require_same_weights(self, model: Any, *, step: int) -> None:
        """Make sure that all processes have the same weights after a step.

        Raises:
            UnexpectedError: they do not.
        """


class Alone:
    """One process, which computes every piece."""

    size: Final = 1

    def add_up(self, piece: Piece, num_pieces: int, model: Any) -> torch.Tensor:  # noqa: ARG002 - of peers
        """Compute all pieces, one after the other; torch adds their gradients up."""
        total = piece(0)
        for number in range(1, num_pieces):
            total = total + piece(number)
        return total

    def led(self, work: Generator[E, None, Metrics]) -> Generator[E, None, Metrics]:
        """Do the work."""
        return work

    def agreed(self, value: T) -> T:
        """Return the value."""
        return value

    def shared(self, files: dict[str, bytes]) -> dict[str, bytes]:
        """Return the files."""
        return files

    def require_same_weights(self, model: Any, *, step: int) -> None:
        """Do nothing: there are no others."""


ALONE: Final = Alone()
