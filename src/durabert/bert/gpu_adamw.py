"""AdamW on a GPU: each step reads and writes each value once, for all parameters in a few kernels.

It takes gradients in the precision that they have, clips them on the way, and writes weights in half
precision while those in float32 are at hand.

Shape letters: C chunks of some parameters.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
import triton.language as tl

from durabert.bert import triton_kernels
from durabert.bert.adamw import BETAS, EPSILON, Gradients, clipping, parameter_groups
from durabert.bert.device import to_device
from durabert.bert.triton_kernels import CHUNK, WARPS

_TYPES: Final = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


@dataclass(frozen=True)
class _Chunks:
    """Those of parameters that one kernel moves together."""

    table_C6: torch.Tensor  # noqa: N815
    """As ``triton_kernels.adamw`` takes it."""
    group: dict[str, Any]
    step: torch.Tensor
    """Steps that were made, on the CPU; the same tensor in the state of each parameter."""
    like: Any
    """Type of the gradients."""
    has_halves: bool


class GpuAdamW:
    """AdamW with weight decay on matrices alone; its moments are where ``torch.optim`` has them.

    Args:
        model: on the GPU, in float32.
        weight_decay: of matrices.
        halves: weights in bfloat16 that are written, too.
    """

    def __init__(self, model: torch.nn.Module, *, weight_decay: float, halves: Gradients) -> None:
        self.param_groups = parameter_groups(model, weight_decay=weight_decay)
        for group in self.param_groups:
            group["lr"] = 0.0
        self.state: defaultdict[torch.Tensor, Any] = defaultdict(dict)
        self._halves = halves
        self._gradients: Gradients = {}
        self._addresses: list[int] = []
        self._chunks: list[_Chunks] = []

    def gradient_norm(self, gradients: Gradients) -> float:
        """Return the global L2 norm of the gradient."""
        sums = []
        for chunks in self._chunks_of(gradients):
            count = len(chunks.table_C6)
            sum_C = torch.empty(count, device=chunks.table_C6.device)
            triton_kernels.squares[(count,)](
                chunks.table_C6, sum_C, LIKE=chunks.like, CHUNK=CHUNK, num_warps=WARPS
            )
            sums.append(sum_C)
        return math.sqrt(torch.cat(sums).double().sum().item())

    def update(self, gradients: Gradients, *, norm: float, clip_norm: float | None) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger."""
        scale = clipping(norm, clip_norm)
        for chunks in self._chunks_of(gradients):
            chunks.step.add_(1)
            corrections = [1 - beta ** int(chunks.step) for beta in BETAS]
            rate = chunks.group["lr"]
            triton_kernels.adamw[(len(chunks.table_C6),)](
                chunks.table_C6,
                scale,
                1 - rate * chunks.group["weight_decay"],
                rate / corrections[0],
                1 / math.sqrt(corrections[1]),
                BETA1=BETAS[0], BETA2=BETAS[1], EPSILON=EPSILON,
                LIKE=chunks.like, HALVES=chunks.has_halves, CHUNK=CHUNK, num_warps=WARPS,
            )  # fmt: skip

    def _chunks_of(self, gradients: Gradients) -> list[_Chunks]:
        if gradients is self._gradients:
            # Those of the norm, a moment ago: the device waits for no second look.
            return self._chunks
        self._gradients = gradients
        addresses = [
            tensor.data_ptr()
            for parameter, gradient in gradients.items()
            for tensor in (gradient, self._moments(parameter)["exp_avg"])
        ]
        if addresses != self._addresses:
            self._addresses, self._chunks = addresses, list(self._cut(gradients))
        return self._chunks

    def _moments(self, parameter: torch.nn.Parameter) -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        return state

    def _cut(self, gradients: Gradients) -> Iterator[_Chunks]:
        kinds: defaultdict[tuple[Any, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for number, group in enumerate(self.param_groups):
            for parameter in group["params"]:
                if parameter in gradients:
                    step = int(self._moments(parameter)["step"])
                    kind = (number, gradients[parameter].dtype, parameter in self._halves, step)
                    kinds[kind].append(parameter)
        for (number, dtype, has_halves, step), parameters in kinds.items():
            shared = torch.tensor(float(step))
            for parameter in parameters:
                self.state[parameter]["step"] = shared
            table = np.concatenate([self._table(one, gradients[one]) for one in parameters])
            yield _Chunks(
                to_device(table, parameters[0].device),
                self.param_groups[number],
                shared,
                _TYPES[dtype],
                has_halves,
            )

    def _table(self, parameter: torch.nn.Parameter, gradient: torch.Tensor) -> np.ndarray[Any, Any]:
        assert gradient.is_contiguous()
        moments, half = self._moments(parameter), self._halves.get(parameter)
        tensors = (parameter, gradient, moments["exp_avg"], moments["exp_avg_sq"], half)
        starts = np.arange(0, parameter.numel(), CHUNK)
        columns = [
            np.zeros_like(starts) if one is None else one.data_ptr() + starts * one.element_size()
            for one in tensors
        ]
        return np.stack([*columns, np.minimum(CHUNK, parameter.numel() - starts)], axis=1)
