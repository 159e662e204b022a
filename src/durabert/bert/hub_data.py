"""Data sets of the Hugging Face hub."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from durabert.bert.records import Record, RecordSource
from durabert.bert.records.columnar import rows_of
from durabert.errors import DataNotFound

BATCH_ROWS: Final = 1024
UNLABELLED: Final = -1
"""Class number that the hub gives to rows whose label is secret."""
LONGEST_REASON: Final = 160
SECONDS_TO_ANSWER: Final = 5.0


class HubSplit(RecordSource):
    """One split; class numbers are read as class names, and the number of an unlabelled row as null."""

    unit = "row"

    def __init__(self, name: str, dataset: Any, class_names: Mapping[str, tuple[str, ...]]) -> None:
        super().__init__(name, dataset.column_names)
        self.num_rows: int = dataset.num_rows
        # Images and sounds stay the bytes that they are, which needs no library that decodes them.
        self._dataset = dataset.with_format("arrow")
        self._class_names = class_names

    def read(self, columns: Sequence[str] | None = None) -> Iterator[Record]:
        """Yield records of ``columns`` only."""
        dataset = self._dataset if columns is None else self._dataset.select_columns(list(columns))
        named = {
            column: names for column, names in self._class_names.items() if column in dataset.column_names
        }
        number = 0
        for table in dataset.iter(BATCH_ROWS):
            for batch in table.to_batches():
                for fields in rows_of(batch):
                    number += 1
                    for column, names in named.items():
                        fields[column] = _named(fields[column], names)
                    yield Record(number, fields)
        if not number:
            raise self.no_rows()


def hub_splits(hub_id: str) -> tuple[dict[str, HubSplit], dict[str, tuple[str, ...]]]:
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
    splits = {str(name): HubSplit(f"{hub_id} ({name})", split, class_names) for name, split in loaded.items()}
    return splits, class_names


def _load(hub_id: str) -> Any:
    import datasets
    from datasets.exceptions import DatasetsError

    attempts = _attempts(hub_id)
    unreachable = _unreachable(attempts[0][0]) if attempts else "a part of the name is a directory here"
    reasons: list[str] = []
    with _without_progress_bars(), _cache_only() if unreachable else contextlib.nullcontext():
        for arguments in attempts:
            try:
                return datasets.load_dataset(*arguments)
            except (DatasetsError, OSError, ValueError, RuntimeError) as error:
                # What the hub, the network and the builders raise.
                reasons.append(_reason(error))
    why = unreachable or "; ".join(dict.fromkeys(reasons))
    raise DataNotFound(
        f"{hub_id!r} is neither a file or directory here nor could it be had from the hub ({why})"
    )


def _unreachable(repository: str) -> str | None:
    """Return why the hub cannot be asked, None if it answers, whatever it says."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    try:
        # One question with a time limit: loading retries for most of a minute where no hub answers.
        HfApi().dataset_info(repository, timeout=SECONDS_TO_ANSWER)
    except HfHubHTTPError:
        return None
    except OfflineModeIsEnabled:
        return "it is not in the cache, and the hub was not asked because HF_HUB_OFFLINE is set"
    except Exception as error:  # what it raises without a network depends on its HTTP library
        return f"the hub cannot be asked: {_reason(error)}"
    return None


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    import datasets.config
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _without_progress_bars() -> Iterator[None]:
    import datasets

    shown = datasets.utils.logging.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _attempts(hub_id: str) -> list[tuple[str, ...]]:
    parts = hub_id.split("/")
    attempts: list[tuple[str, ...]] = [(hub_id,)]
    if len(parts) == 2:
        attempts.append((parts[0], parts[1]))
    elif len(parts) == 3:
        attempts = [("/".join(parts[:2]), parts[2])]
    # The library prefers a directory here to the hub, and this id is no path.
    return [arguments for arguments in attempts if not Path(arguments[0]).exists()]


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
