from __future__ import annotations

import json
from pathlib import Path

import pytest

from durabert.bert.records import RecordSource, open_records
from durabert.bert.schema import choose_columns, choose_text_columns
from durabert.errors import ColumnAmbiguous, ColumnMissing, DataInvalid, SpecInvalid
from durabert.specs import DataSpec, TextsSpec

VALUES = {
    "sentence": ["what a fine film", "so very dull"],
    "label": [1, 0],
    "words": ["a fine and long sentence", "another one, which is dull"],
    "class": ["good", "bad"],
    "number": [17, 18],
}
KIND = {
    "label": "label",
    "labels": "label",
    "score": "label",
    "rating": "label",
    "y": "label",
    "stars": "label",
    "target": "class",
    "sentiment": "class",
    "gold_label": "class",
    "verdict": "class",
    "id": "number",
    "idx": "number",
    "length": "number",
}


@pytest.fixture
def table(tmp_path: Path):
    def write(*columns: str, **values: list) -> RecordSource:
        cells = {name: values.get(name) or VALUES[KIND.get(name.lower(), "words")] for name in columns}
        lines = [json.dumps(dict(zip(cells, row, strict=True))) for row in zip(*cells.values(), strict=True)]
        path = tmp_path / "a.jsonl"
        path.write_text("\n".join(lines))
        return open_records(path)

    return write


def chosen(source: RecordSource, **spec: str) -> tuple[str, str | None, str]:
    columns = choose_columns(source, DataSpec(source="a.jsonl", **spec))
    return columns.text, columns.pair, columns.label


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (("sentence", "label"), ("sentence", None, "label")),
        (("id", "Review Text", "Rating"), ("Review Text", None, "Rating")),
        (("idx", "sentence1", "sentence2", "label"), ("sentence1", "sentence2", "label")),
        (("premise", "hypothesis", "gold_label"), ("premise", "hypothesis", "gold_label")),
        (("question", "sentence", "label", "idx"), ("question", "sentence", "label")),
        (("score", "body"), ("body", None, "score")),
        (("hypothesis", "label"), ("hypothesis", None, "label")),
    ],
)
def test_columns_are_chosen_by_name(table, columns, expected):
    assert chosen(table(*columns)) == expected


def test_columns_without_a_telling_name_are_chosen_by_type(table):
    assert chosen(table("id", "words", "verdict")) == ("words", None, "verdict")
    assert chosen(table("words", "length")) == ("words", None, "length")


def test_the_plainest_name_wins_and_a_notice_says_so(table):
    source = table("title", "text", "score", "label")

    columns = choose_columns(source, DataSpec(source="a"))

    assert (columns.text, columns.label) == ("text", "label")
    assert columns.notices == (
        "the label column is 'label', not 'score'; --label chooses another one",
        "the text column is 'text', not 'title'; --text chooses another one",
    )


@pytest.mark.parametrize(
    ("columns", "candidates", "option"),
    [
        (("title", "content", "label"), ("'title'", "'content'"), "--text"),
        (("text", "sentence", "label"), ("'text'", "'sentence'"), "--text"),
        (("text", "rating", "stars"), ("'rating'", "'stars'"), "--label"),
        (("text", "verdict", "length"), ("'verdict'", "'length'"), "--label"),
        (("opinion", "remark", "label"), ("'opinion'", "'remark'"), "--text"),
        (("text", "query", "passage", "label"), ("'query' with 'passage'", "'text'"), "--text-pair"),
        (("premise", "hypothesis", "sentence1", "sentence2", "label"), ("'premise'",), "--text-pair"),
    ],
)
def test_more_than_one_possible_column_is_the_users_choice(table, columns, candidates, option):
    with pytest.raises(ColumnAmbiguous) as caught:
        chosen(table(*columns))

    assert all(candidate in str(caught.value) for candidate in (*candidates, option))


def test_no_possible_column_lists_what_is_there(table):
    with pytest.raises(ColumnAmbiguous, match=r"no column that looks like text among 'length', 'label'"):
        chosen(table("length", "label"))
    with pytest.raises(ColumnAmbiguous, match=r"no column that could be the label besides the text 'text'"):
        chosen(table("text", "id"))


def test_columns_that_are_named_are_taken(table):
    source = table("title", "content", "rating", "stars")

    assert chosen(source, text="content", label="stars") == ("content", None, "stars")
    assert chosen(source, text="title", text_pair="content", label="stars") == ("title", "content", "stars")
    assert chosen(table("premise", "hypothesis", "label"), text_pair="hypothesis")[:2] == (
        "premise",
        "hypothesis",
    )


def test_a_text_that_is_named_is_read_alone_and_a_notice_tells_of_its_partner(table):
    source = table("premise", "hypothesis", "label")

    columns = choose_columns(source, DataSpec(source="a", text="hypothesis"))

    assert columns.texts == ("hypothesis",)
    assert columns.notices == (
        "'hypothesis' is read alone; for pairs with 'premise' give --text-pair premise",
    )


@pytest.mark.parametrize("role", ["text", "text_pair", "label"])
def test_a_missing_column_names_those_that_are_there(table, role):
    with pytest.raises(ColumnMissing, match=r"has no column 'txet'; it has 'sentence', 'label'"):
        chosen(table("sentence", "label"), **{role: "txet"})


@pytest.mark.parametrize(
    "spec",
    [
        {"text": "sentence", "label": "sentence"},
        {"text": "sentence", "text_pair": "sentence"},
        {"text_pair": "label", "label": "label"},
    ],
)
def test_one_column_cannot_be_two_things(table, spec):
    with pytest.raises(SpecInvalid, match="should be two columns"):
        chosen(table("sentence", "label"), **spec)


@pytest.mark.parametrize("spec", [{}, {"text": "text"}])
@pytest.mark.parametrize("values", [[1, 2], ["1", "-2.5"], [["a"], ["b"]]])
def test_a_text_column_without_texts_is_refused(table, spec, values):
    with pytest.raises(DataInvalid, match="the text column 'text' holds values such as"):
        chosen(table("text", "label", text=values), **spec)


def test_a_first_line_that_is_a_row_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("a fine film it is,1\na dull film it is,0\nnot bad at all,1\n")

    with pytest.raises(DataInvalid, match="the first line should name the columns"):
        chosen(open_records(path))


def texts(source: RecordSource, trained: tuple[str, ...], **spec: str):
    return choose_text_columns(source, TextsSpec(path="a.jsonl", **spec), trained)


def test_predictions_read_the_columns_that_were_trained_on(table):
    assert texts(table("text", "remark", "label"), ("remark",)) == (("remark",), [])
    assert texts(table("b", "a", "text"), ("a", "b")) == (("a", "b"), [])


def test_predictions_read_the_columns_that_are_named(table):
    source = table("text", "remark", "opinion")

    assert texts(source, ("text",), text="remark")[0] == ("remark",)
    assert texts(source, ("text", "x"), text="remark", text_pair="opinion")[0] == ("remark", "opinion")
    assert texts(source, ("text", "remark"), text="opinion")[0] == ("opinion", "remark")


def test_other_columns_to_predict_on_are_inferred_with_a_notice(table):
    chosen_columns, notices = texts(table("review", "length"), ("sentence",))
    assert chosen_columns == ("review",)
    assert notices == ["read from 'review', since there is no 'sentence' that the model was trained on"]
    assert texts(table("length"), ("sentence",))[0] == ("length",)
    assert texts(table("premise", "hypothesis"), ("question1", "question2"))[0] == ("premise", "hypothesis")


def test_columns_to_predict_on_must_be_clear(table):
    with pytest.raises(ColumnAmbiguous, match="--text"):
        texts(table("title", "content"), ("sentence",))
    with pytest.raises(ColumnAmbiguous, match="no pair of text columns"):
        texts(table("title", "length"), ("question1", "question2"))
    with pytest.raises(ColumnMissing, match="'question2'"):
        texts(table("title", "length"), ("question1", "question2"), text="title")
    with pytest.raises(ColumnMissing, match="'gone'"):
        texts(table("title"), ("title",), text="gone")
    with pytest.raises(SpecInvalid, match="not a pair"):
        texts(table("title", "content"), ("title",), text_pair="content")
