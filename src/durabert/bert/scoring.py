"""The forward pass over many examples, for validation and prediction.

Shape letters: N examples, B of them in a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.batches import Indices, by_length, collate
from durabert.bert.device import Compute
from durabert.bert.tokens import Tokens

TOKEN_BUDGET: Final = {"cpu": 4096, "mps": 16384, "cuda": 65536}
"""Padded tokens in a batch: enough to keep the device busy, little enough for its memory."""


@dataclass(frozen=True)
class Scorer:
    """A model that is ready to score."""

    model: Any
    compute: Compute
    pad_id: int
    max_length: int

    def batches(self, tokens: Tokens) -> Iterator[tuple[Indices, NDArray[np.float32]]]:
        """Yield example numbers and their fp32 logits, (B, C), longest examples first."""
        self.model.eval()
        device = self.compute.device
        for indices in by_length(tokens.lengths, token_budget=TOKEN_BUDGET[device.type]):
            batch = collate(tokens, indices, pad_id=self.pad_id, max_length=self.max_length, device=device)
            # Opened for each batch: a generator must not leave the mode on while it waits.
            with torch.inference_mode(), self.compute.autocast():
                logits_BC = self.model(**batch.inputs).logits
            yield indices, logits_BC.float().cpu().numpy()

    def logits(self, tokens: Tokens, *, on_batch: Callable[[], None] = lambda: None) -> NDArray[np.float32]:
        """Return the logits of all examples in their order, (N, C); ``on_batch`` may raise."""
        logits_NC = np.empty((len(tokens), self.model.config.num_labels), np.float32)
        for indices, logits_BC in self.batches(tokens):
            logits_NC[indices] = logits_BC
            on_batch()
        return logits_NC
