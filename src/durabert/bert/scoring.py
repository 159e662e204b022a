"""The forward pass over many examples, for validation and prediction.

Shape letters: N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from durabert.bert.batches import Batch, Indices, Layout, by_length
from durabert.bert.device import Compute
from durabert.bert.tokens import Tokens
from durabert.specs import EngineName


class Engine(Protocol):
    """What computes the logits of a batch: torch, or another library with an exported model."""

    @property
    def name(self) -> EngineName:
        """How a user asks for it."""

    @property
    def compute(self) -> Compute:
        """The device, and the precision that its errors are told with."""

    @property
    def precision(self) -> str:
        """What the products are computed in."""

    @property
    def num_labels(self) -> int:
        """C."""

    @property
    def token_budget(self) -> int:
        """Tokens in a batch: enough to keep the device busy, little enough for its memory."""

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of the examples of a batch, (B, C), without dropout and gradients."""


@dataclass(frozen=True)
class Scorer:
    """A model that is ready to score."""

    engine: Engine
    layout: Layout

    def batches(self, tokens: Tokens) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
        """Yield example numbers and their fp32 logits, (B, C), longest examples first."""
        for indices in by_length(tokens.lengths, token_budget=self.engine.token_budget):
            yield indices, self.engine.score(self.layout.batch(tokens, indices))

    def logits(self, tokens: Tokens, *, on_batch: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
        """Return the logits of all examples in their order, (N, C); ``on_batch`` may raise."""
        logits_NC = np.empty((len(tokens), self.engine.num_labels), np.float32)
        for indices, logits_BC in self.batches(tokens):
            logits_NC[indices] = logits_BC
            on_batch()
        return logits_NC
