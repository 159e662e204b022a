"""The sum of the gradients of several processes, in the order of the pieces of a batch.

A sum of floating-point numbers depends on its order, and an all-reduce of torch promises none. So each
process is sent its share of the elements of every gradient, adds them up in the order of the pieces, and
sends the sums to all: as many bytes as an all-reduce moves, and the bits of one process that computes the
pieces in turn. The gradient of an embedding that is kept sparse goes to everyone, as it is.

Shape letters: P processes, S elements of a share, N looked-up rows of a sparse gradient, D their width.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist

BUCKET_ELEMENTS: Final = 16 * 2**20
"""Elements that are sent at once, 64 MiB: much enough for the network, little enough for the memory."""
ALIGNED: Final = 16
"""Elements, 64 bytes: a product of vectors may depend on where in memory they begin."""


@dataclass(frozen=True)
class _Bucket:
    """Some parameters, whose gradients lie one after the other."""

    places: tuple[tuple[torch.nn.Parameter, int], ...]
    """With the place of the first element."""
    flat_PS: torch.Tensor  # noqa: N815
    """The gradient of a piece, and in the end the sum, which stays until the next step."""
    total_S: torch.Tensor  # noqa: N815
    """The sum of this process's share."""


@dataclass
class _Rows:
    """The gradient of an embedding, as rows that were looked up in each piece."""

    parameter: torch.nn.Parameter
    total: torch.Tensor | None = None


class GradientSum:
    """Adds up the gradients of one model."""

    def __init__(self, model: Any, *, num_processes: int) -> None:
        self._num_processes = num_processes
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        sparse = {
            id(module.weight)
            for module in model.modules()
            if isinstance(module, torch.nn.Embedding) and module.sparse
        }
        self._rows = [_Rows(parameter) for parameter in trained if id(parameter) in sparse]
        self._buckets = [
            self._bucket(parameters)
            for parameters in _grouped([parameter for parameter in trained if id(parameter) not in sparse])
        ]
        largest = max((bucket.flat_PS.numel() for bucket in self._buckets), default=0)
        self._received = torch.empty(largest, device=trained[0].device)

    def _bucket(self, parameters: Sequence[torch.nn.Parameter]) -> _Bucket:
        places, end = [], 0
        for parameter in parameters:
            places.append((parameter, end))
            end += _rounded(parameter.numel(), ALIGNED)
        share = _rounded(-(-end // self._num_processes), ALIGNED)
        flat = torch.zeros(self._num_processes, share, device=parameters[0].device)
        return _Bucket(tuple(places), flat, torch.empty(share, device=flat.device))

    def facts(self) -> list[float]:
        """Return what the others must know: sizes of sparse gradients, and which dense ones there are."""
        sizes = [_num_rows(rows.parameter) for rows in self._rows]
        return [*sizes, *(float(parameter.grad is not None) for parameter in self._dense())]

    def add(self, facts: Sequence[Sequence[float]], *, count: int, first: bool) -> None:
        """Add the gradients of the next pieces, and take them from the parameters.

        Args:
            facts: of each process.
            count: of so many processes, the first ones, a piece is there.
            first: whether they are the first pieces of a batch.
        """
        for number, rows in enumerate(self._rows):
            if first:
                rows.total = None
            self._add_rows(rows, [int(of[number]) for of in facts], count=count)
        for bucket in self._buckets:
            self._add_share(bucket, count=count, first=first)

    def give(self, facts: Sequence[Sequence[float]]) -> None:
        """Leave the sum with the parameters on every process; ``facts`` are those of the first pieces."""
        for bucket in self._buckets:
            dist.all_gather_single(bucket.flat_PS.view(-1), bucket.total_S)
        # A parameter that the loss does not reach has no gradient, in whichever piece.
        present = [any(of) for of in zip(*(of[len(self._rows) :] for of in facts), strict=True)]
        places = ((bucket, place) for bucket in self._buckets for place in bucket.places)
        for there, (bucket, (parameter, start)) in zip(present, places, strict=True):
            elements = bucket.flat_PS.view(-1)[start : start + parameter.numel()]
            parameter.grad = elements.view_as(parameter) if there else None
        for rows in self._rows:
            rows.parameter.grad, rows.total = rows.total, None

    def _dense(self) -> Iterator[torch.nn.Parameter]:
        return (parameter for bucket in self._buckets for parameter, _ in bucket.places)

    def _add_share(self, bucket: _Bucket, *, count: int, first: bool) -> None:
        flat = bucket.flat_PS.view(-1)
        for parameter, start in bucket.places:
            if parameter.grad is not None:
                flat[start : start + parameter.numel()].copy_(parameter.grad.reshape(-1))
                parameter.grad = None
            else:
                flat[start : start + parameter.numel()].zero_()
        received = self._received[: flat.numel()]
        dist.all_to_all_single(received, flat)
        for number, share in enumerate(received.view_as(bucket.flat_PS)[:count]):
            if first and number == 0:
                bucket.total_S.copy_(share)
            else:
                bucket.total_S.add_(share)

    def _add_rows(self, rows: _Rows, sizes: Sequence[int], *, count: int) -> None:
        parameter, size = rows.parameter, _num_rows(rows.parameter)
        # What is gathered is equally long.
        indices = torch.zeros(max(sizes), dtype=torch.int64, device=parameter.device)
        values = torch.zeros(max(sizes), parameter.shape[1], device=parameter.device)
        if parameter.grad is not None:
            indices[:size] = parameter.grad._indices()[0]  # noqa: SLF001 - of one that is not coalesced
            values[:size] = parameter.grad._values()  # noqa: SLF001
            parameter.grad = None
        gathered = zip(_gathered(indices), _gathered(values), sizes, strict=True)
        for indices_N, values_ND, size in itertools.islice(gathered, count):
            piece = torch.sparse_coo_tensor(
                indices_N[None, :size], values_ND[:size], parameter.shape, check_invariants=False
            )
            # Added as autograd adds them: the order of the rows, hence of sums, depends on it.
            rows.total = piece if rows.total is None else rows.total.add_(piece)


def _gathered(tensor: torch.Tensor) -> list[torch.Tensor]:
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor)
    return parts


def _num_rows(parameter: torch.nn.Parameter) -> int:
    return 0 if parameter.grad is None else int(parameter.grad._nnz())  # noqa: SLF001


def _grouped(parameters: Sequence[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    group: list[torch.nn.Parameter] = []
    size = 0
    for parameter in parameters:
        if group and size + parameter.numel() > BUCKET_ELEMENTS:
            yield group
            group, size = [], 0
        group.append(parameter)
        size += parameter.numel()
    if group:
        yield group


def _rounded(number: int, unit: int) -> int:
    return -(-number // unit) * unit
