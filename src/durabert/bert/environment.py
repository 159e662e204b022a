"""What a training depends on besides its rows: base model, code, machine. Needs no torch."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterable
from pathlib import Path
from typing import Final

MODEL_FILES: Final = ("*.safetensors", "*.json", "*.txt", "*.model")
"""What of a base model is read: weights, configuration, tokenizer."""


def base_model_sha256(directory: Path) -> str:
    """Return the digest of the files of a base model, whatever the directory is called."""
    files = {path for pattern in MODEL_FILES for path in directory.glob(pattern) if path.is_file()}
    return _files_sha256(directory, files)


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
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256")
        digest.update(f"{content.hexdigest()} {name}\n".encode())
    return digest.hexdigest()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


CODE_SHA256: Final = _files_sha256(Path(__file__).parent, Path(__file__).parent.rglob("*.py"))
"""Digest of the sources of this package, as they were when it was imported: they may be others by now."""
