"""What a training depends on besides its rows: base model, code, machine. Needs no torch."""

from __future__ import annotations

import functools
import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MODEL_FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What of a base model is read: weights, configuration, tokenizer."""
_PIECE_BYTES: Final = 2**20


def base_model_sha256(directory: Path) -> str:
    """Return the digest of the files of a base model, whatever the directory is called."""
    files = {path for pattern in MODEL_FILES for path in directory.glob(pattern) if path.is_file()}
    return _files_sha256(directory, files)


@functools.cache
def code_sha256() -> str:
    """Return the digest of the sources of this package."""
    here = Path(__file__).parent
    return _files_sha256(here, here.rglob("*.py"))


def hardware() -> dict[str, str]:
    """Return processor, cores, memory and system of this machine, in words."""
    return {
        "cpu": _processor(),
        "cores": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        "machine": platform.machine(),
        "system": platform.system(),
    }


def _files_sha256(root: Path, files: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for name, path in sorted((path.relative_to(root).as_posix(), path) for path in files):
        content = hashlib.sha256()
        with path.open("rb") as file:
            while piece := file.read(_PIECE_BYTES):
                content.update(piece)
        digest.update(f"{content.hexdigest()} {name}\n".encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
