"""The forward pass over many examples, for validation and prediction.

Shape letters: N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.batches import Indices, Layout, by_length
from durabert.bert.forward import Forward
from durabert.bert.tokens import Tokens

TOKEN_BUDGET: Final = {"cpu": 4096, "mps": 16384, "cuda": 65536}
"""Padded tokens in a batch: enough to keep the device busy, little enough for its memory."""


@dataclass(frozen=True)
class Scorer:
    """A model that is ready to score."""

    forward: Forward
    layout: Layout

    def batches(self, tokens: Tokens) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
        """Yield example numbers and their fp32 logits, (B, C), longest examples first."""
        self.forward.model.eval()
        for indices in by_length(tokens.lengths, token_budget=TOKEN_BUDGET[self.forward.compute.device.type]):
            batch = self.layout.batch(tokens, indices)
            # Opened for each batch: a generator must not leave the mode on while it waits.
            with torch.inference_mode():
                logits_BC = self.forward.logits(batch)
            yield indices, logits_BC.cpu().numpy()

    def logits(self, tokens: Tokens, *, on_batch: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
        """Return the logits of all examples in their order, (N, C); ``on_batch`` may raise."""
        logits_NC = np.empty((len(tokens), self.forward.model.config.num_labels), np.float32)
        for indices, logits_BC in self.batches(tokens):
            logits_NC[indices] = logits_BC
            on_batch()
        return logits_NC
