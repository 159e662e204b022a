"""Forward and backward pass on a GPU as CUDA graphs, one for each shape that batches have.

A step of BERT on a small batch is some thousand kernels of a few microseconds each, and to start one from
Python takes longer than that. A graph starts them all at once. What it computes is what was captured: the
same kernels on the same memory, with the numbers of another batch in it and another seed of dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from durabert.bert import triton_kernels
from durabert.bert.batches import Batch
from durabert.bert.device import to_device
from durabert.bert.forward import Forward
from durabert.bert.loss import Loss
from durabert.bert.packing import PackedBatch
from durabert.bert.triton_kernels import CHUNK, WARPS

WORD: Final = 2
"""Bytes of what is copied at once."""
_CAPTURE: Final = "captur"
"""In the messages of CUDA when something cannot be captured."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    flat: torch.Tensor
    labels: torch.Tensor
    divisor: torch.Tensor
    loss: torch.Tensor
    copy: _Copy


class _Copy:
    """Copies gradients to where they stay, in one kernel; where they come from is known after the capture."""

    def __init__(self, targets: list[torch.Tensor]) -> None:
        self._targets = targets
        self._starts = [np.arange(0, _words_of(target), CHUNK) for target in targets]
        num_chunks = sum(map(len, self._starts))
        self._table_C3 = torch.empty((num_chunks, 3), dtype=torch.int64, device=targets[0].device)
        # Loaded now: that cannot be while something is captured.
        triton_kernels.copy_all[(1,)](torch.zeros_like(self._table_C3[:1]), CHUNK=CHUNK, num_warps=WARPS)

    def launch(self) -> None:
        """Copy all."""
        triton_kernels.copy_all[(len(self._table_C3),)](self._table_C3, CHUNK=CHUNK, num_warps=WARPS)

    def set_up(self, sources: list[torch.Tensor]) -> None:
        """Say where the gradients come from."""
        rows = [
            np.stack(
                [
                    source.data_ptr() + WORD * starts,
                    target.data_ptr() + WORD * starts,
                    np.minimum(CHUNK, _words_of(target) - starts),
                ],
                axis=1,
            )
            for source, target, starts in zip(sources, self._targets, self._starts, strict=True)
        ]
        self._table_C3.copy_(to_device(np.concatenate(rows), self._table_C3.device))


def _words_of(tensor: torch.Tensor) -> int:
    """Return how many words of 16 bits a tensor has."""
    return tensor.numel() * tensor.element_size() // WORD


def _cause(error: BaseException) -> BaseException:
    """Return the first of the errors that led to one another: the end of a capture fails, too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class GpuBackward:
    """Computes losses, and leaves gradients with the weights that they are of, always in the same memory."""

    def __init__(self, forward: Forward, loss: Loss) -> None:
        self._forward = forward
        self._loss = loss
        self._leaves = forward.leaves()
        self._gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        """By the weight that they are of."""
        self._graphs: dict[Hashable, _Captured] = {}
        self._pool = torch.cuda.MemPool()
        self._stream = torch.cuda.Stream()
        self.notice: str | None = None
        """Why nothing is captured, if so."""

    def __call__(
        self, batch: Batch, labels: torch.Tensor, divisor: float, *, begin: Callable[[], None]
    ) -> torch.Tensor:
        """Return the loss of a batch, (), and leave its gradients.

        Those that weights have already are added to if they are in float32, and must have been taken if not.

        Args:
            batch: examples.
            labels: theirs.
            divisor: of the sum of their losses.
            begin: sets the source of chance; called right before the batch is computed.
        """
        before = {leaf: leaf.grad.clone() for leaf in self._gradients if leaf.grad is not None}
        captured = self._captured(batch, labels) if isinstance(batch, PackedBatch) else None
        if captured is None:
            begin()
            loss = self._pass(batch, labels, torch.tensor(divisor, device=labels.device))
        else:
            assert isinstance(batch, PackedBatch)
            captured.flat.copy_(batch.flat)
            captured.labels.copy_(labels)
            captured.divisor.fill_(divisor)
            begin()
            captured.graph.replay()
            # The next replay writes there again.
            loss = captured.loss.clone()
        for leaf, gradient in self._gradients.items():
            leaf.grad = gradient
        for leaf, gradient in before.items():
            self._gradients[leaf].add_(gradient)
        return loss

    def _captured(self, batch: PackedBatch, labels: torch.Tensor) -> _Captured | None:
        key = (batch.shape, labels.shape)
        if key not in self._graphs and self.notice is None:
            try:
                self._graphs[key] = self._capture(batch, labels)
            except RuntimeError as error:
                cause = _cause(error)
                if isinstance(cause, torch.OutOfMemoryError):
                    raise cause from None
                if _CAPTURE not in str(error):
                    raise
                line = str(cause).strip().split("\n", 1)[0][:200]
                self.notice = f"steps are slower, as they cannot be captured as CUDA graphs: {line}"
        return self._graphs.get(key)

    def _capture(self, batch: PackedBatch, labels: torch.Tensor) -> _Captured:
        flat, truth = batch.flat.clone(), labels.clone()
        divisor = torch.ones((), device=labels.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        # In the memory that the graphs compute in: none of them computes meanwhile.
        with torch.cuda.stream(self._stream), torch.cuda.use_mem_pool(self._pool):
            # What libraries do once, and a lack of memory, come before the capture.
            leaves = list(self._differentiate(batch.over(flat), truth, divisor)[1])
        copy = _Copy(self._places(leaves))
        graph = torch.cuda.CUDAGraph()
        pool: Any = self._pool.id
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            loss, found = self._differentiate(batch.over(flat), truth, divisor)
            sources = [gradient.contiguous() for gradient in found.values()]
            copy.launch()
        copy.set_up(sources)
        return _Captured(graph, flat, truth, divisor, loss, copy)

    def _pass(self, batch: Batch, labels: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        loss, found = self._differentiate(batch, labels, divisor)
        torch._foreach_copy_(self._places(found), list(found.values()))
        return loss

    def _places(self, leaves: Collection[torch.nn.Parameter]) -> list[torch.Tensor]:
        """Return where the gradients of weights stay."""
        for leaf in leaves:
            if leaf not in self._gradients:
                self._gradients[leaf] = torch.empty_like(leaf)
        return [self._gradients[leaf] for leaf in leaves]

    def _differentiate(
        self, batch: Batch, labels: torch.Tensor, divisor: torch.Tensor
    ) -> tuple[torch.Tensor, dict[torch.nn.Parameter, torch.Tensor]]:
        """Return the loss, and the gradients of those weights that it depends on."""
        # In fp32: a sum over a batch loses bits in bf16.
        loss = self._loss.sum(self._forward.logits(batch), labels) / divisor
        # In this thread: whose memory is used is said for a thread alone.
        with torch.autograd.set_multithreading_enabled(False):
            found = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        gradients = {
            leaf: gradient for leaf, gradient in zip(self._leaves, found, strict=True) if gradient is not None
        }
        return loss.detach(), gradients
