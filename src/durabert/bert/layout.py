"""Packed where the model gives the same logits that way, padded where it does not."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import torch

from durabert.bert import packed_attention
from durabert.bert.batches import Layout, PaddedLayout
from durabert.bert.device import Compute
from durabert.bert.packing import PackedLayout
from durabert.bert.tokens import Tokens

LENGTHS: Final = (5, 9, 9, 3)
"""Of the sequences on which packing is tried."""
TOLERANCE: Final = 1e-3


def choose_layout(
    model: Any, padded: PaddedLayout, compute: Compute, *, first_position: int
) -> tuple[Layout, list[str]]:
    """Return how batches of a model are laid out, and a sentence if they are padded.

    Args:
        model: in fp32; without padding it attends by ``durabert.bert.packed_attention`` from now on.
        padded: what to fall back on.
        compute: what the model is computed with.
        first_position: number of the first position of a sequence, 0 for most models.
    """
    # Flash attention needs half precision, and fp16 its gradients scaled, which is not captured.
    if compute.device.type != "cpu" and not compute.is_bf16_on_gpu:
        return padded, []
    tried = PackedLayout(model.config.num_attention_heads, first_position, compute.device)
    tokens = _probe(model, padded.max_length)
    expected = _logits(model, padded, tokens)
    try:
        undo = packed_attention.install(model)
    except (ValueError, AttributeError, NotImplementedError) as error:
        return padded, [_notice(model, f"{error}")]
    try:
        found = _logits(model, tried, tokens)
    except Exception as error:  # whatever a model raises that is called in a way it was not made for
        undo()
        if compute.is_out_of_memory(error):
            # The next attempt must come to the same decision.
            raise
        return padded, [_notice(model, f"{type(error).__name__}: {error}")]
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
        undo()
        return padded, [_notice(model, "it gives other logits without padding")]
    return tried, []


def _probe(model: Any, max_length: int) -> Tokens:
    vocabulary = model.get_input_embeddings().num_embeddings
    known = np.array([number for number in range(vocabulary) if number != model.config.pad_token_id][-64:])
    lengths = [min(length, max_length) for length in LENGTHS]
    ids = known[np.arange(sum(lengths)) * 7 % len(known)]
    return Tokens(ids.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)]), None, 0)


def _logits(model: Any, layout: Layout, tokens: Tokens) -> torch.Tensor:
    model.eval()
    with torch.inference_mode():
        logits: torch.Tensor = model(**layout.batch(tokens, np.arange(len(tokens))).inputs).logits
    return logits.float()


def _notice(model: Any, reason: str) -> str:
    reason = reason.strip().split("\n", 1)[0][:200]
    return f"batches are padded, as a model of type {model.config.model_type!r} cannot do without: {reason}"
