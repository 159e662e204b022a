"""What the labels mean: the task, the names of the classes, and the numbers that a model learns.

Labels are read as the narrowest of these that fits all training rows, whether they come as text or typed:
truth values, whole numbers (``1`` and ``1.0`` are the same class), numbers, lists, names. Numbers that are
not all whole are a regression. Whole numbers and names are classes if there are two of them, or if they occur
twice on average, and whole numbers only up to ``MAX_NUMBERED_CLASSES`` of them; else the user has to say what
they are.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Literal

from durabert.bert.inspection import shortened
from durabert.bert.rows import Rows
from durabert.bert.schema import NUMBER
from durabert.errors import LabelsInvalid
from durabert.specs.base import Task

MAX_NUMBERED_CLASSES: Final = 100
"""More different whole numbers than this look like a quantity."""
LARGEST_WHOLE: Final = 2**53
"""Up to here a float holds every whole number."""
SHOWN_NAMES: Final = 10

Kind = Literal["truth", "whole", "number", "lists", "names"]
Encoded = list[int] | list[float] | list[list[int]]

_NOT_FINITE: Final = re.compile(r"\s*[+-]?(nan|inf|infinity)\s*", re.IGNORECASE)
_PADDED: Final = re.compile(r"\s*(\+|-?0\d)")
_SEPARATORS: Final = ("|", ";", ",")


@dataclass(frozen=True)
class LabelScheme:
    """How labels of all splits are read."""

    task: Task
    kind: Kind
    names: tuple[str, ...]
    """Class names by class number; the label column's name for a regression."""
    separator: str | None = None
    """Between the names of a row's labels, where they come as one string."""

    def encode(self, rows: Rows) -> Encoded:
        """Return class numbers, values or multi-hot vectors.

        Raises:
            LabelsInvalid: a label is not among ``names``, or is no finite number.
        """
        if self.task == "regression":
            return [_value(label, rows, index) for index, label in enumerate(rows.labels)]
        numbers = {name: number for number, name in enumerate(self.names)}
        if self.task == "multilabel":
            return [self._multi_hot(label, numbers, rows, index) for index, label in enumerate(rows.labels)]
        known: dict[Any, int] = {}
        encoded = []
        for index, label in enumerate(rows.labels):
            number = known.get((type(label), label)) if label.__hash__ else None
            if number is None:
                name = _class_name(label, self.kind)
                if name is None or name not in numbers:
                    raise self._unknown(label, rows, index)
                number = known[type(label), label] = numbers[name]
            encoded.append(number)
        return encoded

    def _multi_hot(self, label: Any, numbers: dict[str, int], rows: Rows, index: int) -> list[int]:
        vector = [0] * len(numbers)
        for name in _members(label, self.separator, rows, index):
            if name not in numbers:
                raise self._unknown(name, rows, index)
            vector[numbers[name]] = 1
        return vector

    def _unknown(self, label: Any, rows: Rows, index: int) -> LabelsInvalid:
        return LabelsInvalid(
            f"{_place(rows, index)} has the label {shortened(label)}, which is not among "
            f"those of the training rows: {_shown(self.names)}"
        )


def scheme_of(
    rows: Rows, column: str, *, task: Literal["auto"] | Task, declared: Sequence[str] | None = None
) -> LabelScheme:
    """Find out what the labels of the training rows mean.

    Args:
        rows: the training rows, at least one.
        column: the label column's name.
        task: what the user says; ``auto`` goes by the labels.
        declared: class names in order, where the source declares them.

    Raises:
        LabelsInvalid: the labels do not make the task, or no task.
    """
    if task == "regression":
        declared = None
    kind = "names" if declared and not isinstance(rows.labels[0], list) else _kind(rows, task)
    if kind == "lists":
        return _multilabel(rows, column, task, declared)
    if task == "multilabel":
        raise _unfit(rows, column, task, "lists of labels")
    if task == "regression" or (task == "auto" and kind == "number"):
        return _regression(rows, column, kind)
    if kind == "number":
        raise _unfit(rows, column, task, "classes, not fractions")
    return _classification(rows, column, kind, task, declared)


def known_scheme(task: Task, names: Sequence[str], rows: Rows, column: str) -> LabelScheme:
    """Return how labels are read for a model that knows them already.

    Args:
        task: what the model has learned.
        names: its label names by class number; one for a regression.
        rows: other rows than those that it was trained on.
        column: their label column.

    Raises:
        LabelsInvalid: the labels of several-label rows are separated in more than one way.
    """
    if task == "regression":
        return LabelScheme(task, "number", tuple(names))
    if task == "multilabel":
        return LabelScheme(task, "lists", tuple(names), _separator(rows, column))
    if set(names) <= {"false", "true"}:
        return LabelScheme(task, "truth", tuple(names))
    whole = all(str(_whole(name)) == name for name in names)
    return LabelScheme(task, "whole" if whole else "names", tuple(names))


def _classification(
    rows: Rows, column: str, kind: Kind, task: Literal["auto"] | Task, declared: Sequence[str] | None
) -> LabelScheme:
    found = (_class_name(label, kind) for label, _ in _distinct(rows))
    distinct = {name for name in found if name is not None}
    if len(distinct) == 1:
        raise LabelsInvalid(
            f"{rows.split}: all {len(rows):,} rows have the label {next(iter(distinct))!r} in column "
            f"{column!r}; at least two different labels were expected"
        )
    if declared:
        names = tuple(declared)
    else:
        names = tuple(sorted(distinct, key=int) if kind == "whole" else sorted(distinct))
        if task == "auto":
            _check_classes(rows, column, kind, len(names))
    if task == "binary" and len(names) != 2:
        raise LabelsInvalid(
            f"task is 'binary', but column {column!r} has {len(names)} labels: {_shown(names)}"
        )
    if task == "auto":
        task = "binary" if len(names) == 2 else "multiclass"
    return LabelScheme(task, kind, names)


def _check_classes(rows: Rows, column: str, kind: Kind, classes: int) -> None:
    many = kind == "whole" and classes > MAX_NUMBERED_CLASSES
    if many or (classes > 2 and 2 * classes > len(rows)):
        what = "whole numbers" if kind == "whole" else "labels"
        hint = (
            'set task = "regression" or task = "multiclass"'
            if kind == "whole"
            else 'choose another label column with --label, or set task = "multiclass"'
        )
        raise LabelsInvalid(
            f"column {column!r} has {classes:,} different {what} in {len(rows):,} training rows, "
            f"which may or may not be classes; {hint}"
        )


def _regression(rows: Rows, column: str, kind: Kind) -> LabelScheme:
    if kind not in {"number", "whole"}:
        raise _unfit(rows, column, "regression", "numbers")
    scheme = LabelScheme("regression", "number", (column,))
    values = scheme.encode(rows)
    if all(value == values[0] for value in values):
        raise LabelsInvalid(
            f"{rows.split}: all {len(rows):,} rows have the value {values[0]} in column {column!r}; "
            "at least two different values were expected"
        )
    return scheme


def _multilabel(
    rows: Rows, column: str, task: Literal["auto"] | Task, declared: Sequence[str] | None
) -> LabelScheme:
    if task not in {"auto", "multilabel"}:
        raise LabelsInvalid(f"task is {task!r}, but column {column!r} has lists of labels")
    separator = _separator(rows, column)
    members = [_members(label, separator, rows, index) for index, label in enumerate(rows.labels)]
    distinct = {name for row in members for name in row}
    if all(set(row) == distinct for row in members):
        raise LabelsInvalid(
            f"{rows.split}: all {len(rows):,} rows have the same labels in column {column!r}; "
            "at least two different sets of labels were expected"
        )
    whole = all(str(_whole(name)) == name for name in distinct)
    names = tuple(declared or sorted(distinct, key=int if whole else str))
    return LabelScheme("multilabel", "lists", names, separator)


def _kind(rows: Rows, task: Literal["auto"] | Task) -> Kind:
    if task == "multilabel" and all(isinstance(label, list | str) for label in rows.labels):
        return "lists"
    if any(isinstance(label, list) for label in rows.labels) or _all_listed(rows.labels):
        return "lists"
    distinct = _distinct(rows)
    for label, index in distinct:
        if not isinstance(label, str | bool | int | float | Decimal):
            raise LabelsInvalid(
                f"{_place(rows, index)} has the label {shortened(label)}, but a word or a number was expected"
            )
    if all(_truth(label) is not None for label, _ in distinct):
        return "truth"
    if any(_number(label) is not None for label, _ in distinct):
        return _number_kind(rows, distinct)
    return "names"


def _number_kind(rows: Rows, distinct: list[tuple[Any, int]]) -> Kind:
    for label, index in distinct:
        if _number(label) is not None:
            continue
        if _not_finite(label):
            raise LabelsInvalid(
                f"{_place(rows, index)} has the label {label}, but a finite number was expected"
            )
        if all(isinstance(other, str) for other, _ in distinct):
            return "names"
        raise LabelsInvalid(
            f"{_place(rows, index)} has the label {shortened(label)} while other rows have numbers; "
            "labels should be all numbers or all words"
        )
    if all(_whole(label) is not None for label, _ in distinct):
        # Numbers with leading zeros are codes: 01 and 1 may be different ones.
        padded = any(isinstance(label, str) and _PADDED.match(label) for label, _ in distinct)
        return "names" if padded else "whole"
    return "number"


def _distinct(rows: Rows) -> list[tuple[Any, int]]:
    """Return the different labels, each with the index of its first row; ``True`` and ``1`` are different."""
    first: dict[tuple[type, Any], int] = {}
    for index, label in enumerate(rows.labels):
        first.setdefault((type(label), label if label.__hash__ else repr(label)), index)
    return [(rows.labels[index], index) for index in first.values()]


def _class_name(label: Any, kind: Kind) -> str | None:
    if kind == "truth":
        truth = _truth(label)
        return None if truth is None else str(truth).lower()
    if kind == "whole":
        whole = _whole(label)
        return None if whole is None else str(whole)
    if isinstance(label, str):
        return label.strip()
    return str(label) if isinstance(label, int) and not isinstance(label, bool) else None


def _truth(label: Any) -> bool | None:
    if isinstance(label, bool):
        return label
    if isinstance(label, str):
        return {"true": True, "false": False}.get(label.strip().lower())
    return None


def _number(label: Any) -> float | None:
    if isinstance(label, bool) or not isinstance(label, str | int | float | Decimal):
        return None
    if isinstance(label, str) and not NUMBER.fullmatch(label):
        return None
    try:
        value = float(label)
    except (OverflowError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _whole(label: Any) -> int | None:
    value = _number(label)
    return int(value) if value is not None and value.is_integer() and abs(value) <= LARGEST_WHOLE else None


def _not_finite(label: Any) -> bool:
    if isinstance(label, str):
        return bool(_NOT_FINITE.fullmatch(label))
    return isinstance(label, float | Decimal) and not math.isfinite(label)


def _value(label: Any, rows: Rows, index: int) -> float:
    value = _number(label)
    if value is None:
        raise LabelsInvalid(
            f"{_place(rows, index)} has the label {shortened(label)}, but a finite number was expected"
        )
    return value


def _all_listed(labels: Iterable[Any]) -> bool:
    return all(
        isinstance(label, str) and label.strip()[:1] == "[" and label.strip()[-1:] == "]" for label in labels
    )


def _separator(rows: Rows, column: str) -> str | None:
    strings = [label for label in rows.labels if isinstance(label, str)]
    if _all_listed(strings) or len(strings) < len(rows.labels):
        return None
    used = [separator for separator in _SEPARATORS if any(separator in label for label in strings)]
    if len(used) > 1:
        raise LabelsInvalid(
            f"labels in column {column!r} are separated by {' and by '.join(map(repr, used))}; "
            'one separator, or lists such as ["a", "b"], were expected'
        )
    return used[0] if used else _SEPARATORS[0]


def _members(label: Any, separator: str | None, rows: Rows, index: int) -> list[str]:
    if isinstance(label, str):
        parsed = (
            _parsed_list(label)
            if separator is None
            else [part for part in label.split(separator) if part.strip()]
        )
    else:
        parsed = label
    if not isinstance(parsed, list):
        raise LabelsInvalid(
            f"{_place(rows, index)} has the label {shortened(label)}, but a list was expected"
        )
    names = [_member_name(part) for part in parsed]
    if None in names or "" in names:
        raise LabelsInvalid(
            f"{_place(rows, index)} has the labels {shortened(label)}, but a list of words or whole numbers "
            "was expected"
        )
    if len(set(names)) < len(names):
        raise LabelsInvalid(
            f"{_place(rows, index)} has the labels {shortened(label)}, where one occurs more than once; "
            "a list of the labels that apply was expected, not a vector of zeros and ones"
        )
    return [name for name in names if name is not None]


def _member_name(part: Any) -> str | None:
    if isinstance(part, str):
        return part.strip()
    whole = _whole(part)
    return None if whole is None else str(whole)


def _parsed_list(label: str) -> Any:
    try:
        return json.loads(label)
    except ValueError:
        pass
    try:
        return ast.literal_eval(label.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _unfit(rows: Rows, column: str, task: str, expected: str) -> LabelsInvalid:
    return LabelsInvalid(
        f"task is {task!r}, but column {column!r} has labels such as {shortened(rows.labels[0])} "
        f"({rows.unit} {rows.numbers[0]}); {expected} were expected"
    )


def _place(rows: Rows, index: int) -> str:
    return f"{rows.split}: {rows.unit} {rows.numbers[index]}"


def _shown(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN_NAMES]))
    return shown if len(names) <= SHOWN_NAMES else f"{shown} and {len(names) - SHOWN_NAMES:,} more"
