"""Forward and backward pass on a GPU as CUDA graphs, one for each shape that batches have.

A step of BERT on a small batch is some thousand kernels of a few microseconds each, and to start one from
Python takes longer than that. A graph starts them all at once. What it computes is what was captured: the
same kernels on the same memory, with the numbers of another batch in it and another seed of dropout.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch

from durabert.bert.batches import Batch
from durabert.bert.forward import Forward
from durabert.bert.loss import Loss
from durabert.bert.packing import PackedBatch

_AT_ONCE: Final = 2**22
"""Values of gradients that are copied to their places together: one by one takes longer than to copy them."""
_CAPTURE: Final = "captur"
"""In the messages of CUDA when something cannot be captured."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    flat: torch.Tensor
    labels: torch.Tensor
    divisor: torch.Tensor
    loss: torch.Tensor


def _cause(error: BaseException) -> BaseException:
    """Return the first of the errors that led to one another: the end of a capture fails, too."""
    while error.__context__ is not None:
        error = error.__context__
    return error


class _Places:
    """Where gradients stay; they get there while others are still computed, so that few are there twice."""

    def __init__(self) -> None:
        self.gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        """By the weight that they are of."""
        self._taken: list[tuple[torch.Tensor, torch.Tensor]] = []

    @contextlib.contextmanager
    def taking(self, leaves: list[torch.nn.Parameter]) -> Iterator[None]:
        """Take the gradients of these weights that are computed meanwhile."""
        hooks = [leaf.register_hook(functools.partial(self._take, leaf)) for leaf in leaves]
        try:
            yield
            self._copy()
        finally:
            self._taken.clear()
            for hook in hooks:
                hook.remove()

    def _take(self, leaf: torch.nn.Parameter, gradient: torch.Tensor) -> torch.Tensor:
        """Take the gradient of a weight and return where it will be."""
        if leaf not in self.gradients:
            self.gradients[leaf] = torch.empty_like(leaf)
        place = self.gradients[leaf]
        if gradient.numel() >= _AT_ONCE:
            return place.copy_(gradient)
        self._taken.append((place, gradient))
        if sum(gradient.numel() for _, gradient in self._taken) >= _AT_ONCE:
            self._copy()
        return place

    def _copy(self) -> None:
        places, gradients = ([pair[side] for pair in self._taken] for side in (0, 1))
        if places:
            torch._foreach_copy_(places, gradients)
        self._taken.clear()


class GpuBackward:
    """Computes losses, and leaves gradients with the weights that they are of, always in the same memory."""

    def __init__(self, forward: Forward, loss: Loss) -> None:
        self._forward = forward
        self._loss = loss
        self._leaves = forward.leaves()
        self._places = _Places()
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
        gradients = self._places.gradients
        before = {leaf: leaf.grad.clone() for leaf in gradients if leaf.grad is not None}
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
        for leaf, gradient in gradients.items():
            leaf.grad = gradient
        for leaf, gradient in before.items():
            gradients[leaf].add_(gradient)
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
            self._pass(batch.over(flat), truth, divisor)
        graph = torch.cuda.CUDAGraph()
        pool: Any = self._pool.id
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            loss = self._pass(batch.over(flat), truth, divisor)
        return _Captured(graph, flat, truth, divisor, loss)

    def _pass(self, batch: Batch, labels: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        """Return the loss; the gradients of the weights that it depends on go to their places."""
        # In fp32: a sum over a batch loses bits in bf16.
        loss = self._loss.sum(self._forward.logits(batch), labels) / divisor
        # In this thread: whose memory is used is said for a thread alone.
        with self._places.taking(self._leaves), torch.autograd.set_multithreading_enabled(False):
            torch.autograd.grad(loss, self._leaves, allow_unused=True)
        return loss.detach()
