"""Paths as the worker will see them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from durabert.errors import DataNotFound
from durabert.specs import DataSpec

DATA_SUFFIXES: Final = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".arrow")


def located(data: DataSpec, *, here: bool) -> DataSpec:
    """Make the paths of a spec absolute: a worker runs in a directory of its own.

    Args:
        data: may name files, directories or a hub id.
        here: the worker is on this machine, so that a missing file can be told at once.

    Raises:
        DataNotFound: a file is not there.
    """
    paths = {name: getattr(data, name) for name in ("source", "validation", "test")}
    return data.model_copy(update={name: _located(name, path, here=here) for name, path in paths.items()})


def _located(field: str, value: str | None, *, here: bool) -> str | None:
    if value is None:
        return None
    path = Path(value).expanduser()
    if path.exists():
        return str(path.resolve())
    if here and (field != "source" or _no_hub_id(value)):
        role = "" if field == "source" else f" for the {field} rows"
        raise DataNotFound(f"there is no file or directory {value!r}{role}")
    return value


def _no_hub_id(value: str) -> bool:
    return value.startswith(("/", ".", "~")) or value.lower().endswith(DATA_SUFFIXES)
