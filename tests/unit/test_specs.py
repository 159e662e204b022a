"""What a person writes is checked at once, and told in one sentence."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from durabert.errors import NameInvalid, SpecInvalid
from durabert.specs import (
    BatchInferenceRequest,
    DataSpec,
    ExperimentSpec,
    FineTuneConfig,
    InferenceRequest,
    RowRange,
    TextsSpec,
    checked_name,
    checked_run,
    experiment_from_toml,
)
from durabert.specs.shards import is_directory


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"epoch": 3}, "unknown field 'epoch'; did you mean 'epochs'?"),
        ({"learning_rat": 1}, "unknown field 'learning_rat'; did you mean 'learning_rate'?"),
        ({"batch_size": 0}, "batch_size is 0, but should be greater than or equal to 1"),
        ({"learning_rate": float("nan")}, "learning_rate is nan, but should be a finite number"),
        ({"learning_rate": -1e-5}, "learning_rate is -1e-05, but should be greater than 0"),
        ({"learning_rate": "fast"}, "learning_rate is 'fast', but should be a valid number"),
        ({"epochs": 2.5}, "epochs is 2.5, but should be a valid integer"),
        ({"precision": "int8"}, "precision is 'int8', but should be 'auto', 'fp32', 'bf16' or 'fp16'"),
        ({"device": "gpu"}, "device is 'gpu', but should be auto, cpu, mps, cuda or cuda:N"),
        ({"device": "cuda:999"}, "device is 'cuda:999', but should be auto"),
        ({"model": ""}, "model is '', but should have at least 1 character"),
        ({"class_weights": 3}, "class_weights is 3, but should be 'balanced' or be an object"),
        ({"name": "a/b"}, "configuration name 'a/b' is not allowed"),
        ({"gradient_accumulation": 32}, "gradient_accumulation is 32, but should be at most batch_size, 16"),
        ({"class_weights": {"yes": -1}}, "class_weights['yes'] is -1.0, but should be a positive number"),
    ],
)
def test_a_wrong_configuration_is_one_sentence_with_the_value(fields, sentence):
    with pytest.raises(SpecInvalid) as caught:
        FineTuneConfig.parse(fields)

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["", "..", "../a", "a/b", "a b", "a" * 101, "-a", "a.b", "ä", "a\n", "a\0"])
def test_unsafe_names_are_refused(name):
    with pytest.raises(NameInvalid):
        checked_name(name)
    with pytest.raises(SpecInvalid, match="name"):
        ExperimentSpec.parse({"name": name, "data": {"source": "x"}})


@pytest.mark.parametrize("run", ["a.b.c", "a.", ".a", "a..b", "a./b", "../a.b"])
def test_a_run_is_an_experiment_and_at_most_one_configuration(run):
    with pytest.raises(NameInvalid):
        checked_run(run)


@given(st.text(max_size=110))
def test_an_accepted_run_name_is_one_path_segment(text):
    try:
        checked_run(text)
    except NameInvalid:
        return
    assert "/" not in text
    assert ".." not in text
    assert text.isascii()
    assert len(text) <= 201


def test_runs_are_numbered_or_named():
    data = DataSpec(source="x")

    assert ExperimentSpec(name="a", data=data).run_names() == ["a"]
    assert ExperimentSpec(
        name="a", data=data, runs=(FineTuneConfig(name="b"), FineTuneConfig())
    ).run_names() == [
        "a.b",
        "a.2",
    ]


def test_two_runs_of_one_name_are_refused():
    with pytest.raises(SpecInvalid, match=r"two runs have the name 'a.b'"):
        ExperimentSpec.parse({"name": "a", "data": {"source": "x"}, "runs": [{"name": "b"}, {"name": "b"}]})


def test_equal_experiments_have_equal_digests_whatever_was_left_to_defaults():
    data = DataSpec(source="x")

    implicit = ExperimentSpec(name="a", data=data)
    explicit = ExperimentSpec(name="a", data=data, runs=(FineTuneConfig(epochs=3, seed=42),))
    other = ExperimentSpec(name="a", data=data, runs=(FineTuneConfig(epochs=4),))

    assert implicit.digest() == explicit.digest()
    assert implicit.digest() != other.digest()


def test_toml_defaults_are_shared_by_all_runs():
    spec = experiment_from_toml(
        {
            "name": "a",
            "data": "x.csv",
            "defaults": {"epochs": 2},
            "runs": [{"seed": 1}, {"seed": 2, "epochs": 5}],
        }
    )

    assert [(run.epochs, run.seed) for run in spec.runs] == [(2, 1), (5, 2)]
    assert spec.data.source == "x.csv"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"texts": []}, "the list of texts is empty"),
        ({"texts": ["a"] * 1001}, "1001 texts are too many for one request (at most 1000)"),
        ({"texts": ["a" * 300_000]}, "the texts have 300,000 bytes"),
        ({"texts": ["a"], "input": {"path": "x.csv"}}, "give texts or an input file, not both"),
        ({"input": {"path": "x.csv"}}, "predictions of an input file need an output file"),
        ({"texts": ["a"], "run": "../x"}, "name '../x' is not allowed"),
    ],
)
def test_a_wrong_prediction_request_is_one_sentence(fields, sentence):
    with pytest.raises(SpecInvalid) as caught:
        InferenceRequest.parse({"run": "a", **fields})

    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("output", "is_one"),
    [
        ("predictions", True), ("a/b", True), ("out.csv/", True), ("s3://bucket/a.csv", True),
        ("v1.02", True), ("..", True), ("o.csv", False), ("o.jsonl", False), ("a/o.parquet", False),
        ("o.xml", False), ("./x.v2", False),
    ],
)  # fmt: skip
def test_a_name_with_a_suffix_is_that_of_a_file(output, is_one):
    assert is_directory(output) is is_one


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"shard_rows": 0}, "shard_rows is 0, but should be greater than or equal to 1"),
        ({"shard_rows": 250_001}, "shard_rows is 250001, but should be less than or equal to 250000"),
        ({"concurrency": 0}, "concurrency is 0, but should be greater than or equal to 1"),
        ({"concurrency": 65}, "concurrency is 65, but should be less than or equal to 64"),
        ({"output": "o.xml"}, "output is 'o.xml', but should be a directory; one of that name is 'o.xml/'"),
        ({"output": ""}, "output is '', but should have at least 1 character"),
        ({"shards": 3}, "unknown field 'shards'"),
    ],
)
def test_a_wrong_batch_is_one_sentence_with_the_value(fields, sentence):
    with pytest.raises(SpecInvalid) as caught:
        BatchInferenceRequest.parse({"run": "a", "input": {"path": "x.csv"}, "output": "out", **fields})

    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_id_of_a_batch_is_that_of_its_predictions():
    request = BatchInferenceRequest(run="a.b", input=TextsSpec(path="/x.csv"), output="/out")
    same = {"shard_rows": 7, "concurrency": 9, "device": "cpu"}
    other = [
        {"run": "a"}, {"input": TextsSpec(path="/y.csv")}, {"input": TextsSpec(path="/x.csv", text="t")},
        {"output": "/out2"}, {"precision": "fp32"},
    ]  # fmt: skip

    assert request.model_copy(update=same).batch_id() == request.batch_id()
    assert len({request.model_copy(update=one).batch_id() for one in [{}, *other]}) == len(other) + 1
    assert re.fullmatch(r"batch:a\.b:[0-9a-f]{12}", request.batch_id())


def test_a_shard_goes_to_a_directory():
    shard = RowRange(first_row=0, num_rows=1, plan_sha256="1" * 64)

    InferenceRequest(run="a", input=TextsSpec(path="x"), output="out", shard=shard)
    with pytest.raises(SpecInvalid, match="shards go to a directory"):
        InferenceRequest.parse({"run": "a", "input": {"path": "x"}, "output": "o.csv", "shard": shard})
    with pytest.raises(SpecInvalid, match="only an input has shards"):
        InferenceRequest.parse({"run": "a", "texts": ["x"], "shard": shard})
