"""Weight files: are they safe and whole, and what is their digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from safetensors import SafetensorError, safe_open

from durabert.errors import ModelInvalid

WEIGHTS: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def check_weights(directory: Path) -> list[Path]:
    """Return the weight files of a model directory after reading their headers.

    Raises:
        ModelInvalid: there are none, only pickles, or one is missing, cut off or damaged.
    """
    files = _weight_files(directory)
    if not files:
        raise ModelInvalid(_no_weights(directory))
    for file in files:
        if not file.is_file():
            raise ModelInvalid(f"model {str(directory)!r} lacks {file.name!r}, which its {INDEX} names")
        try:
            with safe_open(str(file), framework="pt") as tensors:
                tensors.keys()
        except (SafetensorError, OSError) as error:
            raise ModelInvalid(f"weights {str(file)!r} are cut off or damaged: {error}") from error
    return files


def weights_sha256(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the digest of weights: name, type, shape and little-endian bytes of each tensor, by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        digest.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        # numpy has no bfloat16: look at the bytes through a one-byte type.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stored_sha256(directory: Path) -> str:
    """Return the digest of the weights in a model directory, read back from the disk.

    Raises:
        ModelInvalid: the weights are missing or damaged.
    """
    tensors: dict[str, torch.Tensor] = {}
    for file in check_weights(directory):
        with safe_open(str(file), framework="pt") as opened:
            # Not iterable: safe_open has keys() alone.
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return weights_sha256(tensors)


def _weight_files(directory: Path) -> list[Path]:
    index = directory / INDEX
    if (directory / WEIGHTS).is_file() or not index.is_file():
        return [directory / WEIGHTS] if (directory / WEIGHTS).is_file() else []
    try:
        shards = {str(name) for name in json.loads(index.read_bytes())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelInvalid(f"{str(index)!r} is no index of weight files: {error}") from error
    outside = sorted(name for name in shards if Path(name).name != name)
    if outside:
        raise ModelInvalid(f"{str(index)!r} names a file outside the model: {outside[0]!r}")
    return [directory / name for name in sorted(shards)]


def _no_weights(directory: Path) -> str:
    pickles = sorted(file.name for pattern in _PICKLES for file in directory.glob(pattern))
    if not pickles:
        return f"model {str(directory)!r} has no weights; expected {WEIGHTS} or {INDEX}"
    return (
        f"model {str(directory)!r} has only pickle weights ({', '.join(pickles)}), which can execute code "
        "when loaded; if you trust it, convert it with transformers: "
        "AutoModel.from_pretrained(directory).save_pretrained(directory)"
    )
