"""Tokens kept on disk between runs: the same texts and the same tokenizer are worked on once.

A cache is never needed and never believed: what is read is compared with its digest, what is damaged is made
anew, and a disk that is full means no cache, not a failed run.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from durabert.bert.tokens import Tokens
from durabert.faults import reach

FORMAT: Final = 1
"""Counted up when ``tokenize`` makes other tokens of the same texts, or the files change."""
META: Final = "meta.json"
KEPT: Final = timedelta(days=30)
"""Entries that nobody has used for so long are removed."""
ABANDONED: Final = timedelta(days=1)
"""What a process that was killed had begun to write is removed after this."""
MAX_BYTES: Final = 20 * 2**30
"""The entries that were used least recently are removed beyond it."""
ARRAYS: Final[dict[str, np.dtype[Any]]] = {
    "ids": np.dtype("<i4"),
    "offsets": np.dtype("<i8"),
    "types": np.dtype("i1"),
}


class _Damaged(Exception):
    """An entry is not what was written."""


@dataclass(frozen=True)
class _Entry:
    path: Path
    used: float
    """Seconds since the epoch."""
    size: int


def cached_tokens(
    cache: Path | None,
    *,
    key: Mapping[str, Any] | None,
    make: Callable[[], Tokens],
    on_notice: Callable[[str], None] = lambda _: None,
    max_bytes: int = MAX_BYTES,
) -> Tokens:
    """Return tokens from the cache, or make and cache them; the bits are the same either way.

    Args:
        cache: directory; none: nothing is cached.
        key: all that decides on the tokens, as ``tokens_key`` gives it; none: they are not cached.
        make: makes the tokens; may raise.
        on_notice: gets a sentence if an entry was damaged or could not be written.
        max_bytes: size of the whole cache.
    """
    if cache is None or key is None:
        return make()
    entry = cache / hashlib.sha256(_json({"format": FORMAT, **key})).hexdigest()
    try:
        if entry.is_dir():
            return _opened(entry)
    except _Damaged as error:
        on_notice(f"the tokens in the cache are made anew, as they {error}")
        _remove(entry)
    made = make()
    try:
        _write(entry, made)
    except OSError as error:
        on_notice(f"the tokens are not cached: {cache} cannot be written ({error.strerror})")
    _sweep(cache, max_bytes, but=entry)
    return made


def tokens_key(
    tokenizer: Any, *, data_sha256: str, split: str, max_length: int, types: bool
) -> dict[str, Any] | None:
    """Return all that decides on the tokens of a split, None if that cannot be told.

    Args:
        tokenizer: from ``load_tokenizer``.
        data_sha256: digest of ``TrainingData``, which covers the texts of all splits.
        split: name of the split.
        max_length: longest example in tokens.
        types: whether the model tells the two texts of a pair apart.
    """
    digest = tokenizer_sha256(tokenizer)
    if digest is None:
        return None
    return {
        "data": data_sha256,
        "split": split,
        "tokenizer": digest,
        "max_length": max_length,
        "types": types,
        "tokenizers": version("tokenizers"),
    }


def tokenizer_sha256(tokenizer: Any) -> str | None:
    """Return the digest of all that decides on the tokens of a text; None if it runs code of its own.

    How it cuts and pads is not in it: ``tokenize`` sets that each time.
    """
    try:
        parts = json.loads(tokenizer.backend_tokenizer.to_str())
    except Exception:  # tokenizers raises Exception itself for a part that is written in Python
        return None
    for setting in ("truncation", "padding"):
        parts.pop(setting, None)
    told = {"backend": parts, "inputs": list(tokenizer.model_input_names)}
    return hashlib.sha256(_json(told)).hexdigest()


def _opened(entry: Path) -> Tokens:
    meta = _meta(entry)
    arrays = {name: _array(entry / f"{name}.npy", ARRAYS[name], sha256) for name, sha256 in meta["files"]}
    tokens = Tokens(
        ids=arrays["ids"],
        offsets=arrays["offsets"],
        types=arrays.get("types"),
        num_truncated=meta["num_truncated"],
    )
    with contextlib.suppress(OSError):
        # The time of the last use, for the sweep.
        os.utime(entry / META)
    return tokens


def _meta(entry: Path) -> dict[str, Any]:
    try:
        meta = json.loads((entry / META).read_bytes())
        files = [(str(name), str(sha256)) for name, sha256 in meta["files"].items()]
        num_truncated = int(meta["num_truncated"])
        sha256 = meta.pop("sha256")
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError):
        raise _Damaged("have no readable meta.json") from None
    if hashlib.sha256(_json(meta)).hexdigest() != sha256:
        raise _Damaged("have another digest in meta.json")
    names = {name for name, _ in files}
    if not {"ids", "offsets"} <= names <= ARRAYS.keys():
        raise _Damaged(f"have the files {sorted(names)!r:.80}")
    return {"files": files, "num_truncated": num_truncated}


def _array(file: Path, dtype: np.dtype[Any], sha256: str) -> NDArray[Any]:
    try:
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != sha256:
            raise _Damaged(f"have another digest in {file.name}")
        array: NDArray[Any] = np.load(file, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise _Damaged(f"have no readable {file.name}") from None
    except (ValueError, EOFError):
        raise _Damaged(f"have no array in {file.name}") from None
    if array.dtype != dtype or array.ndim != 1:
        raise _Damaged(f"have another kind of array in {file.name}")
    return array


def _write(entry: Path, tokens: Tokens) -> None:
    partial = entry.with_name(f".{entry.name}.{secrets.token_hex(6)}")
    try:
        partial.mkdir(parents=True)
        files = {}
        for name, dtype in ARRAYS.items():
            array = getattr(tokens, name)
            if array is not None:
                file = partial / f"{name}.npy"
                reach("token_cache.write")
                np.save(file, array.astype(dtype, copy=False), allow_pickle=False)
                with file.open("rb") as written:
                    files[name] = hashlib.file_digest(written, "sha256").hexdigest()
        meta = {"files": files, "num_truncated": tokens.num_truncated}
        (partial / META).write_bytes(_json({**meta, "sha256": hashlib.sha256(_json(meta)).hexdigest()}))
        # Not flushed to the disk first: what a power cut leaves does not have the digest.
        with contextlib.suppress(FileExistsError):
            _take_place(partial, entry)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _take_place(partial: Path, entry: Path) -> None:
    try:
        partial.rename(entry)
    except OSError:
        # Another process that made the same tokens was faster.
        if not entry.is_dir():
            raise


def _sweep(cache: Path, max_bytes: int, *, but: Path) -> None:
    now = time.time()
    left = 0
    for entry in sorted(_entries(cache), key=lambda entry: entry.used, reverse=True):
        begun = entry.path.name.startswith(".")
        kept = ABANDONED if begun else KEPT
        if entry.path != but and (now - entry.used > kept.total_seconds() or left + entry.size > max_bytes):
            # One that is being written stays: the bytes that it gets are not known yet.
            if not begun or now - entry.used > kept.total_seconds():
                _remove(entry.path)
            continue
        left += entry.size


def _entries(cache: Path) -> Iterator[_Entry]:
    with contextlib.suppress(OSError):
        for path in cache.iterdir():
            # Another process may sweep, too.
            with contextlib.suppress(OSError):
                marker = path / META if (path / META).exists() else path
                size = sum(file.stat().st_size for file in path.iterdir())
                yield _Entry(path, marker.stat().st_mtime, size)


def _remove(path: Path) -> None:
    # Out of the way first, so that nobody finds half of it.
    aside = path.with_name(f".{path.name.lstrip('.')}.{secrets.token_hex(6)}")
    with contextlib.suppress(OSError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
