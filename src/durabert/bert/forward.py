"""The forward pass of a model, in the precision that was chosen and with chance a function of its place."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert import fused
from durabert.bert.batches import Batch
from durabert.bert.determinism import Draw, seed_torch
from durabert.bert.device import Compute, Dtypes
from durabert.bert.dropout import Chance, Masks, replace_dropout
from durabert.bert.half import HalfWeights
from durabert.specs import EngineName

TOKEN_BUDGET: Final = {"cpu": 4096, "mps": 16384, "cuda": 8192}
"""Tokens in a batch that is scored, by the kind of the device."""


@dataclass(frozen=True)
class Forward:
    """A model with fp32 weights, and what it is computed with."""

    model: Any
    compute: Compute
    masks: Masks | Chance | None
    """Where dropout comes from on a CPU, and within layers on a GPU in bf16; elsewhere from torch."""
    half: HalfWeights | None
    """On a CPU in half precision, and on a GPU in bf16; elsewhere autocast converts."""

    @classmethod
    def of(cls, model: Any, compute: Compute) -> Forward:
        """Return the forward pass of a model on its device; its dropout layers may be others after that."""
        if compute.is_bf16_on_gpu:
            fused.install(model)
            return cls(model, compute, Chance(compute.device), _halved(model, torch.bfloat16))
        if compute.device.type != "cpu":
            return cls(model, compute, None, None)
        masks = Masks()
        replace_dropout(model, masks)
        fused.install(model)
        half = None if compute.precision == "fp32" else _halved(model, Dtypes[compute.precision])
        return cls(model, compute, masks, half)

    def begin(self, seed: int, step: int, micro_batch: int) -> None:
        """Set all sources of chance for a micro-batch of a step."""
        seed_torch(seed, Draw.DROPOUT, step, micro_batch)
        if self.masks is not None:
            self.masks.begin(seed, step, micro_batch)

    def logits(self, batch: Batch) -> torch.Tensor:
        """Return the logits of the examples of a batch, (B, C) in fp32."""
        inputs = {**batch.inputs, "masks": self.masks} if "packing" in batch.inputs else batch.inputs
        if self.half is not None:
            logits: torch.Tensor = self.half(**inputs).logits
            return logits.float()
        with self.compute.autocast():
            logits = self.model(**inputs).logits
        return logits.float()

    @cached_property
    def parameters(self) -> tuple[torch.nn.Parameter, ...]:
        """The model's own weights; to look for them takes as long as a small product."""
        return tuple(self.model.parameters())

    def forget_gradients(self) -> None:
        """Forget the gradients of the step before."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.half is not None:
            self.half.forget_gradients()

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of the examples of a batch, (B, C), without dropout and gradients."""
        self.model.eval()
        with torch.inference_mode():
            return self.logits(batch).cpu().numpy()

    @property
    def name(self) -> EngineName:
        """How a user asks for it."""
        return "torch"

    @property
    def precision(self) -> str:
        """What the products are computed in."""
        return self.compute.precision

    @property
    def num_labels(self) -> int:
        """Number of logits of an example."""
        return int(self.model.config.num_labels)

    @property
    def token_budget(self) -> int:
        """Tokens in a batch that is scored."""
        return TOKEN_BUDGET[self.compute.device.type]

    def leaves(self) -> list[torch.nn.Parameter]:
        """Return what gradients are taken of: weights in half precision, and others of the model's own."""
        halves = {} if self.half is None else self.half.leaves
        learning = (parameter for parameter in self.parameters if parameter.requires_grad)
        return [halves.get(parameter, parameter) for parameter in learning]

    def gradients_taken(self) -> None:
        """See to it that the gradients of a backward pass are with the model's own weights, in fp32."""
        if self.half is not None:
            self.half.take_gradients()

    def gradients(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Return the gradients of the model's own weights, in fp32 or as the backward pass has left them."""
        taken = {parameter: parameter.grad for parameter in self.parameters if parameter.grad is not None}
        return taken if self.half is None else taken | self.half.gradients()

    def halves(self) -> dict[torch.nn.Parameter, torch.Tensor]:
        """Return the weights in half precision, by the model's own; none where autocast makes them."""
        return {} if self.half is None else self.half.halves

    def weights_changed(self) -> None:
        """Take over the model's weights, which have changed."""
        if self.half is not None:
            self.half.refresh()


def _halved(model: Any, dtype: torch.dtype) -> HalfWeights:
    return HalfWeights(model, dtype, joined=fused.projections(model))
