"""Where a run is named: by itself, or as ``NAME@ALIAS`` or ``NAME@3`` of the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from durabert.engine import home_directory
from durabert.specs.registry import ModelRef
from durabert.store.objects import open_store
from durabert.store.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def registry(home: Path | None = None) -> Registry:
    """Return the registry of the artifact store that this machine is set up for."""
    return Registry(open_store(None, home=home_directory(home)))


def resolved(run: str, *, tell: Callable[[str], None] = lambda _: None) -> str:
    """Return the run that is meant; all that follows knows the run alone.

    Args:
        run: a run, ``NAME@ALIAS`` or ``NAME@VERSION``.
        tell: gets one sentence about what a name of the registry stands for.

    Raises:
        ModelNotRegistered: the registry has no such name, alias or version.
        SpecInvalid: it is no name of a model.
    """
    if "@" not in run:
        return run
    version = registry().find(ModelRef.parse_text(run))
    tell(f"{run} is version {version.version} of {version.name}, run {version.run}")
    return version.run
