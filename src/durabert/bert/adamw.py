"""AdamW on a CPU, where it is the memory that it waits for: each step reads and writes each value once.

The gradient is read in the precision that it has, clipped on the way, and the weights in half precision are
written while those in float32 are at hand. Of an embedding only the rows that ever had a gradient move; the
others have moments of 0 and decay. Each thread makes its share of a step in one call: a call for each of a
hundred parameters took as long as the work.

Shape letters: V tokens of a vocabulary, F values of each, R of them in a batch, P parameters, B blocks.
"""

# ruff: noqa: ANN001, ANN002, ANN202 - numba compiles by the types that it is called with

from __future__ import annotations

import functools
import math
import mmap
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numba import njit
from numba.extending import register_jitable
from numpy.typing import NDArray

from durabert.bert.kernels import OPTIONS, array_of, narrowed, values_at, widened
from durabert.bert.threads import on_team, share, team

BETAS: Final = (0.9, 0.999)
EPSILON: Final = 1e-8
BLOCK: Final = 4096
"""Values that stay in the cache of a core between two loops over them; no thread gets a part of that, so that
the number of threads changes no bit."""
Gradients = Mapping[torch.nn.Parameter, torch.Tensor]
"""By the parameter."""
Numbers = tuple[np.float32, ...]
"""Of a step: what gradients are scaled by, and decay, rate and spread as ``_moved`` takes them."""
LIKE: Final[dict[torch.dtype, NDArray[Any]]] = {
    torch.bfloat16: np.zeros(1, np.int16),
    torch.float32: np.zeros(1, np.float32),
}
"""By the type of a tensor what kernels know the type of its values by."""


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
def _move(weight, change, first, second, half, is_new, scale, decay, rate, spread):
    for start in range(0, len(weight), BLOCK):
        # Of a slice the compiler knows that no index is negative; without that it makes no vectors.
        w, c = weight[start : start + BLOCK], change[start : start + BLOCK]
        m, v = first[start : start + BLOCK], second[start : start + BLOCK]
        if is_new:
            for i in range(len(w)):
                m[i] = v[i] = np.float32(0.0)
        for i in range(len(w)):
            w[i], m[i], v[i] = _moved(w[i], widened(c[i]) * scale, m[i], v[i], decay, rate, spread)
        if half is not None:
            # Over what is in the cache: with five arrays in one loop it makes none, either.
            h = half[start : start + BLOCK]
            for i in range(len(w)):
                h[i] = narrowed(w[i], h[i])


@njit(**OPTIONS)
def _move_rows(
    number, of, weight_VF, row_V, change_RF, first_VF, second_VF, moves_V, scale, decay, rate, spread
):  # fmt: skip
    zero = np.float32(0.0)
    begin, end = share(len(weight_VF), number, of)
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
        elif decay != 1:
            for f in range(weight_VF.shape[1]):
                weight_VF[v, f] *= decay


@register_jitable
def _part(size, number, of):
    """Return where the share of a thread begins and ends: whole blocks, but for the end of all."""
    begin, end = size * number // of // BLOCK * BLOCK, size * (number + 1) // of // BLOCK * BLOCK
    return begin, size if number + 1 == of else end


@njit(**OPTIONS)
def _move_all(number, of, size_P, address_P5, is_new_P, numbers_P4, change_like, half_like):
    like = np.empty(0, np.float32)
    for p in range(len(size_P)):
        size = size_P[p]
        begin, end = _part(size, number, of)
        scale, decay, rate, spread = numbers_P4[p]
        weight = values_at(address_P5[p, 0], size, like)[begin:end]
        change = values_at(address_P5[p, 1], size, change_like)[begin:end]
        first = values_at(address_P5[p, 2], size, like)[begin:end]
        second = values_at(address_P5[p, 3], size, like)[begin:end]
        if half_like is None:
            _move(weight, change, first, second, None, is_new_P[p], scale, decay, rate, spread)
        else:
            half = values_at(address_P5[p, 4], size, half_like)[begin:end]
            _move(weight, change, first, second, half, is_new_P[p], scale, decay, rate, spread)


@njit(**OPTIONS)
def _square_all(number, of, size_P, address_P, block_P, change_like, sum_B):
    """Write the sum of squares of each block; those of a parameter begin at ``block_P``."""
    for p in range(len(size_P)):
        begin, end = _part(size_P[p], number, of)
        change = values_at(address_P[p], size_P[p], change_like)
        for start in range(begin, end, BLOCK):
            c = change[start : min(start + BLOCK, end)]
            part = np.float32(0.0)
            for i in range(len(c)):
                x = widened(c[i])
                part += x * x
            sum_B[block_P[p] + start // BLOCK] = part


@njit(**OPTIONS)
def _on_team_move_rows(team, *arguments):
    on_team(_move_rows, team, arguments)


@njit(**OPTIONS)
def _on_team_move_all(team, *arguments):
    on_team(_move_all, team, arguments)


@njit(**OPTIONS)
def _on_team_square_all(team, *arguments):
    on_team(_square_all, team, arguments)


class CpuAdamW:
    """AdamW with weight decay on matrices alone; its moments are where ``torch.optim`` has them.

    Args:
        model: on the CPU, in float32.
        weight_decay: of matrices.
        halves: weights in half precision that are written, too.
    """

    def __init__(
        self, model: torch.nn.Module, *, weight_decay: float, halves: Gradients | None = None
    ) -> None:
        self._halves = halves or {}
        self.param_groups = parameter_groups(model, weight_decay=weight_decay)
        for group in self.param_groups:
            group["lr"] = 0.0
        self.state: defaultdict[torch.Tensor, Any] = defaultdict(dict)
        self._moves: dict[torch.nn.Parameter, NDArray[np.bool_]] = {}

    def gradient_norm(self, gradients: Gradients) -> float:
        """Return the global L2 norm of the gradient."""
        values = [
            one.coalesce().values() if one.is_sparse else one.contiguous() for one in gradients.values()
        ]
        sizes = np.array([one.numel() for one in values], np.int64)
        addresses = np.array([one.data_ptr() for one in values], np.int64)
        blocks = np.cumsum([0, *(-(-sizes // BLOCK))])
        sum_B = np.empty(blocks[-1])
        for dtype in {one.dtype for one in values}:
            of_it = [number for number, one in enumerate(values) if one.dtype == dtype]
            _on_team_square_all(team(), sizes[of_it], addresses[of_it], blocks[of_it], LIKE[dtype], sum_B)
        # Exact, hence the same in any order.
        return math.sqrt(math.fsum(sum_B.tolist()))

    def update(self, gradients: Gradients, *, norm: float, clip_norm: float | None) -> None:
        """Make a step with the gradient, scaled down to ``clip_norm`` if its ``norm`` is larger.

        Args:
            gradients: in float32 or bfloat16; sparse ones of embeddings in float32.
            norm: of the gradient.
            clip_norm: none: no clipping.
        """
        scale = clipping(norm, clip_norm)
        kinds: defaultdict[tuple[torch.dtype, torch.dtype | None], list[_Move]] = defaultdict(list)
        moving = [
            [parameter for parameter in group["params"] if parameter in gradients]
            for group in self.param_groups
        ]
        steps = self._next_steps(
            {parameter: gradients[parameter].is_sparse for parameters in moving for parameter in parameters}
        )
        for group, parameters in zip(self.param_groups, moving, strict=True):
            numbers = functools.cache(functools.partial(_numbers, group, scale))
            for parameter in parameters:
                gradient, step = gradients[parameter], steps[parameter]
                if gradient.is_sparse:
                    self._move_rows(parameter, gradient, numbers(step))
                    continue
                half, state = self._halves.get(parameter), self.state[parameter]
                move = _Move(
                    (parameter, gradient.contiguous(), state["exp_avg"], state["exp_avg_sq"], half),
                    step == 1,
                    numbers(step),
                )
                kinds[gradient.dtype, None if half is None else half.dtype].append(move)
        for (change, like), moves in kinds.items():
            _move_together(moves, LIKE[change], None if like is None else LIKE[like])

    def _next_steps(self, parameters: Mapping[torch.nn.Parameter, bool]) -> dict[torch.nn.Parameter, int]:
        """Count a step of each parameter, and return its number.

        Args:
            parameters: whether the gradient is sparse; moments of others hold nothing before the first step.
        """
        for parameter, is_sparse in parameters.items():
            state = self.state[parameter]
            if not state:
                new = _zeros_like if is_sparse else torch.empty_like
                state["step"] = torch.zeros(())
                state["exp_avg"], state["exp_avg_sq"] = new(parameter), new(parameter)
        # Through numpy: torch takes as long for all of them as for a product.
        counts = [self.state[parameter]["step"].numpy() for parameter in parameters]
        for count in counts:
            np.add(count, 1, out=count)
        return dict(zip(parameters, map(int, counts), strict=True))

    def _move_rows(self, parameter: torch.nn.Parameter, gradient: torch.Tensor, numbers: Numbers) -> None:
        state = self.state[parameter]
        weight_VF, first_VF, second_VF = map(array_of, (parameter, state["exp_avg"], state["exp_avg_sq"]))
        if parameter not in self._moves:
            self._moves[parameter] = _moving_rows(first_VF, second_VF, step=int(state["step"]))
        gradient = gradient.coalesce()
        change_RF = array_of(gradient.values())
        row_V = np.full(len(weight_VF), -1, np.int64)
        row_V[gradient.indices()[0].numpy()] = np.arange(len(change_RF))
        _on_team_move_rows(
            team(), weight_VF, row_V, change_RF, first_VF, second_VF, self._moves[parameter], *numbers
        )


def _moving_rows(
    first_VF: NDArray[np.float32], second_VF: NDArray[np.float32], *, step: int
) -> NDArray[np.bool_]:
    """Return which rows have ever had a gradient, before so many steps are made."""
    if step == 1:
        # To look would have the kernel of Linux find memory for all of them.
        return np.zeros(len(first_VF), np.bool_)
    # Not by the second alone: the square of a small gradient may vanish.
    return ((first_VF != 0) | (second_VF != 0)).any(axis=1)


def _zeros_like(parameter: torch.nn.Parameter) -> torch.Tensor:
    """Return zeros for which the operating system finds memory when they are first used, page by page.

    torch's take memory at once, and numpy has Linux find it in pieces of 2 MiB.
    """
    memory = mmap.mmap(-1, parameter.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=parameter.dtype).view_as(parameter)


@dataclass(frozen=True)
class _Move:
    """A dense parameter in a step."""

    tensors: tuple[torch.Tensor | None, ...]
    """Weight, gradient, first and second moment, and the weight in half precision if there is one."""
    is_new: bool
    """Whether it is the first: the moments hold nothing, and their memory is touched by all threads then."""
    numbers: Numbers

    @property
    def size(self) -> int:
        assert self.tensors[0] is not None
        return self.tensors[0].numel()

    @property
    def addresses(self) -> list[int]:
        return [0 if tensor is None else tensor.data_ptr() for tensor in self.tensors]


def _numbers(group: dict[str, Any], scale: float, step: int) -> Numbers:
    corrections = [1 - beta**step for beta in BETAS]
    return (
        np.float32(scale),
        np.float32(1 - group["lr"] * group["weight_decay"]),
        np.float32(group["lr"] / corrections[0]),
        np.float32(1 / math.sqrt(corrections[1])),
    )


def _move_together(moves: Sequence[_Move], change_like: NDArray[Any], half_like: NDArray[Any] | None) -> None:
    sizes = np.array([one.size for one in moves])
    addresses = np.array([one.addresses for one in moves])
    are_new = np.array([one.is_new for one in moves])
    numbers = np.array([one.numbers for one in moves])
    _on_team_move_all(team(), sizes, addresses, are_new, numbers, change_like, half_like)


def make_ready() -> None:
    """Call each kernel with values of the types that a step calls it with."""
    weight = torch.zeros(2, 16)
    for dtype, half in ((torch.bfloat16, True), (torch.float32, True), (torch.float32, False)):
        model = torch.nn.Linear(16, 2, bias=False)
        halves: Gradients = {_parameter(model): weight.bfloat16()} if half else {}
        optimizer = CpuAdamW(model, weight_decay=0.0, halves=halves)
        gradients: Gradients = {_parameter(model): weight.to(dtype)}
        optimizer.gradient_norm(gradients)
        optimizer.update(gradients, norm=1.0, clip_norm=None)
    rows = torch.nn.Embedding(2, 16)
    place = torch.zeros((1, 1), dtype=torch.int64)
    gradient = torch.sparse_coo_tensor(place, weight[:1], (2, 16), check_invariants=False)
    CpuAdamW(rows, weight_decay=0.0).update({_parameter(rows): gradient}, norm=1.0, clip_norm=None)


def _parameter(layer: torch.nn.Module) -> torch.nn.Parameter:
    return next(layer.parameters())


def clipping(norm: float, clip_norm: float | None) -> float:
    """Return what a gradient is scaled by: down to ``clip_norm`` if its ``norm`` is larger.

    Source:
        Pascanu et al. 2013, section 3.2.
    """
    return 1.0 if clip_norm is None or norm <= clip_norm else clip_norm / norm


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
