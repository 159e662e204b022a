"""Labelled rows for a model that is there already: its labels, its columns."""

from __future__ import annotations

import csv

import pytest

from durabert.bert.evaluation_data import evaluation_columns, read_evaluation_rows
from durabert.bert.records import open_records
from durabert.errors import DataInvalid, LabelsInvalid
from durabert.specs import DataSpec


@pytest.fixture
def source(tmp_path):
    def write(rows, header=("text", "label")):
        path = tmp_path / "rows.csv"
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])
        return open_records(path, format="auto", delimiter=None, quoting="auto", encoding="utf-8")

    return write


def read(source, task, labels, **more):
    columns = evaluation_columns(source, DataSpec(source="x"), texts=("text",), label="label")
    return read_evaluation_rows(source, columns, task=task, labels=labels, **more)


@pytest.mark.parametrize(
    ("task", "names", "written", "expected"),
    [
        ("binary", ("false", "true"), ["True", "FALSE"], [1, 0]),
        ("binary", ("0", "1"), ["1.0", "0"], [1, 0]),
        ("binary", ("01", "1"), ["1", "01"], [1, 0]),
        ("multiclass", ("a", "b", "c"), [" c", "a"], [2, 0]),
        ("multilabel", ("a", "b"), ["b", "a|b"], [[0, 1], [1, 1]]),
        ("multilabel", ("a", "b"), ['["b"]', "[]"], [[0, 1], [0, 0]]),
        ("regression", ("score",), ["1", "2.5"], [1.0, 2.5]),
    ],
)
def test_labels_are_read_as_the_model_knows_them(source, task, names, written, expected):
    rows = read(source([("a film", label) for label in written]), task, names)

    assert rows.labels == expected


@pytest.mark.parametrize(
    ("task", "names", "written"),
    [("binary", ("no", "yes"), "maybe"), ("multilabel", ("a", "b"), "c"), ("regression", ("score",), "high")],
)
def test_a_label_that_the_model_does_not_know_is_refused(source, task, names, written):
    with pytest.raises(LabelsInvalid, match=rf"rows.csv: line 2 has the label '{written}'"):
        read(source([("a film", written)]), task, names)


def test_one_label_of_several_is_enough_to_evaluate(source):
    assert read(source([("a film", "yes")] * 3), "binary", ("no", "yes")).labels == [1, 1, 1]


def test_rows_that_hide_their_labels_cannot_be_evaluated(source):
    with pytest.raises(LabelsInvalid, match="all rows have the label -1, which stands for none"):
        read(source([("a film", "-1")] * 3), "binary", ("0", "1"))


def test_a_file_without_labels_cannot_be_evaluated(source):
    with pytest.raises(DataInvalid, match=r"rows.csv: no row has both a text and a label"):
        read(source([("a film", ""), ("a plot", "")]), "binary", ("0", "1"))


def test_values_to_slice_by_belong_to_their_rows(source):
    rows = read(
        source(
            [("one", "1", "web"), ("", "1", "lost"), ("three", "0", ""), ("four", "1", "tv")],
            ("text", "label", "from"),
        ),
        "binary",
        ("0", "1"),
        slice_by=["from"],
    )

    assert rows.rows == [0, 2, 3]
    assert rows.slices == {"from": ["web", "", "tv"]}


def test_columns_of_the_training_come_before_those_that_look_like_it(source):
    there = source([("x y", "a film", "1", "0")], ("title", "text", "label", "score"))

    columns = evaluation_columns(there, DataSpec(source="x"), texts=("title",), label="score")

    assert (columns.text, columns.label) == ("title", "score")
