"""From a file, a directory or a hub data set to labelled splits."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from durabert.bert.holdout import held_out, held_out_by_class, sample
from durabert.bert.inspection import Tally, counted, duplicates, overlap
from durabert.bert.labels import Encoded, LabelScheme, scheme_of
from durabert.bert.records import RecordSource
from durabert.bert.rows import Rows, read_rows
from durabert.bert.schema import Columns, choose_columns, require_columns
from durabert.bert.snapshots import open_snapshot
from durabert.bert.sources import Sources, find_sources
from durabert.bert.texts import TextRow, TextSource, read_texts
from durabert.errors import DataInvalid
from durabert.specs.base import Task
from durabert.specs.data import DataSpec

UNLABELLED: Final = "-1"
"""The label of rows whose real one is kept secret, in exports of benchmarks."""

__all__ = ["Split", "TextRow", "TextSource", "TrainingData", "load_training_data", "read_texts"]


@dataclass(frozen=True)
class Split:
    """Texts with their labels."""

    texts: list[str]
    pairs: list[str] | None
    """The second text of each row of a pair task."""
    labels: Encoded
    """Class numbers, or the values of a regression, or multi-hot vectors."""

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, indices: Sequence[int]) -> Split:
        """Return the rows at ``indices``."""
        labels: Encoded = [self.labels[index] for index in indices]  # type: ignore[assignment]  # one kind each
        return Split(
            texts=[self.texts[index] for index in indices],
            pairs=None if self.pairs is None else [self.pairs[index] for index in indices],
            labels=labels,
        )


@dataclass(frozen=True)
class TrainingData:
    """All that a training reads of its data."""

    name: str
    """Short name of the source, for people."""
    task: Task
    labels: tuple[str, ...]
    """Label names by class number; for a regression the label column's name alone."""
    text_columns: tuple[str, ...]
    label_column: str
    train: Split
    validation: Split
    test: Split | None
    sha256: str
    """Digest of the rows, independent of file format and file name."""
    notices: tuple[str, ...]
    """What was found and handled, one sentence each."""


def load_training_data(
    spec: DataSpec,
    *,
    task: Literal["auto"] | Task = "auto",
    max_train_rows: int | None = None,
    max_eval_rows: int | None = None,
    seed: int = 0,
    snapshot: Path | None = None,
) -> TrainingData:
    """Load the splits of a data set.

    Surrounding white space of texts is stripped; rows without a text or a label are dropped and reported;
    duplicates are kept and reported.

    Args:
        spec: where the rows are, and which columns matter.
        task: what the labels mean; ``auto`` goes by the labels of the training rows.
        max_train_rows: use so many of the training rows, chosen by ``seed``, in their order.
        max_eval_rows: use so many of the validation rows, and of the test rows.
        seed: seed of those choices; that of the held-out rows is in ``spec``.
        snapshot: directory of a snapshot to read in place of what ``spec`` names.

    Raises:
        DataNotFound: there is no such file, directory or hub data set.
        DataInvalid: a file cannot be read, or holds nothing to train on.
        ColumnMissing: a column that ``spec`` names is not there.
        ColumnAmbiguous: more than one column could be meant, or none.
        LabelsInvalid: the labels do not make the task.
    """
    sources = find_sources(spec) if snapshot is None else open_snapshot(snapshot)
    columns = choose_columns(sources.train, spec)
    rows, found = _read_splits(sources, columns)
    scheme = scheme_of(
        rows["train"], columns.label, task=task, declared=sources.class_names.get(columns.label)
    )
    notices = [*sources.notices, *columns.notices, *found, *_drop_unlabelled_test(rows, scheme)]
    if "validation" not in rows:
        notices += _hold_out(rows, scheme, spec)
    splits = {name: Split(part.texts, part.pairs, scheme.encode(part)) for name, part in rows.items()}
    notices += [*_unused_classes(splits["train"], scheme), *_repetitions(rows, splits)]
    for name, limit in (("train", max_train_rows), ("validation", max_eval_rows), ("test", max_eval_rows)):
        if name in splits and limit is not None and limit < len(splits[name]):
            notices.append(f"{name}: {limit:,} of {len(splits[name]):,} rows are used")
            splits[name] = splits[name].take(sample(len(splits[name]), limit, seed))
    return TrainingData(
        name=sources.name,
        task=scheme.task,
        labels=scheme.names,
        text_columns=columns.texts,
        label_column=columns.label,
        train=splits["train"],
        validation=splits["validation"],
        test=splits.get("test"),
        sha256=_digest(scheme, splits),
        notices=tuple(notices),
    )


def _read_splits(sources: Sources, columns: Columns) -> tuple[dict[str, Rows], list[str]]:
    rows = {"train": read_rows(sources.train, columns, split="train")}
    if sources.validation is not None:
        require_columns(sources.validation, (*columns.texts, columns.label))
        rows["validation"] = read_rows(sources.validation, columns, split="validation")
    for part in rows.values():
        if not part:
            raise DataInvalid(f"{part.split}: no row has both a text and a label ({'; '.join(part.notices)})")
    notices = [f"{part.split}: {notice}" for part in rows.values() for notice in part.notices]
    if sources.test is not None:
        test = _labelled_test(sources.test, columns)
        if test is None:
            notices.append("test: ignored, since its rows have no labels")
        else:
            rows["test"] = test
            notices += [f"test: {notice}" for notice in test.notices]
    return rows, notices


def _drop_unlabelled_test(rows: dict[str, Rows], scheme: LabelScheme) -> list[str]:
    test = rows.get("test")
    if test is None or scheme.task == "regression" or UNLABELLED in scheme.names:
        return []
    if any(str(label).strip() != UNLABELLED for label in test.labels):
        return []
    del rows["test"]
    return [f"test: ignored, since all its rows have the label {UNLABELLED}, which stands for none"]


def _labelled_test(source: RecordSource, columns: Columns) -> Rows | None:
    if columns.label not in source.columns:
        return None
    require_columns(source, columns.texts)
    return read_rows(source, columns, split="test") or None


def _hold_out(rows: dict[str, Rows], scheme: LabelScheme, spec: DataSpec) -> list[str]:
    train, notices = rows["train"], []
    if scheme.task in {"binary", "multiclass"}:
        classes = scheme.encode(train)
        chosen = held_out_by_class(classes, spec.validation_fraction, spec.split_seed)  # type: ignore[arg-type]
        notices = _single_rows(train, classes)
    else:
        chosen = held_out(len(train), spec.validation_fraction, spec.split_seed)
    if not chosen:
        raise DataInvalid(
            f"train: {counted(len(train), 'row')} with {counted(len(scheme.names), 'label')} leave none to "
            "hold out for validation; give more rows, or a validation file"
        )
    out = set(chosen)
    rows["train"] = train.take([index for index in range(len(train)) if index not in out])
    rows["validation"] = replace(train.take(chosen), split="validation")
    how = "" if scheme.task == "regression" or scheme.task == "multilabel" else ", stratified by label"
    return [*notices, f"validation: {len(chosen):,} of {len(train):,} training rows are held out{how}"]


def _single_rows(train: Rows, classes: Encoded) -> list[str]:
    sizes = Counter(map(str, classes))
    single = Tally(train.unit)
    for number, label in zip(train.numbers, classes, strict=True):
        if sizes[str(label)] == 1:
            single.add(number)
    if not single.count:
        return []
    labels = (
        "1 label with a single row stays"
        if single.count == 1
        else f"{single.count} labels with a single row stay"
    )
    return [f"train: {labels} out of the held-out rows {single}"]


def _unused_classes(train: Split, scheme: LabelScheme) -> list[str]:
    if scheme.task not in {"binary", "multiclass"}:
        return []
    used = set(map(str, train.labels))
    unused = [name for number, name in enumerate(scheme.names) if str(number) not in used]
    return [f"train: no row has the label {' or '.join(map(repr, unused))}"] if unused else []


def _repetitions(rows: dict[str, Rows], splits: dict[str, Split]) -> list[str]:
    notices = []
    train = rows["train"].contents()
    for name, part in rows.items():
        contents = part.contents()
        found = duplicates(contents, splits[name].labels, part.numbers, unit=part.unit)
        if name != "train":
            found += overlap(contents, part.numbers, train, unit=part.unit)
        notices += [f"{name}: {notice}" for notice in found]
    return notices


def _digest(scheme: LabelScheme, splits: dict[str, Split]) -> str:
    digest = hashlib.sha256(json.dumps([scheme.task, scheme.names]).encode())
    for name in sorted(splits):
        split = splits[name]
        # A new line separates the parts, and JSON writes the ones inside strings as \\n.
        for part in (name, split.texts, split.pairs, split.labels):
            digest.update(b"\n" + json.dumps(part).encode())
    return digest.hexdigest()
