"""Base models from the Hugging Face hub, or from its cache on this machine."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from durabert.bert.weights import INDEX, WEIGHTS
from durabert.errors import ModelInvalid, ModelNotFound

ID_PATTERN: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_SECONDS_TO_ANSWER: Final = 5.0


def is_hub_id(name: str) -> bool:
    """Tell whether a name can be one of the hub's: ``name`` or ``owner/name``."""
    return bool(ID_PATTERN.fullmatch(name)) and len(name) <= 96 and ".." not in name and "--" not in name


def download(name: str) -> Path:
    """Return the directory of a hub model, downloaded if the cache does not hold it.

    Only weights that cannot execute code, configuration and vocabulary are fetched, never Python files.

    Raises:
        ModelInvalid: the hub has the model without safetensors weights.
        ModelNotFound: the hub does not have it, or cannot be asked and the cache does not hold it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils.tqdm import disable_progress_bars

    disable_progress_bars()
    try:
        # One question with a time limit first: a download retries for minutes where no hub answers.
        info = HfApi().model_info(name, timeout=_SECONDS_TO_ANSWER)
        _require_safetensors(name, [file.rfilename for file in info.siblings or ()])
        return _snapshot(name, cached=False)
    except ModelInvalid:
        raise
    except Exception as error:  # what it raises without a network depends on its HTTP library
        try:
            return _snapshot(name, cached=True)
        except (OSError, ValueError):
            raise ModelNotFound(not_found(name, _reason(error))) from error


def _snapshot(name: str, *, cached: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            name,
            local_files_only=cached,
            allow_patterns=["*.safetensors", "*.json", "*.txt", "*.model"],
            # What lies in folders is for other runtimes.
            ignore_patterns=["*/*"],
        )
    )


def not_found(name: str, reason: str) -> str:
    """Say in one sentence that a model is nowhere, and why."""
    return f"model {name!r} is neither a known name ('minilm') nor a directory, {reason}"


def _require_safetensors(name: str, files: Iterable[str]) -> None:
    if not {WEIGHTS, INDEX} & set(files):
        raise ModelInvalid(
            f"model {name!r} on the hub has no {WEIGHTS}; other weight formats can execute code when loaded"
        )


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

    match error:
        case GatedRepoError():
            return "and the hub gives it only to accounts that accepted its terms"
        case RepositoryNotFoundError():
            return "and the hub has no public model of that name"
        case OfflineModeIsEnabled():
            return "and the hub was not asked because HF_HUB_OFFLINE is set"
        case _:
            first = str(error).strip().split("\n", 1)[0][:200] or type(error).__name__
            return f"and the hub cannot be asked ({first})"
