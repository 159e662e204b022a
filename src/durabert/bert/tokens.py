"""Texts as token numbers, flat and without padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from durabert.bert.quiet import quiet_libraries
from durabert.errors import ModelInvalid

CHUNK = 2000
"""Texts between two looks at the clock: some 0.1 s of work."""

_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")


@dataclass(frozen=True)
class Tokens:
    """Examples one after the other."""

    ids: NDArray[np.int32]
    """Tokens of all examples."""
    offsets: NDArray[np.int64]
    """Where each example starts, and the end of the last one."""
    types: NDArray[np.int8] | None
    """0 for tokens of the first text and 1 for those of the second, where the model tells them apart."""
    num_truncated: int
    """Examples that were longer than the limit."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """Number of tokens of each example."""
        return np.diff(self.offsets)


def truncation_notice(what: str, *, num_truncated: int, num_texts: int, max_length: int) -> list[str]:
    """Return the sentence that says how many texts were truncated, if any were."""
    if not num_truncated:
        return []
    be, past = ("is", "was") if num_truncated == 1 else ("are", "were")
    return [
        f"{what}: {num_truncated:,} of {num_texts:,} texts {be} longer than max_length {max_length} tokens "
        f"and {past} truncated"
    ]


def load_tokenizer(path: Path) -> Any:
    """Load the tokenizer of a model directory.

    Raises:
        ModelInvalid: there is none, it is no fast one, or it cannot pad.
    """
    if not any(found for pattern in _VOCABULARIES for found in path.glob(pattern)):
        raise ModelInvalid(f"model {str(path)!r} has no tokenizer; expected {', '.join(_VOCABULARIES)}")
    from transformers import AutoTokenizer

    try:
        with quiet_libraries():
            tokenizer = AutoTokenizer.from_pretrained(
                str(path), use_fast=True, trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # tokenizers raises Exception itself on a broken file
        raise ModelInvalid(f"the tokenizer of model {str(path)!r} cannot be read: {_line(error)}") from error
    if not tokenizer.is_fast:
        raise ModelInvalid(f"model {str(path)!r} has no fast tokenizer; expected a tokenizer.json")
    if tokenizer.pad_token_id is None:
        raise ModelInvalid(f"the tokenizer of model {str(path)!r} has no padding token")
    return tokenizer


def tokenize(
    tokenizer: Any,
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    max_length: int,
    *,
    types: bool = False,
    on_chunk: Callable[[], None] = lambda: None,
) -> Tokens:
    """Turn texts, or pairs of texts, into tokens with the model's special tokens around them.

    Args:
        tokenizer: from ``load_tokenizer``.
        texts: the first or only text of each example.
        pairs: the second text of each example.
        max_length: longest example in tokens; the longer text of a pair is cut first.
        types: whether the model tells the two texts of a pair apart, if the tokenizer does.
        on_chunk: called after every 2,000 examples; may raise.
    """
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.enable_truncation(max_length, strategy="longest_first")
    keep_types = types and pairs is not None and "token_type_ids" in tokenizer.model_input_names
    ids: list[NDArray[np.int32]] = []
    kinds: list[NDArray[np.int8]] = []
    lengths: list[int] = []
    num_truncated = 0
    for start in range(0, len(texts), CHUNK):
        chunk = [_clean(text) for text in texts[start : start + CHUNK]]
        seconds = None if pairs is None else map(_clean, pairs[start : start + CHUNK])
        encodings = backend.encode_batch_fast(
            chunk if seconds is None else list(zip(chunk, seconds, strict=True))
        )
        lists = [encoding.ids for encoding in encodings]
        ids.append(np.fromiter((token for row in lists for token in row), np.int32))
        lengths += map(len, lists)
        if keep_types:
            kinds.append(np.fromiter((kind for row in encodings for kind in row.type_ids), np.int8))
        num_truncated += sum(1 for encoding in encodings if encoding.overflowing)
        on_chunk()
    return Tokens(
        ids=np.concatenate(ids) if ids else np.empty(0, np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        types=np.concatenate(kinds) if kinds else None,
        num_truncated=num_truncated,
    )


def _clean(text: str) -> str:
    # JSON can escape half of a surrogate pair, which is no text that a tokenizer takes.
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
