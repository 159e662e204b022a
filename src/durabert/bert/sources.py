"""Where the splits of a data set are: a file, a directory, or the hub."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from durabert.bert.hub_data import HubSplit, hub_splits
from durabert.bert.records import SUFFIXES, RecordSource, local_path, open_records
from durabert.errors import DataInvalid, DataNotFound
from durabert.specs.data import DataSpec

SPLIT_NAMES: Final = {
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
"""Names that a split may have, as a file without its suffix and on the hub."""
MATCHED: Final = "validation_matched"
"""The split of MNLI on the hub that has the domains of its training rows."""
OTHER_SUFFIXES: Final = (
    ".txt",
    ".gz",
    ".bz2",
    ".xz",
    ".zst",
    ".zip",
    ".xls",
    ".xlsx",
    ".pkl",
    ".pt",
    ".dat",
    ".data",
)
"""What else ends in these is a file and no hub id."""

HUB_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2}", re.ASCII)


@dataclass(frozen=True)
class Sources:
    """The splits of a data set, not read yet."""

    name: str
    train: RecordSource
    validation: RecordSource | None = None
    test: RecordSource | None = None
    others: dict[str, RecordSource] = field(default_factory=dict)
    """Splits that a training does not use, by name; none is empty."""
    class_names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes by column, where the source declares them."""
    notices: tuple[str, ...] = ()

    def splits(self) -> dict[str, RecordSource]:
        """Return every split by its name."""
        used = {"train": self.train, "validation": self.validation, "test": self.test}
        return {**self.others, **{name: split for name, split in used.items() if split is not None}}


def find_sources(spec: DataSpec) -> Sources:
    """Find and open the splits that ``spec`` names.

    Raises:
        DataNotFound: there is no such file, directory or hub data set.
        DataInvalid: a directory without a train file, or with two for one split; a file of unknown format.
    """
    return with_named_files(_own_splits(spec), spec)


def with_named_files(sources: Sources, spec: DataSpec) -> Sources:
    """Put the files that ``spec`` names for validation and test in the place of the source's own splits.

    Raises:
        DataNotFound: there is no such file.
        DataInvalid: a file is empty or of unknown format.
    """
    if spec.validation is not None:
        sources = replace(sources, validation=_open(_file(spec.validation, "validation"), spec))
    if spec.test is not None:
        sources = replace(sources, test=_open(_file(spec.test, "test"), spec))
    return sources


def _own_splits(spec: DataSpec) -> Sources:
    path = local_path(spec.source)
    if path.is_dir():
        return _directory(path, spec)
    if path.exists():
        return Sources(path.name, _open(path, spec))
    suffix = path.suffix.lower()
    if not HUB_ID.fullmatch(spec.source) or suffix in SUFFIXES or suffix in OTHER_SUFFIXES:
        raise DataNotFound(f"there is no file or directory {spec.source}")
    return _hub(spec.source)


def _hub(hub_id: str) -> Sources:
    splits, class_names = hub_splits(hub_id)
    notices = []
    found: dict[str, HubSplit] = {}
    for split, names in SPLIT_NAMES.items():
        name = next((name for name in names if name in splits), None)
        if name is not None:
            found[split] = splits[name]
    if "validation" not in found and MATCHED in splits:
        found["validation"] = splits[MATCHED]
        notices.append(f"validation: the split {MATCHED!r} is used")
    if "train" not in found:
        raise DataInvalid(f"{hub_id} has no split 'train'; it has {', '.join(map(repr, sorted(splits)))}")
    used = list(found.values())
    others: dict[str, RecordSource] = {
        name: split for name, split in splits.items() if split not in used and split.num_rows
    }
    return Sources(hub_id, **found, others=others, class_names=class_names, notices=tuple(notices))


def _directory(path: Path, spec: DataSpec) -> Sources:
    files = {split: _split_file(path, split, spec) for split in SPLIT_NAMES}
    train = files["train"]
    if train is None:
        there = sorted(entry.name for entry in path.iterdir())
        shown = ", ".join(there[:10]) + (f" and {len(there) - 10} more" if len(there) > 10 else "")
        raise DataInvalid(
            f"{path} has no train file, such as train.csv; it has {shown or 'nothing in it'} "
            f"(formats: {', '.join(SUFFIXES)})"
        )
    return Sources(
        path.resolve().name or str(path),
        train=_open(train, spec),
        # Files that the spec names take the place of these, which then need not be readable.
        validation=_open(files["validation"], spec) if files["validation"] and not spec.validation else None,
        test=_open(files["test"], spec) if files["test"] and not spec.test else None,
    )


def _split_file(path: Path, split: str, spec: DataSpec) -> Path | None:
    candidates = sorted(
        entry
        for entry in path.iterdir()
        if entry.is_file()
        and entry.stem.lower() in SPLIT_NAMES[split]
        and (spec.format != "auto" or entry.suffix.lower() in SUFFIXES)
    )
    if len(candidates) > 1:
        names = " and ".join(entry.name for entry in candidates)
        raise DataInvalid(f"{path} has {names}, but one {split} file was expected")
    return candidates[0] if candidates else None


def _file(name: str, split: str) -> Path:
    path = local_path(name)
    if not path.exists():
        raise DataNotFound(f"there is no {split} file {name}")
    return path


def _open(path: Path, spec: DataSpec) -> RecordSource:
    return open_records(
        path, format=spec.format, delimiter=spec.delimiter, quoting=spec.quoting, encoding=spec.encoding
    )
