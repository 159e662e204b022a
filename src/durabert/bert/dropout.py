"""Dropout on a CPU, from a counter-based generator: cheaper than torch's and a pure function of its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch

from durabert.bert.determinism import Draw, stream
from durabert.bert.kernels import array_of, draw
from durabert.bert.threads import team
from durabert.bert.vectors import LANES

LEVELS_ON_GPU: Final = 1 << 32
"""A draw has 32 bits there."""
LEVELS: Final = 1 << 16
"""A draw has 16 bits: probabilities are multiples of 1/65,536, and the scale is that of the rounded one."""


@dataclass(frozen=True)
class Site:
    """A place in a model where dropout strikes, in one forward pass: for kernels that draw for themselves."""

    key: tuple[np.uint32, np.uint32]
    """With the place of a value it decides whether the value is kept."""
    dropped: np.uint32
    """Out of ``LEVELS``."""
    scale: np.float32
    """Of what is kept."""


class Masks:
    """The masks of a forward pass; the n-th is a pure function of seed, step, micro-batch and n.

    Source:
        Philox: Salmon et al. 2011. Dropout: Srivastava et al. 2014, scaled while training.
    """

    def __init__(self) -> None:
        self.begin(0, 0, 0)

    def begin(self, seed: int, step: int, micro_batch: int) -> None:
        """Start the masks of a micro-batch of a step."""
        self._source = np.random.Philox(stream(seed, Draw.MASK, step, micro_batch))

    def draw(self, shape: torch.Size, p: float, dtype: torch.dtype) -> torch.Tensor:
        """Return a tensor that is 0 with probability ``p`` and 1 / (1 - ``p``) otherwise.

        Args:
            shape: of the tensor.
            p: a multiple of 1 / ``LEVELS``, else it is rounded to one.
            dtype: float32 or bfloat16.
        """
        site, count = self.site(p), shape.numel()
        mask = torch.empty(-(-count // LANES) * LANES, dtype=dtype)
        draw(team(), *site.key, site.dropped, site.scale, array_of(mask))
        return mask[:count].view(shape)

    def site(self, p: float) -> Site:
        """Return the next place; it takes one draw of 64 bits."""
        bits = int(self._source.random_raw())
        dropped = round(p * LEVELS)
        scale = LEVELS / (LEVELS - dropped) if dropped < LEVELS else 0.0
        return Site(
            (np.uint32(bits & 0xFFFFFFFF), np.uint32(bits >> 32)), np.uint32(dropped), np.float32(scale)
        )


class Chance:
    """Where kernels on a GPU take dropout from: with the number and the place of a value it decides.

    The key is in the memory of the GPU, where a captured kernel finds that of each micro-batch.
    """

    def __init__(self, device: torch.device) -> None:
        self.key = torch.zeros((), dtype=torch.int64, device=device)

    def begin(self, seed: int, step: int, micro_batch: int) -> None:
        """Set the key of a micro-batch of a step."""
        [key] = stream(seed, Draw.MASK, step, micro_batch).generate_state(1, np.uint64)
        self.key.fill_(int(key >> 1))


class MaskedDropout(torch.nn.Dropout):
    """``torch.nn.Dropout`` with masks from ``Masks``."""

    def __init__(self, p: float, masks: Masks) -> None:
        super().__init__(p)
        self._masks = masks

    def forward(self, input: torch.Tensor) -> torch.Tensor:  # noqa: A002 - the name that torch gives it
        """Return the input with some values 0 and the others scaled, while training."""
        if not self.training or self.p == 0:
            return input
        return input * self._masks.draw(input.shape, self.p, input.dtype)


def replace_dropout(model: Any, masks: Masks) -> None:
    """Let every dropout layer of a model take its masks from ``masks``."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is torch.nn.Dropout:
                setattr(module, name, MaskedDropout(child.p, masks))
