"""AdamW on a CPU, where it is the memory that it waits for: each step reads and writes each value once.

The gradient is read in the precision that it has, clipped on the way, and the weights in half precision are
written while those in float32 are at hand. Of an embedding only the rows that ever had a gradient move; the
others have moments of 0 and decay.

Shape letters: V tokens of a vocabulary, F values of each, R of them in a batch.
"""

# ruff: noqa: ANN001, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

import functools
import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import numpy as np
import torch
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from durabert.bert.kernels import OPTIONS, array_of, narrowed, widened

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
BLOCK: Final = 4096
"""Values that stay in the cache of a core between two loops over them; no thread gets a part of that, so that
the number of threads changes no bit."""
Gradients = Mapping[torch.nn.Parameter, torch.Tensor]
Part = Callable[[int, int], float | None]
"""Work that is shared among threads: the number of the thread, and how many there are."""


@register_jitable(inline="always")
def _moved(weight, change, first, second, decay, rate, spread):
    """Return a weight and its moments after a step.

    Source:
        Loshchilov and Hutter 2019, algorithm 2.
    """
    first = np.float32(BETAS[0]) * first + np.float32(1 - BETAS[0]) * change
    second = np.float32(BETAS[1]) * second + np.float32(1 - BETAS[1]) * change * change
    deviation = np.sqrt(second) * spread + np.float32(EPSILON)
    return weight * decay - rate * first / deviation, first, second


@njit(**OPTIONS)
def _move(weight, change, first, second, half, scale, decay, rate, spread):
    for start in range(0, len(weight), BLOCK):
        # Of a slice the compiler knows that no index is negative; without that it makes no vectors.
        w, c = weight[start : start + BLOCK], change[start : start + BLOCK]
        m, v = first[start : start + BLOCK], second[start : start + BLOCK]
        for i in range(len(w)):
            w[i], m[i], v[i] = _moved(w[i], widened(c[i]) * scale, m[i], v[i], decay, rate, spread)
        if half is not None:
            # Over what is in the cache: with five arrays in one loop it makes none, either.
            h = half[start : start + BLOCK]
            for i in range(len(w)):
                h[i] = narrowed(w[i], h[i])


@njit(**OPTIONS)
def _move_rows(
    begin, end, weight_VF, row_V, change_RF, first_VF, second_VF, moves_V, scale, decay, rate, spread
):  # fmt: skip
    zero = np.float32(0.0)
    for v in range(begin, end):
        row = row_V[v]
        if row >= 0:
            moves_V[v] = True
            for f in range(weight_VF.shape[1]):
                weight_VF[v, f], first_VF[v, f], second_VF[v, f] = _moved(
                    weight_VF[v, f], change_RF[row, f] * scale, first_VF[v, f], second_VF[v, f], decay, rate,
                    spread,
                )  # fmt: skip
        elif moves_V[v]:
            for f in range(weight_VF.shape[1]):
                weight_VF[v, f], first_VF[v, f], second_VF[v, f] = _moved(
                    weight_VF[v, f], zero, first_VF[v, f], second_VF[v, f], decay, rate, spread
                )
        else:
            for f in range(weight_VF.shape[1]):
                weight_VF[v, f] *= decay


@njit(**OPTIONS)
def _sum_of_squares(change):
    total = 0.0
    for start in range(0, len(change), BLOCK):
        c = change[start : start + BLOCK]
        part = np.float32(0.0)
        for i in range(len(c)):
            x = widened(c[i])
            part += x * x
        total += float(part)
    return total


class CpuAdamW:
    """AdamW with weight decay on matrices alone; its moments are where ``torch.optim`` has them."""

    def __init__(self, model: torch.nn.Module, *, weight_decay: float) -> None:
        self.param_groups = parameter_groups(model, weight_decay=weight_decay)
        for group in self.param_groups:
            group["lr"] = 0.0
        self.state: defaultdict[torch.Tensor, Any] = defaultdict(dict)
        self._moves: dict[torch.nn.Parameter, NDArray[np.bool_]] = {}

    def gradient_norm(self, gradients: Gradients) -> float:
        """Return the global L2 norm of the gradient."""
        return math.sqrt(sum(_shared([_squares(gradient) for gradient in gradients.values()])))

    def update(
        self,
        gradients: Gradients,
        halves: Gradients,
        *,
        norm: float,
        clip_norm: float | None,
    ) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger.

        Args:
            gradients: in float32 or bfloat16; sparse ones of embeddings in float32.
            halves: weights in half precision that are written, too.
            norm: of the gradient.
            clip_norm: none: no clipping.

        Source:
            Pascanu et al. 2013, section 3.2.
        """
        scale = 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm
        parts: list[Part] = []
        for group in self.param_groups:
            for parameter in group["params"]:
                if (gradient := gradients.get(parameter)) is not None:
                    numbers = (np.float32(scale), *self._numbers(parameter, group))
                    parts.append(self._move_of(parameter, gradient, halves.get(parameter), numbers))
        _shared(parts)

    def _numbers(self, parameter: torch.nn.Parameter, group: dict[str, Any]) -> tuple[np.float32, ...]:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        state["step"] += 1
        step = state["step"].item()
        corrections = [1 - beta**step for beta in BETAS]
        return (
            np.float32(1 - group["lr"] * group["weight_decay"]),
            np.float32(group["lr"] / corrections[0]),
            np.float32(1 / math.sqrt(corrections[1])),
        )

    def _move_of(
        self,
        parameter: torch.nn.Parameter,
        gradient: torch.Tensor,
        half: torch.Tensor | None,
        numbers: tuple[np.float32, ...],
    ) -> Part:
        state = self.state[parameter]
        if gradient.is_sparse:
            return self._move_of_rows(parameter, gradient, numbers)
        weight, change, first, second = (
            array_of(tensor.view(-1))
            for tensor in (parameter, gradient, state["exp_avg"], state["exp_avg_sq"])
        )
        written = None if half is None else array_of(half.view(-1))

        def move(number: int, of: int) -> None:
            part = _part(len(weight), number, of)
            _move(
                weight[part], change[part], first[part], second[part],
                None if written is None else written[part], *numbers,
            )  # fmt: skip

        return move

    def _move_of_rows(
        self, parameter: torch.nn.Parameter, gradient: torch.Tensor, numbers: tuple[np.float32, ...]
    ) -> Part:
        state = self.state[parameter]
        weight_VF, first_VF, second_VF = map(array_of, (parameter, state["exp_avg"], state["exp_avg_sq"]))
        if parameter not in self._moves:
            # Not by the second alone: the square of a small gradient may vanish.
            self._moves[parameter] = ((first_VF != 0) | (second_VF != 0)).any(axis=1)
        gradient = gradient.coalesce()
        change_RF = array_of(gradient.values())
        row_V = np.full(len(weight_VF), -1, np.int64)
        row_V[gradient.indices()[0].numpy()] = np.arange(len(change_RF))

        def move(number: int, of: int) -> None:
            begin, end = len(weight_VF) * number // of, len(weight_VF) * (number + 1) // of
            _move_rows(
                begin, end, weight_VF, row_V, change_RF, first_VF, second_VF, self._moves[parameter], *numbers
            )

        return move


def make_ready() -> None:
    """Call each kernel with values of the types that a step calls it with."""
    numbers = (np.float32(1), np.float32(1), np.float32(0), np.float32(1))
    weight, first, second = np.zeros((3, 2, 16), np.float32)
    for dtype, half in (
        (np.int16, np.zeros(16, np.int16)),
        (np.float32, np.zeros(16, np.int16)),
        (np.float32, None),
    ):
        change = np.zeros(16, dtype)
        _move(weight[0], change, first[0], second[0], half, *numbers)
        _sum_of_squares(change)
    row_V, moves_V = np.array([0, -1]), np.zeros(2, np.bool_)
    _move_rows(0, 2, weight, row_V, np.zeros((1, 16), np.float32), first, second, moves_V, *numbers)


def parameter_groups(model: torch.nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Return the parameters that learn, matrices with weight decay and vectors without.

    Source:
        Biases and norms, the parameters of one dimension, are exempt as in BERT's own training: Devlin et al.
        2019, appendix A.2.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]


def _squares(gradient: torch.Tensor) -> Part:
    values = gradient.coalesce().values() if gradient.is_sparse else gradient
    change = array_of(values.reshape(-1))

    def sum_of_squares(number: int, of: int) -> float:
        total: float = _sum_of_squares(change[_part(len(change), number, of)])
        return total

    return sum_of_squares


def _part(size: int, number: int, of: int) -> slice:
    begin, end = (size * part // of // BLOCK * BLOCK for part in (number, number + 1))
    return slice(begin, size if number + 1 == of else end)


def _shared(parts: Sequence[Part]) -> Iterator[float]:
    """Do all parts with as many threads as torch computes with, and return what they returned, in order."""
    of = torch.get_num_threads()

    def all_parts(number: int) -> list[float | None]:
        return [part(number, of) for part in parts]

    waiting = [_threads(of).submit(all_parts, number) for number in range(1, of)]
    done = [all_parts(0), *(one.result() for one in waiting)]
    return (value for results in done for value in results if value is not None)


@functools.cache
def _threads(count: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(count, "adamw")


# A child has none of the threads of the process that it was forked from.
os.register_at_fork(after_in_child=_threads.cache_clear)
