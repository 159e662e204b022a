"""Labelled rows to evaluate a trained model on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from durabert.bert.data import UNLABELLED
from durabert.bert.labels import Encoded, LabelScheme, known_scheme
from durabert.bert.records import RecordSource
from durabert.bert.rows import Rows, read_rows
from durabert.bert.schema import Columns, choose_columns, require_columns
from durabert.bert.sources import Sources
from durabert.errors import DataInvalid, LabelsInvalid, TextsInvalid
from durabert.specs import DataSpec, Task

USUAL_SPLITS = ("test", "validation", "train")
"""The first one that is there is evaluated on, unless another one is asked for."""
NO_VALUE = ""
"""The value of a row that has none in a column to slice by."""


@dataclass(frozen=True)
class EvaluationRows:
    """The rows of a split that have a text and a label."""

    texts: list[str]
    pairs: list[str] | None
    """The second text of each row of a pair task."""
    labels: Encoded
    """Class numbers, or the values of a regression, or multi-hot vectors."""
    rows: list[int]
    """Position of each in its split, from 0: what identifies a row."""
    slices: dict[str, list[str]]
    """Value of each row, as text, by column to slice by."""
    notices: list[str]

    def __len__(self) -> int:
        return len(self.texts)


def chosen_split(sources: Sources, wanted: str | None) -> str:
    """Return the split to evaluate on.

    Raises:
        DataInvalid: there is none of that name.
    """
    splits = sources.splits()
    if wanted is None:
        return next(split for split in USUAL_SPLITS if split in splits)
    if wanted not in splits:
        names = ", ".join(map(repr, sorted(splits)))
        raise DataInvalid(f"{sources.name} has no split {wanted!r}; it has {names}")
    return wanted


def evaluation_columns(
    source: RecordSource, spec: DataSpec, *, texts: Sequence[str], label: str | None
) -> Columns:
    """Choose the columns of an evaluation set: those that ``spec`` names, else those of the training.

    Args:
        source: the rows.
        spec: what the user asked for.
        texts: the one or two text columns that were trained on.
        label: the label column that was trained on, if it is known.

    Raises:
        ColumnMissing: a column that ``spec`` names is not there.
        ColumnAmbiguous: more than one column could be meant, or none.
        TextsInvalid: pairs were learned and these are single texts, or the other way round.
    """
    known = {"text": texts[0], "text_pair": texts[1] if len(texts) > 1 else None, "label": label}
    hints = {
        field: column
        for field, column in known.items()
        if getattr(spec, field) is None and column in source.columns
    }
    columns = choose_columns(source, spec.model_copy(update=hints))
    if len(columns.texts) != len(texts):
        learned, got = (("pairs of texts", "single texts"), ("single texts", "pairs"))[len(texts) == 1]
        raise TextsInvalid(f"the model is trained on {learned}, but {source.name} has {got}")
    return columns


def read_evaluation_rows(
    source: RecordSource,
    columns: Columns,
    *,
    task: Task,
    labels: Sequence[str],
    slice_by: Sequence[str] = (),
) -> EvaluationRows:
    """Read the labelled rows of a split.

    Args:
        source: the rows.
        columns: the columns to read.
        task: what the model has learned.
        labels: its label names by class number.
        slice_by: other columns whose values are kept.

    Raises:
        ColumnMissing: a column is not there.
        DataInvalid: a row cannot be read, or none has a text and a label.
        LabelsInvalid: a label is none of the model's.
    """
    require_columns(source, (*columns.texts, columns.label, *slice_by))
    rows = labelled_rows(source, columns)
    scheme = known_scheme(task, labels, rows, columns.label)
    encoded = encoded_labels(scheme, rows)
    places, slices = _places(source, rows, slice_by)
    notices = [f"{source.name}: {notice}" for notice in rows.notices]
    return EvaluationRows(rows.texts, rows.pairs, encoded, places, slices, [*columns.notices, *notices])


def labelled_rows(source: RecordSource, columns: Columns) -> Rows:
    """Read the rows that have a text and a label; messages call them by the name of the source.

    Raises:
        DataInvalid: a row cannot be read, or none has both.
    """
    rows = read_rows(source, columns, split=source.name)
    if not rows:
        raise DataInvalid(f"{source.name}: no row has both a text and a label ({'; '.join(rows.notices)})")
    return rows


def encoded_labels(scheme: LabelScheme, rows: Rows) -> Encoded:
    """Return the labels as the model knows them.

    Raises:
        LabelsInvalid: one is none of the model's, or all of them stand for none.
    """
    known = scheme.task == "regression" or UNLABELLED in scheme.names
    if not known and all(str(label).strip() == UNLABELLED for label in rows.labels):
        raise LabelsInvalid(
            f"{rows.split}: all rows have the label {UNLABELLED}, which stands for none; "
            "labelled rows were expected"
        )
    return scheme.encode(rows)


def _places(
    source: RecordSource, rows: Rows, slice_by: Sequence[str]
) -> tuple[list[int], dict[str, list[str]]]:
    """Return the positions of the usable rows among all, and their values in other columns."""
    places: list[int] = []
    slices: dict[str, list[str]] = {column: [] for column in slice_by}
    for position, record in enumerate(source.read(list(slice_by))):
        # The usable rows are some of all, in the same order.
        if len(places) < len(rows) and record.number == rows.numbers[len(places)]:
            places.append(position)
            for column, values in slices.items():
                value = record.fields.get(column)
                values.append(NO_VALUE if value is None else str(value))
    return places, slices
