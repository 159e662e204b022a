"""Where the artifact store is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

STORE_VARIABLE: Final = "DURABERT_STORE"


def store_url(explicit: str | None, *, home: Path) -> str:
    """Return URL or path of the store: the explicit one, else ``DURABERT_STORE``, else ``<home>/store``."""
    return explicit or os.environ.get(STORE_VARIABLE) or str(home / "store")
