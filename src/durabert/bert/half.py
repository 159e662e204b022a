"""Weights in half precision for forward and backward pass, made anew from fp32 ones after each step.

Autocast converts each weight at each use and each activation between any two kernels; here the whole pass is
in one precision, and a step converts each weight once. Of the embedding of the vocabulary only the rows that
a batch looks up are converted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch


class _Place(NamedTuple):
    """Where a module has a parameter."""

    parameters: dict[str, torch.nn.Parameter | None]
    name: str
    master: torch.nn.Parameter
    half: torch.nn.Parameter


class HalfWeights:
    """The weights of a model in half precision beside its own.

    Args:
        model: in fp32.
        dtype: of half precision.
        joined: groups of the model's weights that shall lie one after the other.
    """

    def __init__(
        self, model: Any, dtype: torch.dtype, *, joined: Iterable[Sequence[torch.nn.Parameter]] = ()
    ) -> None:
        self._model = model
        self._dtype = dtype
        self._in_use = False
        embedding = model.get_input_embeddings()
        embedding.register_forward_hook(self._convert)
        self._masters: dict[str, torch.nn.Parameter] = {
            name: parameter
            for name, parameter in model.named_parameters()
            if parameter is not embedding.weight
        }
        halves: dict[torch.nn.Parameter, torch.Tensor] = {}
        for group in joined:
            together = torch.cat([master.detach().to(dtype) for master in group])
            halves.update(zip(group, together.split([len(master) for master in group]), strict=True))
        self._halves = {
            name: torch.nn.Parameter(
                halves[master] if master in halves else master.detach().to(dtype),
                requires_grad=master.requires_grad,
            )
            for name, master in self._masters.items()
        }
        leaves = self.leaves
        # Found once: torch's ``functional_call`` looks for all of them by name at each call.
        self._places = [
            _Place(module._parameters, name, master, leaves[master])  # noqa: SLF001 - as torch.func does
            for module in model.modules()
            for name, master in module._parameters.items()  # noqa: SLF001
            if master in leaves
        ]
        self._gradients: dict[str, torch.Tensor] = {}

    def refresh(self) -> None:
        """Take over the model's weights, which have changed."""
        with torch.no_grad():
            torch._foreach_copy_(list(self._halves.values()), list(self._masters.values()))

    def __call__(self, **inputs: Any) -> Any:
        """Call the model with these weights."""
        self._in_use = True
        for place in self._places:
            place.parameters[place.name] = place.half
        try:
            return self._model(**inputs)
        finally:
            for place in self._places:
                place.parameters[place.name] = place.master
            self._in_use = False

    def _convert(self, _: Any, __: Any, rows: torch.Tensor) -> torch.Tensor:
        return rows.to(self._dtype) if self._in_use else rows

    @property
    def halves(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """These weights, by the model's own."""
        return {master: self._halves[name].detach() for name, master in self._masters.items()}

    @property
    def leaves(self) -> dict[torch.nn.Parameter, torch.nn.Parameter]:
        """These weights as gradients are taken of them, by the model's own."""
        return {master: self._halves[name] for name, master in self._masters.items()}

    def gradients(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Return the gradients that were not taken yet, by the model's own weights, in half precision."""
        return {
            master: gradient
            for name, master in self._masters.items()
            if (gradient := self._halves[name].grad) is not None
        }

    def forget_gradients(self) -> None:
        """Forget those that were not taken."""
        for half in self._halves.values():
            half.grad = None

    def take_gradients(self) -> None:
        """Add the gradients of these weights, in fp32, to those of the model's own."""
        for name, master in self._masters.items():
            half = self._halves[name]
            if half.grad is None:
                continue
            if name not in self._gradients:
                self._gradients[name] = torch.empty_like(master)
            gradient = self._gradients[name]
            if master.grad is None:
                master.grad = gradient.copy_(half.grad)
            else:
                gradient.add_(half.grad)
            half.grad = None
