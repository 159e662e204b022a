"""Compiled kernels are kept on disk until one of the files that they may be made of changes.

numba by itself looks at the file of a kernel alone: it would go on with what was compiled of another file's
functions, which are part of the kernel.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

from numba import config
from numba.core.caching import InTreeCacheLocator

SOURCES: Final = {
    Path(__file__).with_name(f"{name}.py")
    for name in (
        "adamw",
        "attention_kernels",
        "attention_tiles",
        "kernels",
        "layer_tiles",
        "products",
        "threads",
        "tiles",
        "vectors",
    )
}
"""Files with functions that numba compiles."""


class KernelLocator(InTreeCacheLocator):
    """Where numba keeps a kernel of ours, and until when."""

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> KernelLocator | None:
        """Return that of a kernel; none of another function, or if the place cannot be written to."""
        return super().from_function(py_func, py_file) if Path(py_file) in SOURCES else None

    def get_source_stamp(self) -> str:
        """Return what must be the same for the compiled code to be used."""
        return hashlib.sha256(b"".join(source.read_bytes() for source in sorted(SOURCES))).hexdigest()


def install() -> None:
    """Let numba keep the kernels that are made from now on so, unless the environment says where it looks."""
    if not config.CACHE_LOCATOR_CLASSES and not config.CACHE_DIR:
        ours = f"{KernelLocator.__module__}.{KernelLocator.__name__}"
        others = ("InTree", "UserWide", "IPython", "Zip")
        config.CACHE_LOCATOR_CLASSES = ",".join([ours, *(f"{name}CacheLocator" for name in others)])
