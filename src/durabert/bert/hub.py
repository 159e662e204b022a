"""Data sets of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from durabert.bert.records import Record, RecordSource
from durabert.errors import DataNotFound

BATCH_ROWS: Final = 1024
UNLABELLED: Final = -1
"""Class number that the hub gives to rows whose label is secret."""
LONGEST_REASON: Final = 160


class HubSplit(RecordSource):
    """One split; class numbers are read as class names, and the number of an unlabelled row as null."""

    unit = "row"

    def __init__(self, name: str, dataset: Any, class_names: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(name, dataset.column_names)
        self._dataset = dataset
        self._class_names = class_names

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns`` only: others may be images, slow to decode."""
        dataset = self._dataset if columns is None else self._dataset.select_columns(list(columns))
        named = {
            column: names for column, names in self._class_names.items() if column in dataset.column_names
        }
        number = 0
        for batch in dataset.iter(BATCH_ROWS):
            for column, names in named.items():
                batch[column] = [_named(value, names) for value in batch[column]]
            for values in zip(*batch.values(), strict=True):
                number += 1
                yield Record(number, dict(zip(batch, values, strict=True)))
        if not number:
            raise self.no_rows()


def hub_splits(hub_id: str) -> tuple[dict[str, RecordSource], dict[str, tuple[str, ...]]]:
    """Get a data set, from the local cache or from the hub.

    Args:
        hub_id: ``name``, ``org/name``, ``name/config`` or ``org/name/config``.

    Returns:
        The splits by name, and the names of the classes by column.

    Raises:
        DataNotFound: the hub cannot be reached or has no such data set.
    """
    loaded = _load(hub_id)
    class_names = _class_names(next(iter(loaded.values())).features)
    splits: dict[str, RecordSource] = {
        str(name): HubSplit(f"{hub_id} ({name})", split, class_names) for name, split in loaded.items()
    }
    return splits, class_names


def _load(hub_id: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    attempts = _attempts(hub_id)
    reasons: list[str] = []
    for arguments in attempts:
        try:
            return _quietly(lambda arguments=arguments: datasets.load_dataset(*arguments))
        except (DatasetsError, OSError, ValueError, RuntimeError) as error:
            # What hub, network and builders raise; the first reason is that of the id as it was written.
            reasons.append(_reason(error))
    raise DataNotFound(
        f"{hub_id!r} is neither a file or directory here nor could it be had from the hub ({reasons[0]})"
    )


def _attempts(hub_id: str) -> list[tuple[str, ...]]:
    parts = hub_id.split("/")
    if len(parts) == 3:
        attempts: list[tuple[str, ...]] = [("/".join(parts[:2]), parts[2])]
    elif len(parts) == 2:
        attempts = [(hub_id,), (parts[0], parts[1])]
    else:
        attempts = [(hub_id,)]
    # The library prefers a directory here to the hub, and this id is no path.
    return [arguments for arguments in attempts if not Path(arguments[0]).exists()] or attempts[:1]


def _quietly(load: Callable[[], Any]) -> Any:
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        return load()
    finally:
        if shown:
            datasets.enable_progress_bars()


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".") if lines else type(error).__name__
    return reason if len(reason) <= LONGEST_REASON else f"{reason[: LONGEST_REASON - 3]}..."


def _class_names(features: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    names = {}
    for column, feature in features.items():
        found = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
        if found:
            names[column] = tuple(found)
    return names


def _named(value: Any, names: Sequence[str]) -> Any:
    if value is None or value == UNLABELLED:
        return None
    if isinstance(value, list):
        return [names[number] for number in value]
    return names[value]
