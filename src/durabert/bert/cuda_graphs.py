"""Forward and backward pass on a GPU as CUDA graphs, one for each shape that batches have.

A step of BERT on a small batch is some thousand kernels of a few microseconds each, and to start one from
Python takes longer than that. A graph starts them all at once. What it computes is what was captured: the
same kernels on the same memory, with the numbers of another batch in it and another seed of dropout.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import torch

from durabert.bert.batches import Batch
from durabert.bert.forward import Forward
from durabert.bert.loss import Loss
from durabert.bert.packing import PackedBatch

_CAPTURE: Final = "captur"
"""In the messages of CUDA when something cannot be captured."""


@dataclass(frozen=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    flat: torch.Tensor
    labels: torch.Tensor
    divisor: torch.Tensor
    loss: torch.Tensor


class GpuBackward:
    """Computes losses, and leaves gradients with the weights that they are of, always in the same memory."""

    def __init__(self, forward: Forward, loss: Loss) -> None:
        self._forward = forward
        self._loss = loss
        self._leaves = forward.leaves()
        self._gradients: dict[torch.nn.Parameter, torch.Tensor] = {}
        """By the weight that they are of."""
        self._graphs: dict[Hashable, _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()
        self.notice: str | None = None
        """Why nothing is captured, if so."""
        # A kernel cannot be loaded while something is captured, and this one comes after the warm-up.
        for dtype in (torch.float32, torch.bfloat16):
            nothing = torch.zeros(8, dtype=dtype, device=forward.compute.device)
            torch._foreach_copy_([nothing], [nothing.clone()])

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
                if isinstance(error, torch.OutOfMemoryError) or _CAPTURE not in str(error):
                    raise
                line = str(error).strip().split("\n", 1)[0][:200]
                self.notice = f"the steps are not captured as CUDA graphs, which makes them slower: {line}"
        return self._graphs.get(key)

    def _capture(self, batch: PackedBatch, labels: torch.Tensor) -> _Captured:
        flat, truth = batch.flat.clone(), labels.clone()
        divisor = torch.ones((), device=labels.device)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            # What libraries do once, and a lack of memory, come before the capture.
            self._differentiate(batch.over(flat), truth, divisor)
        graph = torch.cuda.CUDAGraph()
        # Other threads may use the device meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            loss = self._pass(batch.over(flat), truth, divisor)
        return _Captured(graph, flat, truth, divisor, loss)

    def _pass(self, batch: Batch, labels: torch.Tensor, divisor: torch.Tensor) -> torch.Tensor:
        loss, found = self._differentiate(batch, labels, divisor)
        torch._foreach_copy_([self._gradients[leaf] for leaf in found], list(found.values()))
        return loss

    def _differentiate(
        self, batch: Batch, labels: torch.Tensor, divisor: torch.Tensor
    ) -> tuple[torch.Tensor, dict[torch.nn.Parameter, torch.Tensor]]:
        """Return the loss, and the gradients of those weights that it depends on."""
        # In fp32: a sum over a batch loses bits in bf16.
        loss = self._loss.sum(self._forward.logits(batch), labels) / divisor
        found = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        gradients = {
            leaf: gradient for leaf, gradient in zip(self._leaves, found, strict=True) if gradient is not None
        }
        for leaf in gradients.keys() - self._gradients.keys():
            self._gradients[leaf] = torch.empty_like(leaf)
        return loss.detach(), gradients


class DeviceIdle:
    """How long a GPU has had nothing to do from the end of a step to the begin of the next one."""

    def __init__(self) -> None:
        self._ended: torch.cuda.Event | None = None
        self._began: torch.cuda.Event | None = None

    def begin(self) -> None:
        """All of a step has been asked for."""
        self._ended, self._began = _event(), None

    def end(self) -> None:
        """The next step is about to be asked for."""
        if self._ended is not None and self._began is None:
            self._began = _event()

    def seconds(self) -> float:
        """Return the time in between, once the device has come to the next step; 0 before the first."""
        if self._ended is None or self._began is None:
            return 0.0
        return self._ended.elapsed_time(self._began) / 1000


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event
