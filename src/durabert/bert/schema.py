"""Which columns hold the text, the second text of a pair, and the label.

Columns are chosen by name first. Of several candidates one named exactly like the thing (``text``,
``label``) wins, and a notice says so; otherwise the choice is the user's. If no name decides, types do: the
only column of longer strings is the text, the only other column the label. A column with a second text is
used without being asked for only if both names of a known pair are there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from durabert.bert.inspection import shortened
from durabert.bert.records import RecordSource
from durabert.errors import ColumnAmbiguous, ColumnMissing, DataInvalid, SpecInvalid
from durabert.specs.data import DataSpec, TextsSpec

SAMPLE_ROWS: Final = 200
"""Rows whose values decide about types."""
LONG_TEXT: Final = 10
"""Mean length in characters from which strings look like text rather than like names of classes."""

TEXT_NAMES: Final = (
    frozenset({"text", "sentence"}),
    frozenset(
        {
            "review",
            "review_text",
            "reviewtext",
            "content",
            "body",
            "comment",
            "comment_text",
            "message",
            "tweet",
            "headline",
            "title",
            "document",
            "utterance",
            "post",
            "sms",
            "question",
            "query",
            "abstract",
            "summary",
            "description",
        }
    ),
)
LABEL_NAMES: Final = (
    frozenset({"label", "labels", "gold_label"}),
    frozenset(
        {
            "target",
            "targets",
            "class",
            "category",
            "categories",
            "sentiment",
            "emotion",
            "intent",
            "score",
            "rating",
            "stars",
            "y",
        }
    ),
)
PAIR_NAMES: Final = (
    ("sentence1", "sentence2"),
    ("sentence_1", "sentence_2"),
    ("sentence_a", "sentence_b"),
    ("premise", "hypothesis"),
    ("question1", "question2"),
    ("question", "sentence"),
    ("question", "answer"),
    ("question", "passage"),
    ("text1", "text2"),
    ("text_1", "text_2"),
    ("text_a", "text_b"),
    ("text", "text_pair"),
    ("query", "passage"),
    ("query", "document"),
    ("claim", "evidence"),
)
ROW_NAMES: Final = frozenset({"", "id", "idx", "index", "row_id", "guid", "uid", "unnamed:_0"})
"""Columns that number rows and are never inferred to be a text or a label."""

NUMBER: Final = re.compile(r"\s*[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?\s*", re.ASCII)


@dataclass(frozen=True)
class Columns:
    """The columns to read."""

    text: str
    pair: str | None
    label: str
    notices: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """The one or two text columns."""
        return text_columns(self.text, self.pair)


def text_columns(text: str, pair: str | None) -> tuple[str, ...]:
    """Return the one or two text columns as a tuple."""
    return (text,) if pair is None else (text, pair)


def choose_columns(source: RecordSource, spec: DataSpec) -> Columns:
    """Choose the columns to train on.

    Raises:
        ColumnMissing: a column that ``spec`` names is not there.
        ColumnAmbiguous: more than one column could be meant, or none.
        DataInvalid: the text column holds no text.
        SpecInvalid: the same column is to be two things.
    """
    require_columns(source, (spec.text, spec.text_pair, spec.label))
    _require_distinct({"text": spec.text, "text_pair": spec.text_pair, "label": spec.label})
    choice = _Choice(source)
    label = spec.label or choice.by_name(
        LABEL_NAMES, "label", "--label", without=(spec.text, spec.text_pair), texts=False
    )
    text, pair = choice.texts(spec.text, spec.text_pair, taken=label)
    if label is None:
        label = choice.remaining(text_columns(text, pair))
        choice.require_header(label)
    return Columns(text=text, pair=pair, label=label, notices=tuple(choice.notices))


def choose_text_columns(
    source: RecordSource, spec: TextsSpec, trained: Sequence[str]
) -> tuple[tuple[str, ...], list[str]]:
    """Choose the columns to predict on: those that ``spec`` names, else those trained on, else inferred.

    Args:
        source: the rows.
        spec: what the user asked for.
        trained: the one or two text columns that the model was trained on.

    Returns:
        As many columns as the model was trained on, and notices.

    Raises:
        ColumnMissing: a column that ``spec`` names, or the second one of a pair, is not there.
        ColumnAmbiguous: more than one column could be meant, or none.
        SpecInvalid: the model reads one text and two are given.
    """
    require_columns(source, (spec.text, spec.text_pair))
    _require_distinct({"text": spec.text, "text_pair": spec.text_pair})
    if len(trained) == 1:
        return _choose_single(source, spec, trained[0])
    text = spec.text or (trained[0] if trained[0] in source.columns else None)
    pair = spec.text_pair or (trained[1] if trained[1] in source.columns else None)
    if text and pair and text != pair:
        return (text, pair), []
    if spec.text is not None and spec.text_pair is None:
        raise ColumnMissing(trained[1], path=source.name, columns=source.columns)
    choice = _Choice(source)
    text, pair = choice.texts(None, spec.text_pair, taken=None)
    if pair is None:
        raise ColumnAmbiguous(
            f"{source.name} has no pair of text columns to read, such as {trained[0]!r} and "
            f"{trained[1]!r}, among {_listed(source.columns)}; choose them with --text and --text-pair"
        )
    return (text, pair), [*choice.notices, _instead((text, pair), trained)]


def _choose_single(source: RecordSource, spec: TextsSpec, trained: str) -> tuple[tuple[str, ...], list[str]]:
    if spec.text_pair is not None:
        raise SpecInvalid(f"text_pair is {spec.text_pair!r}, but the model reads one text a row, not a pair")
    if spec.text is not None:
        return (spec.text,), []
    if trained in source.columns:
        return (trained,), []
    if len(source.columns) == 1:
        return (source.columns[0],), [_instead(source.columns, [trained])]
    choice = _Choice(source)
    text = choice.single_text(without=())
    return (text,), [*choice.notices, _instead([text], [trained])]


def require_columns(source: RecordSource, names: Iterable[str | None]) -> None:
    """Check that the columns that are named exist.

    Raises:
        ColumnMissing: one does not.
    """
    for name in names:
        if name is not None and name not in source.columns:
            raise ColumnMissing(name, path=source.name, columns=source.columns)


def _require_distinct(roles: dict[str, str | None]) -> None:
    taken: dict[str, str] = {}
    for role, column in roles.items():
        if column is None:
            continue
        if column in taken:
            raise SpecInvalid(f"{taken[column]} and {role} are both {column!r}, but should be two columns")
        taken[column] = role


@dataclass
class _Choice:
    source: RecordSource
    notices: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        sample = self.source.head(SAMPLE_ROWS)
        self._values: dict[str, list[Any]] = {
            column: [value for row in sample if _is_present(value := row.fields.get(column))]
            for column in self.source.columns
        }

    def texts(self, text: str | None, pair: str | None, *, taken: str | None) -> tuple[str, str | None]:
        if text is not None:
            self._require_text(text)
            if pair is not None:
                self._require_text(pair)
            else:
                self._notice_partner(text, taken)
            return text, pair
        if pair is not None:
            self._require_text(pair)
            first = self._first_of(pair, taken)
            return first or self.single_text(without=(taken, pair)), pair
        found = self._pairs(taken)
        if found:
            return found
        return self.single_text(without=(taken,)), None

    def single_text(self, *, without: Iterable[str | None]) -> str:
        without = tuple(without)
        named = self.by_name(TEXT_NAMES, "text", "--text", without=without, texts=True)
        if named is not None:
            return named
        long = [column for column in self._open_columns(without) if self._is_long_text(column)]
        if len(long) == 1:
            return long[0]
        if long:
            raise self._ambiguous("text", long, "--text")
        raise ColumnAmbiguous(
            f"{self.source.name} has no column that looks like text among {_listed(self.source.columns)}; "
            "choose one with --text"
        )

    def by_name(
        self,
        tiers: Sequence[frozenset[str]],
        role: str,
        option: str,
        *,
        without: Iterable[str | None],
        texts: bool,
    ) -> str | None:
        columns = [column for column in self.source.columns if column not in set(without)]
        named = [[column for column in columns if _normal(column) in tier] for tier in tiers]
        usable = [[column for column in tier if self._is_text(column)] for tier in named] if texts else named
        everything = [column for tier in usable for column in tier]
        if not everything:
            unusable = [column for tier in named for column in tier]
            if unusable and not any(self._is_long_text(column) for column in columns):
                self._require_text(unusable[0])
            return None
        best = next(tier for tier in usable if tier)
        if len(best) > 1:
            raise self._ambiguous(role, best, option)
        if len(everything) > 1:
            others = " or ".join(repr(column) for column in everything if column != best[0])
            self.notices.append(
                f"the {role} column is {best[0]!r}, not {others}; {option} chooses another one"
            )
        return best[0]

    def remaining(self, texts: Sequence[str]) -> str:
        others = self._open_columns(texts)
        if len(others) == 1:
            return others[0]
        if others:
            raise self._ambiguous("label", others, "--label")
        raise ColumnAmbiguous(
            f"{self.source.name} has no column that could be the label besides the text {_listed(texts)}; "
            f"it has {_listed(self.source.columns)}; choose with --text and --label"
        )

    def require_header(self, label: str) -> None:
        if not self.source.typed and label in self._values[label]:
            raise DataInvalid(
                f"{self.source.name} begins with {_listed(self.source.columns)}, which looks like a row; "
                "the first line should name the columns"
            )

    def _open_columns(self, without: Iterable[str | None]) -> list[str]:
        without = set(without)
        return [
            column
            for column in self.source.columns
            if column not in without and _normal(column) not in ROW_NAMES
        ]

    def _pairs(self, taken: str | None) -> tuple[str, str] | None:
        by_normal = {_normal(column): column for column in self.source.columns if column != taken}
        found = [
            (by_normal[first], by_normal[second])
            for first, second in PAIR_NAMES
            if first in by_normal and second in by_normal
        ]
        found = [(first, second) for first, second in found if self._is_text(first) and self._is_text(second)]
        if not found:
            return None
        paired = {column for pair in found for column in pair}
        rivals = [
            column for name, column in by_normal.items() if name in TEXT_NAMES[0] and column not in paired
        ]
        if len(found) > 1 or rivals:
            could = [f"{first!r} with {second!r}" for first, second in found] + [repr(one) for one in rivals]
            raise ColumnAmbiguous(
                f"{self.source.name}: the text could be in {' or '.join(could)}; "
                "choose with --text, and --text-pair for a pair"
            )
        return found[0]

    def _first_of(self, pair: str, taken: str | None) -> str | None:
        by_normal = {_normal(column): column for column in self.source.columns if column not in {taken, pair}}
        firsts = [
            by_normal[first] for first, second in PAIR_NAMES if second == _normal(pair) and first in by_normal
        ]
        return firsts[0] if len(firsts) == 1 else None

    def _notice_partner(self, text: str, taken: str | None) -> None:
        known = {_normal(column): column for column in self.source.columns if column not in {text, taken}}
        for names in PAIR_NAMES:
            if _normal(text) in names:
                partner = known.get(names[1 - names.index(_normal(text))])
                if partner is not None:
                    self.notices.append(
                        f"{text!r} is read alone; for pairs with {partner!r} give --text-pair {partner}"
                    )
                    return

    def _require_text(self, column: str) -> None:
        if not self._is_text(column):
            shown = shortened(self._values[column][0])
            raise DataInvalid(
                f"{self.source.name}: the text column {column!r} holds values such as {shown}, "
                "but texts were expected; choose another one with --text"
            )

    def _is_text(self, column: str) -> bool:
        values = self._values[column]
        if not values:
            return True
        # One word is enough: a number among texts is reported with its line when the rows are read.
        return any(isinstance(value, str) and not NUMBER.fullmatch(value) for value in values)

    def _is_long_text(self, column: str) -> bool:
        values = self._values[column]
        if not values or not self._is_text(column):
            return False
        strings = [value for value in values if isinstance(value, str)]
        spoken = sum(1 for value in strings if " " in value.strip() or not value.isascii())
        return spoken * 2 >= len(values) and sum(map(len, strings)) >= LONG_TEXT * len(values)

    def _ambiguous(self, role: str, candidates: Sequence[str], option: str) -> ColumnAmbiguous:
        return ColumnAmbiguous(
            f"{self.source.name}: the {role} could be in {' or '.join(map(repr, candidates))}; "
            f"choose one with {option}"
        )


def _normal(column: str) -> str:
    return re.sub(r"[\s-]+", "_", column.strip().lower())


def _listed(columns: Iterable[str]) -> str:
    return ", ".join(map(repr, columns))


def _instead(read: Sequence[str], trained: Sequence[str]) -> str:
    return f"read from {_listed(read)}, since there is no {_listed(trained)} that the model was trained on"


def _is_present(value: Any) -> bool:
    return value is not None and value != ""
