from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durabert.bert.data import TextRow, TrainingData, load_training_data, read_texts
from durabert.bert.holdout import held_out_by_class
from durabert.errors import (
    ColumnMissing,
    DataInvalid,
    DataNotFound,
    LabelsInvalid,
    SpecInvalid,
    UserError,
)
from durabert.specs import DataSpec, TextsSpec

FILMS = [(f"film number {number} is fine", "good") for number in range(12)] + [
    (f"film number {number} is dull", "bad") for number in range(8)
]


def write_jsonl(path: Path, texts: list, labels: list, **columns: list) -> Path:
    table = {"text": texts, "label": labels, **columns}
    rows = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_csv(path: Path, rows: list[tuple], header: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([header, *rows])
    return path


def load(source: Path | str, task: str = "auto", **spec: object) -> TrainingData:
    return load_training_data(DataSpec(source=str(source), **spec), task=task)


def labelled(path: Path, labels: list, **options: object) -> TrainingData:
    texts = [f"text number {number}" for number in range(len(labels))]
    return load(write_jsonl(path / "a.jsonl", texts, labels), **options)


def refusal(error: type[UserError], source: Path | str, **options: object) -> str:
    with pytest.raises(error) as caught:
        load(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# Where the splits are


def test_sst2_loads_within_seconds(sst2):
    began = time.perf_counter()
    data = load(sst2)
    seconds = time.perf_counter() - began

    assert (len(data.train), len(data.validation), len(data.test)) == (67_349, 872, 1_821)
    assert (data.name, data.task, data.labels) == ("sst2", "binary", ("0", "1"))
    assert (data.text_columns, data.label_column) == (("sentence",), "label")
    assert data.train.texts[0] == "hide new secretions from the parental units"
    assert data.train.labels[:3] == [0, 0, 1]
    assert "test: 2 rows have texts that are also in train (at lines 988, 1258)" in data.notices
    assert seconds < 3


@pytest.mark.parametrize("validation", ["validation.csv", "valid.jsonl", "val.csv", "DEV.csv"])
def test_a_directory_has_its_splits_in_files(tmp_path, validation):
    write_csv(tmp_path / "train.csv", FILMS)
    rows = [("one more, fine", "good"), ("one more, dull", "bad")]
    if validation.endswith("csv"):
        write_csv(tmp_path / validation, rows)
    else:
        write_jsonl(tmp_path / validation, [text for text, _ in rows], [label for _, label in rows])
    write_csv(tmp_path / "test.tsv", rows[:1])
    (tmp_path / "README.md").write_text("about")

    data = load(tmp_path)

    assert data.name == tmp_path.name
    assert (len(data.train), len(data.validation), len(data.test)) == (20, 2, 1)
    assert data.labels == ("bad", "good")
    assert data.validation.texts == ["one more, fine", "one more, dull"]
    assert data.validation.labels == [1, 0]


def test_two_files_for_one_split_are_refused(tmp_path):
    for name in ("train.csv", "dev.csv", "valid.csv"):
        write_csv(tmp_path / name, FILMS)

    assert "has dev.csv and valid.csv, but one validation file" in refusal(DataInvalid, tmp_path)


def test_a_directory_without_a_train_file_lists_what_is_there(tmp_path):
    assert "nothing in it" in refusal(DataInvalid, tmp_path)
    write_csv(tmp_path / "reviews.csv", FILMS)
    (tmp_path / "train.csv.gz").write_bytes(b"\x1f\x8b")

    assert "it has reviews.csv, train.csv.gz" in refusal(DataInvalid, tmp_path)


def test_files_that_are_named_take_the_place_of_the_sources_own(tmp_path):
    for name in ("train.csv", "other.csv", "extra.csv"):
        write_csv(tmp_path / name, FILMS if name == "train.csv" else FILMS[10:13])
    (tmp_path / "validation.csv").write_text("")
    (tmp_path / "test.csv").write_text("")

    data = load(tmp_path, validation=str(tmp_path / "other.csv"), test=str(tmp_path / "extra.csv"))

    assert (len(data.validation), len(data.test)) == (3, 3)
    alone = load(tmp_path / "train.csv", validation=str(tmp_path / "other.csv"))
    assert (alone.name, len(alone.train), len(alone.validation), alone.test) == ("train.csv", 20, 3, None)
    assert "no validation file" in refusal(DataNotFound, tmp_path / "train.csv", validation="gone.csv")


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_csv(tmp_path / "a.csv", FILMS)

    assert len(load("~/a.csv").train) == 18


@pytest.mark.parametrize(
    "source",
    [
        "/no/such/place",
        "./gone",
        "../gone",
        "~/gone",
        "gone.csv",
        "data/gone.parquet",
        "a\\b",
        "a/b/c/d",
        "x.txt",
    ],
)
def test_a_path_that_does_not_exist_is_not_looked_for_on_the_hub(source, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)

    assert refusal(DataNotFound, source) == f"there is no file or directory {source}"


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/a.csv"])
def test_what_cannot_be_a_path_is_not_found(source):
    assert "there is no file or directory" in refusal(DataNotFound, source)


def test_a_hub_that_cannot_be_asked_is_one_sentence(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    message = refusal(DataNotFound, "no-org/no-such-data")

    assert message.startswith(
        "'no-org/no-such-data' is neither a file or directory here nor could it be had from the hub ("
    )


@pytest.fixture
def hub(monkeypatch):
    known: dict[tuple[str, ...], datasets.DatasetDict] = {}

    def load_dataset(*arguments: str):
        if arguments not in known:
            raise datasets.exceptions.DatasetNotFoundError(
                f"Dataset '{arguments[0]}' doesn't exist.\nReally."
            )
        return known[arguments]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return known


def hub_split(classes: list[int], names: list[str], start: int = 0) -> datasets.Dataset:
    features = datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=names),
            "idx": datasets.Value("int32"),
        }
    )
    sentences = [f"sentence number {start + index}" for index in range(len(classes))]
    columns = {"sentence": sentences, "label": classes, "idx": list(range(len(classes)))}
    return datasets.Dataset.from_dict(columns, features=features)


@pytest.mark.parametrize(
    ("hub_id", "arguments"),
    [
        ("glue/sst2", ("glue", "sst2")),
        ("org/name", ("org/name",)),
        ("imdb", ("imdb",)),
        ("org/name/config", ("org/name", "config")),
    ],
)
def test_a_hub_data_set_keeps_its_class_names(hub, hub_id, arguments):
    names = ["zero", "positive", "negative"]
    hub[arguments] = datasets.DatasetDict(
        train=hub_split([2, 1, 0] * 4, names),
        validation=hub_split([1, 2, -1], names, start=100),
        test=hub_split([-1, -1], names, start=200),
        unsupervised=hub_split([-1], names, start=300),
    )

    data = load(hub_id)

    assert (data.name, data.task, data.labels) == (hub_id, "multiclass", tuple(names))
    assert data.train.labels == [2, 1, 0] * 4
    assert data.validation.labels == [1, 2]
    assert data.test is None
    assert data.notices == (
        "validation: 1 row without a label dropped (at row 3)",
        "test: ignored, since its rows have no labels",
    )


def test_a_hub_data_set_without_validation_is_split(hub):
    hub["imdb",] = datasets.DatasetDict(train=hub_split([0, 1] * 10, ["neg", "pos"]))

    data = load("imdb")

    assert (len(data.train), len(data.validation)) == (18, 2)


def test_a_hub_data_set_without_train_lists_its_splits(hub):
    hub["imdb",] = datasets.DatasetDict(other=hub_split([0, 1], ["neg", "pos"]))

    assert "no split 'train'; it has 'other'" in refusal(DataInvalid, "imdb")


def test_hub_lists_of_classes_are_multilabel(hub):
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "labels": datasets.List(datasets.ClassLabel(names=["joy", "anger", "fear"])),
        }
    )
    rows = {"text": ["a a", "b b", "c c", "d d"], "labels": [[0], [2, 0], [], [1]]}
    hub["go_emotions",] = datasets.DatasetDict(train=datasets.Dataset.from_dict(rows, features=features))

    data = load("go_emotions", validation_fraction=0.3)

    assert (data.task, data.labels) == ("multilabel", ("joy", "anger", "fear"))
    known = dict(zip(rows["text"], [[1, 0, 0], [1, 0, 1], [0, 0, 0], [0, 1, 0]], strict=True))
    assert [known[text] for text in data.train.texts] == data.train.labels


def test_a_directory_here_goes_before_the_hub(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "imdb").mkdir()
    write_csv(tmp_path / "imdb" / "train.csv", FILMS)

    assert load("imdb").labels == ("bad", "good")


def test_a_hub_id_never_reads_a_directory_that_is_a_part_of_it(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    hub["glue", "sst2"] = hub["org/name", "config"] = datasets.DatasetDict(
        train=hub_split([0, 1], ["a", "b"])
    )
    (tmp_path / "glue").mkdir()
    (tmp_path / "org" / "name").mkdir(parents=True)

    refusal(DataNotFound, "glue/sst2")
    assert "a part of the name is a directory here" in refusal(DataNotFound, "org/name/config")


# What is read


def test_texts_are_stripped_and_rows_without_one_dropped(tmp_path):
    texts = [" fine \n", None, "", " \t", "dull", "so-so", "well"]
    path = write_jsonl(tmp_path / "train.jsonl", texts, ["a", "b", "a", "b", "b", None, " "])
    write_jsonl(tmp_path / "validation.jsonl", ["x", None], ["a", "b"])
    write_jsonl(tmp_path / "test.jsonl", ["y", "z"], ["a", None])

    data = load(path.parent)

    assert data.train.texts == ["fine", "dull"]
    assert [notice for notice in data.notices if "dropped" in notice] == [
        "train: 3 rows without a text dropped (at lines 2, 3, 4)",
        "train: 2 rows without a label dropped (at lines 6, 7)",
        "validation: 1 row without a text dropped (at line 2)",
        "test: 1 row without a label dropped (at line 2)",
    ]


def test_a_pair_needs_both_texts(tmp_path):
    header = ("premise", "hypothesis", "label")
    write_csv(tmp_path / "train.csv", [("a", "b", 0), ("a", "", 1), ("", "b", 0), ("c", " d", 1)], header)
    write_csv(tmp_path / "validation.csv", [("a", "b", 0)], header)

    data = load(tmp_path)

    assert data.text_columns == header[:2]
    assert (data.train.texts, data.train.pairs) == (["a", "c"], ["b", "d"])
    assert "train: 2 rows without a text dropped (at lines 3, 4)" in data.notices
    assert "validation: 1 row has a text that is also in train (at line 2)" in data.notices


def test_a_text_that_is_no_string_names_its_line(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["fine", "dull", 7], [0, 1, 0])

    assert "line 3 has 7 in the text column 'text'" in refusal(DataInvalid, path)


def test_half_a_surrogate_pair_is_replaced_and_reported(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["odd \ud83d end", "fine", "dull", "so-so"], [0, 1, 0, 1])

    data = load(path, validation=str(write_csv(tmp_path / "v.csv", [("x", 0)])))

    assert data.train.texts[0] == "odd \ufffd end"
    assert any("half a surrogate pair" in notice and "line 1)" in notice for notice in data.notices)


def test_a_split_without_usable_rows_is_refused(tmp_path):
    write_csv(tmp_path / "train.csv", [("", "a"), ("", "b")])
    assert "train: no row has both a text and a label" in refusal(DataInvalid, tmp_path)
    write_csv(tmp_path / "train.csv", FILMS)
    write_csv(tmp_path / "validation.csv", [("x", "")])
    assert "validation: no row has both a text and a label" in refusal(DataInvalid, tmp_path)


def test_a_test_split_without_labels_is_ignored_with_a_notice(tmp_path):
    write_csv(tmp_path / "train.csv", FILMS)
    for header, rows, reason in [
        (("id", "text"), [(1, "x")], "its rows have no labels"),
        (("text", "label"), [("x", "")], "its rows have no labels"),
        (("text", "label"), [("x", "-1"), ("y", -1)], "all its rows have the label -1"),
    ]:
        write_csv(tmp_path / "test.csv", rows, header)
        data = load(tmp_path)
        assert data.test is None
        assert [notice for notice in data.notices if notice.startswith(f"test: ignored, since {reason}")]


def test_a_validation_file_needs_the_columns_of_train(tmp_path):
    write_csv(tmp_path / "train.csv", FILMS)
    write_csv(tmp_path / "validation.csv", [("x", "good")], ("txt", "label"))

    assert "has no column 'text'; it has 'txt', 'label'" in refusal(ColumnMissing, tmp_path)


def test_duplicates_conflicts_and_overlaps_are_kept_and_reported(tmp_path):
    train = [("a", 0), ("b", 1), ("a", 0), ("a", 1), ("a", 0), ("c", 1)]
    write_csv(tmp_path / "train.csv", train)
    write_csv(tmp_path / "validation.csv", [("a", 0), ("x", 1), ("b", 1)])
    write_csv(tmp_path / "test.csv", [("y", 0), ("c", 1)])

    data = load(tmp_path)

    assert data.train.texts == [text for text, _ in train]
    assert data.notices == (
        "train: 2 duplicate rows (at lines 4, 6)",
        "train: 1 row repeats an earlier text with another label (at line 5)",
        "validation: 2 rows have texts that are also in train (at lines 2, 4)",
        "test: 1 row has a text that is also in train (at line 3)",
    )


# What labels mean


@pytest.mark.parametrize(
    ("labels", "task", "names", "first"),
    [
        (["b", "a", "b", "a"], "binary", ("a", "b"), 1),
        ([1, 0, 1, 0], "binary", ("0", "1"), 1),
        ([1.0, 0.0, 1.0, 0.0], "binary", ("0", "1"), 1),
        (["1.0", "0", "1", "0.0"], "binary", ("0", "1"), 1),
        ([True, False, True, False], "binary", ("false", "true"), 1),
        (["True", "false", "TRUE", "False"], "binary", ("false", "true"), 1),
        ([-1, 1, -1, 1], "binary", ("-1", "1"), 0),
        ([10, 9, 2, 10, 9, 2], "multiclass", ("2", "9", "10"), 2),
        (["10", "9", "2", "10", "9", "2"], "multiclass", ("2", "9", "10"), 2),
        (["02", "2", "02", "2"], "binary", ("02", "2"), 0),
        (["b ", "a", " b", "a"], "binary", ("a", "b"), 1),
        (["nan", "inf", "nan", "inf"], "binary", ("inf", "nan"), 1),
        (["7", "x", "7", "x"], "binary", ("7", "x"), 0),
        ([2.5, 1.0, 0.5, 4], "regression", ("label",), 2.5),
        (["2.5", "1e-1", "-.5", "4"], "regression", ("label",), 2.5),
        ([["b", "a"], ["b"], [], ["c"]], "multilabel", ("a", "b", "c"), [1, 1, 0]),
        ([[10, 9], [9], [], [2]], "multilabel", ("2", "9", "10"), [0, 1, 1]),
        (['["b", "a"]', '["b"]', "[]", '["c"]'], "multilabel", ("a", "b", "c"), [1, 1, 0]),
        (["['b', 'a']", "['b']", "[]", "['c']"], "multilabel", ("a", "b", "c"), [1, 1, 0]),
    ],
)
def test_labels_tell_the_task(tmp_path, labels, task, names, first):
    path = write_jsonl(tmp_path / "train.jsonl", [f"t {number}" for number in range(len(labels))], labels)
    write_jsonl(tmp_path / "validation.jsonl", ["v"], labels[:1])

    data = load(path.parent)

    assert (data.task, data.labels) == (task, names)
    assert data.train.labels[0] == first
    assert data.validation.labels == [first]


def test_a_task_that_is_named_is_used(tmp_path):
    numbers = labelled(tmp_path, [1, 2, 3, 1, 2, 3], task="regression")
    assert (numbers.task, numbers.labels, min(numbers.train.labels)) == ("regression", ("label",), 1.0)
    assert labelled(tmp_path, [1, 2, 1, 2], task="multiclass").task == "multiclass"
    many = labelled(tmp_path, [1, 2, 3, 4, 5, 5], task="multiclass")
    assert many.labels == ("1", "2", "3", "4", "5")
    codes = labelled(tmp_path, [["01", "1"], ["1"], ["01"], []])
    assert codes.labels == ("01", "1")
    strings = labelled(tmp_path, ["b;a", "b", "c", "c;a"], task="multilabel")
    assert strings.labels == ("a", "b", "c")


@pytest.mark.parametrize(
    ("labels", "task", "expected"),
    [
        ([1, 1, 1], "auto", "all 3 rows have the label '1' in column 'label'"),
        (["a", "a"], "auto", "all 2 rows have the label 'a'"),
        ([2.5, 2.5], "auto", "all 2 rows have the value 2.5"),
        ([["a"], ["a"]], "auto", "all 2 rows have the same labels"),
        (
            [1, 2, 3, 4, 5],
            "auto",
            "5 different whole numbers in 5 training rows, which may or may not be classes",
        ),
        ([*range(101)] * 3, "auto", "101 different whole numbers in 303 training rows"),
        (["a", "b", "c", "d", "e"], "auto", "5 different labels in 5 training rows"),
        (["a", "b", "c"] * 2, "binary", "task is 'binary', but column 'label' has 3 labels: 'a', 'b', 'c'"),
        (
            ["a", "b"],
            "regression",
            "task is 'regression', but column 'label' has labels such as 'a' (line 1)",
        ),
        ([True, False], "regression", "task is 'regression', but column 'label' has labels such as True"),
        (
            [0.5, 1.5],
            "binary",
            "task is 'binary', but column 'label' has labels such as 0.5 (line 1); classes",
        ),
        ([0.5, 1.5], "multilabel", "task is 'multilabel'"),
        ([["a"], ["b"]], "binary", "task is 'binary', but column 'label' has lists of labels"),
        (
            [0.5, float("nan"), 1.5],
            "auto",
            "train: line 2 has the label nan, but a finite number was expected",
        ),
        ([0.5, 1.5, float("inf")], "regression", "train: line 3 has the label inf"),
        (["0.5", "1.5", "NaN"], "auto", "train: line 3 has the label NaN, but a finite number was expected"),
        ([1, 2, "x"], "auto", "line 3 has the label 'x' while other rows have numbers"),
        ([1, 2, True], "auto", "line 3 has the label True while other rows have numbers"),
        ([{"a": 1}, {"b": 2}], "auto", "line 1 has the label {'a': 1}, but a word or a number was expected"),
        ([["a"], "b"], "auto", "line 2 has the label 'b', but a list was expected"),
        ([[0, 1, 1], [1, 0, 0]], "auto", "line 1 has the labels [0, 1, 1], where one occurs more than once"),
        ([["a"], [None]], "auto", "line 2 has the labels [None]"),
        (["a;b", "a,b"], "multilabel", "labels in column 'label' are separated by ';' and by ','"),
    ],
)
def test_labels_that_make_no_task_are_refused(tmp_path, labels, task, expected):
    with pytest.raises(LabelsInvalid) as caught:
        labelled(tmp_path, labels, task=task)

    assert expected in str(caught.value)


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize(
    ("train", "other", "expected"),
    [
        (
            ["a", "b"],
            ["a", "c"],
            "line 3 has the label 'c', which is not among those of the training rows: 'a', 'b'",
        ),
        ([0, 1], ["1", "2.5"], "line 3 has the label '2.5', which is not among"),
        ([0.5, 1.5], ["1", "x"], "line 3 has the label 'x', but a finite number was expected"),
        ([0.5, 1.5], ["1", "nan"], "line 3 has the label 'nan', but a finite number was expected"),
        (['["a"]', '["b"]'], ['["a"]', '["a", "c"]'], "line 3 has the label 'c'"),
    ],
)
def test_labels_that_training_does_not_know_are_refused(tmp_path, split, train, other, expected):
    write_csv(tmp_path / "train.csv", [(f"t {label}", label) for label in train])
    write_csv(tmp_path / "validation.csv", [("v", train[0])])
    write_csv(tmp_path / f"{split}.csv", [(f"o {label}", label) for label in other])

    assert f"{split}: {expected}" in refusal(LabelsInvalid, tmp_path)


def test_a_declared_class_without_rows_is_reported(hub):
    hub["org/name",] = datasets.DatasetDict(train=hub_split([0, 1] * 5, ["a", "b", "c"]))

    data = load("org/name")

    assert data.labels == ("a", "b", "c")
    assert "train: no row has the label 'c'" in data.notices


# Which rows


def test_held_out_rows_are_stratified_and_chosen_by_seed(tmp_path):
    path = write_csv(tmp_path / "a.csv", FILMS * 5)

    data = load(path, validation_fraction=0.2)

    assert "validation: 20 of 100 training rows are held out, stratified by label" in data.notices
    assert (data.validation.labels.count(1), data.validation.labels.count(0)) == (12, 8)
    assert sorted(data.train.texts + data.validation.texts) == sorted(text for text, _ in FILMS * 5)
    assert load(path, validation_fraction=0.2) == data
    assert load(path, validation_fraction=0.2, split_seed=1).validation != data.validation


@settings(deadline=None)
@given(
    classes=st.lists(st.integers(0, 4), min_size=2, max_size=60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 100),
)
def test_holding_out_empties_no_class(classes, fraction, seed):
    chosen = held_out_by_class(classes, fraction, seed)

    kept = [number for index, number in enumerate(classes) if index not in set(chosen)]
    most = len(classes) - len(set(classes))
    assert set(kept) == set(classes)
    assert chosen == sorted(set(chosen))
    assert len(chosen) == min(most, max(1, round(len(classes) * fraction)))


def test_shares_of_classes_are_as_exact_as_whole_rows_allow():
    chosen = held_out_by_class([0] * 9 + [1] * 11, 0.25, seed=0)

    assert (sum(index < 9 for index in chosen), len(chosen)) == (2, 5)


def test_a_label_with_one_row_stays_in_train(tmp_path):
    rows = [*FILMS, ("the only odd one", "odd")]

    data = load(write_csv(tmp_path / "a.csv", rows), validation_fraction=0.9)

    assert "the only odd one" in data.train.texts
    assert "train: 1 label with a single row stays out of the held-out rows (at line 22)" in data.notices


def test_too_few_rows_to_hold_out_are_refused(tmp_path):
    path = write_csv(tmp_path / "a.csv", [("a", 0), ("b", 1)])

    assert "leave none to hold out for validation" in refusal(DataInvalid, path)


def test_regression_rows_are_held_out_at_random(tmp_path):
    data = labelled(tmp_path, [number + 0.5 for number in range(20)], validation_fraction=0.25)

    assert (len(data.train), len(data.validation)) == (15, 5)
    assert "validation: 5 of 20 training rows are held out" in data.notices


def test_limits_take_a_sample_in_order(tmp_path):
    write_csv(tmp_path / "train.csv", FILMS)
    write_csv(tmp_path / "validation.csv", FILMS[5:15])
    write_csv(tmp_path / "test.csv", FILMS[5:15])
    spec = DataSpec(source=str(tmp_path))
    everything = load_training_data(spec)

    few = load_training_data(spec, max_train_rows=7, max_eval_rows=4, seed=3)

    assert (len(few.train), len(few.validation), len(few.test)) == (7, 4, 4)
    places = [everything.train.texts.index(text) for text in few.train.texts]
    assert places == sorted(places)
    assert few.train == everything.train.take(places)
    assert few == load_training_data(spec, max_train_rows=7, max_eval_rows=4, seed=3)
    assert few.train != load_training_data(spec, max_train_rows=7, seed=4).train
    assert "train: 7 of 20 rows are used" in few.notices
    assert load_training_data(spec, max_train_rows=20, max_eval_rows=99).sha256 == everything.sha256
    assert few.sha256 != everything.sha256


# The digest


def test_equal_rows_have_an_equal_digest_in_every_format(tmp_path):
    texts, labels = map(list, zip(*FILMS, strict=True))
    numbers = [len(label) for label in labels]
    digests = set()
    for kind, values in (("words", labels), ("numbers", numbers)):
        paths = [
            write_csv(tmp_path / f"{kind}.csv", list(zip(texts, values, strict=True))),
            write_csv(tmp_path / f"{kind}.tsv", list(zip(texts, values, strict=True))),
            write_jsonl(tmp_path / f"{kind}.jsonl", texts, values),
            tmp_path / f"{kind}.parquet",
        ]
        pq.write_table(pa.table({"text": texts, "label": values}), paths[-1])
        found = {load(path).sha256 for path in paths}
        assert len(found) == 1, kind
        digests |= found
    assert len(digests) == 2


def test_the_digest_is_the_same_in_every_version(tmp_path):
    data = load(write_csv(tmp_path / "a.csv", FILMS), validation_fraction=0.2)

    assert data.sha256 == "a1f0e11f9b76072cd471ff6d984af7cd795f88bfde9e8c97f6b94a4976645ba3"


def test_any_change_of_the_rows_changes_the_digest(tmp_path):
    def digest(rows: list[tuple], **spec: object) -> str:
        return load(write_csv(tmp_path / "a.csv", rows), **spec).sha256

    base = digest(FILMS)
    changed = [
        digest([("film", "good"), *FILMS[1:]]),
        digest([(FILMS[0][0], "bad"), *FILMS[1:]]),
        digest([FILMS[1], FILMS[0], *FILMS[2:]]),
        digest(FILMS[1:]),
        digest([(text, label.upper()) for text, label in FILMS]),
        digest(FILMS, split_seed=1),
        digest(FILMS, test=str(write_csv(tmp_path / "test.csv", FILMS[:1]))),
    ]
    assert len({base, *changed}) == 1 + len(changed)
    assert digest(FILMS) == base


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
            st.booleans(),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_random_texts_load_equally_from_every_format(tmp_path_factory, table):
    directory = tmp_path_factory.mktemp("formats")
    rows = [(f"{text}.", "yes" if label else "no") for text, label in table] + [("y", "yes"), ("n", "no")] * 2
    texts, labels = map(list, zip(*rows, strict=True))
    pq.write_table(pa.table({"text": texts, "label": labels}), directory / "a.parquet")

    csv_data = load(write_csv(directory / "a.csv", rows))
    jsonl_data = load(write_jsonl(directory / "a.jsonl", texts, labels))
    parquet_data = load(directory / "a.parquet")

    assert csv_data.train == jsonl_data.train == parquet_data.train
    assert csv_data.validation == jsonl_data.validation == parquet_data.validation
    assert csv_data.sha256 == jsonl_data.sha256 == parquet_data.sha256


# Texts to predict on


def texts_of(path: Path, *columns: str, **spec: str):
    return read_texts(TextsSpec(path=str(path), **spec), columns=columns)


def test_texts_come_with_their_row_id(tmp_path):
    path = write_csv(tmp_path / "a.csv", [("x7", "fine ", "k1"), ("x8", " ", "k2")], ("id", "text", "key"))

    source = texts_of(path, "text")
    assert source.row_id_column == "id"
    assert list(source) == [TextRow("x7", "fine", None), TextRow("x8", None, None)]
    by_key = texts_of(path, "text", row_id="key")
    assert (by_key.row_id_column, [row.row_id for row in by_key]) == ("key", ["k1", "k2"])


def test_rows_without_an_id_are_numbered_from_0(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["fine", None, "dull"], [0, 1, 0])

    source = texts_of(path, "text")

    assert source.row_id_column == "row"
    assert list(source) == [TextRow(0, "fine", None), TextRow(1, None, None), TextRow(2, "dull", None)]


def test_pairs_come_as_pairs(tmp_path):
    path = write_csv(tmp_path / "a.csv", [("a", "b"), ("c", "")], ("premise", "hypothesis"))

    assert list(texts_of(path, "premise", "hypothesis")) == [TextRow(0, "a", "b"), TextRow(1, "c", None)]


def test_texts_are_read_while_the_file_is(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "fine"}\n' * 3000 + "{")
    rows = iter(texts_of(path, "text"))

    assert next(rows) == TextRow(0, "fine", None)
    with pytest.raises(DataInvalid, match="line 3001"):
        list(rows)


def test_notices_on_texts_are_complete_after_each_reading(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("review,stars\n\nso fine a film,1\n")
    source = texts_of(path, "text")

    for _ in range(2):
        assert [row.text for row in source] == ["so fine a film"]
        assert source.notices == [
            "read from 'review', since there is no 'text' that the model was trained on",
            "1 empty line skipped (at line 2)",
        ]


def test_wrong_texts_are_refused(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", ["fine", "dull"], [0, 1], id=["k", None])

    with pytest.raises(DataInvalid, match="line 2 has no 'id'"):
        list(texts_of(path, "text"))
    with pytest.raises(DataInvalid, match="line 1 has 0 in the text column 'label'"):
        list(texts_of(path, "text", text="label"))
    with pytest.raises(ColumnMissing, match="'key'"):
        texts_of(path, "text", row_id="key")
    with pytest.raises(SpecInvalid, match="not a pair"):
        texts_of(path, "text", text_pair="label")
    with pytest.raises(DataNotFound):
        texts_of(tmp_path / "gone.csv", "text")


def test_the_data_side_needs_no_torch_and_the_hub_library_only_for_the_hub(tmp_path):
    import subprocess

    path = write_csv(tmp_path / "a.csv", FILMS)
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'datasets', 'temporalio']))\n"
        "from durabert.bert.data import load_training_data\n"
        "from durabert.specs import DataSpec\n"
        f"print(len(load_training_data(DataSpec(source={str(path)!r})).train))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "18\n", "")
