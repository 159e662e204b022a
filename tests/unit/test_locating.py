"""A worker runs in another directory: paths are made absolute, and what is not there is told."""

from __future__ import annotations

import pytest

from durabert.client.locating import located, located_batch, located_request
from durabert.errors import DataInvalid, DataNotFound, ModelInvalid, ModelNotFound, TextsInvalid
from durabert.specs import (
    BatchInferenceRequest,
    DataSpec,
    ExperimentSpec,
    FineTuneConfig,
    InferenceRequest,
    TextsSpec,
)


@pytest.fixture(autouse=True)
def directory(tmp_path, monkeypatch):
    (tmp_path / "reviews.csv").write_text("text,label\n")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path.resolve()


def experiment(source: str = "reviews.csv", *models: str) -> ExperimentSpec:
    return ExperimentSpec(
        name="a",
        data=DataSpec(source=source),
        runs=tuple(FineTuneConfig(model=model) for model in models or ["mine"]),
    )


@pytest.mark.parametrize("here", [True, False])
def test_relative_paths_of_data_and_models_become_absolute(directory, here):
    spec = located(experiment("reviews.csv", "mine", "./mine"), here=here)

    assert spec.data.source == str(directory / "reviews.csv")
    assert [config.model for config in spec.runs] == [str(directory / "mine")] * 2


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize("model", ["minilm", "roberta-base", "no-one/bert"])
def test_names_that_are_no_paths_stay(here, model):
    assert located(experiment("reviews.csv", model), here=here).runs[0].model == model
    assert located(experiment("glue/sst2"), here=here).data.source == "glue/sst2"


def test_the_known_model_is_not_taken_for_a_directory(directory):
    (directory / "minilm").mkdir()

    assert located(experiment("reviews.csv", "minilm"), here=True).runs[0].model == "minilm"


@pytest.mark.parametrize(
    ("source", "model", "error"),
    [
        ("missing.csv", "mine", DataNotFound),
        ("./missing", "mine", DataNotFound),
        ("empty.csv", "mine", DataInvalid),
        ("a\0.csv", "mine", DataNotFound),
        ("~no-such-user/a.csv", "mine", DataNotFound),
        ("loop.csv", "mine", DataNotFound),
        ("reviews.csv", "./missing", ModelNotFound),
        ("reviews.csv", "/missing", ModelNotFound),
        ("reviews.csv", "reviews.csv", ModelInvalid),
    ],
)
def test_only_where_the_worker_is_here_a_path_is_refused(directory, source, model, error):
    (directory / "loop.csv").symlink_to("loop.csv")

    with pytest.raises(error):
        located(experiment(source, model), here=True)
    located(experiment(source, model), here=False)


def prediction(source: str, output: str) -> InferenceRequest:
    return InferenceRequest.parse({"run": "a", "input": {"path": source}, "output": output})


def test_paths_of_a_prediction_become_absolute(directory):
    request = located_request(prediction("reviews.csv", "out.csv"), here=True)

    assert request.input is not None
    assert request.input.path == str(directory / "reviews.csv")
    assert request.output == str(directory / "out.csv")


@pytest.mark.parametrize(
    ("source", "output", "error"),
    [
        ("missing.csv", "out.csv", DataNotFound),
        ("empty.csv", "out.csv", DataInvalid),
        ("mine", "out.csv", DataInvalid),
        ("reviews.csv", "missing/out.csv", TextsInvalid),
        ("reviews.csv", "mine.csv", TextsInvalid),
        ("reviews.csv", "reviews.csv", TextsInvalid),
        ("reviews.csv", "link.csv", TextsInvalid),
    ],
)
def test_only_where_the_worker_is_here_a_prediction_is_refused(directory, source, output, error):
    (directory / "mine.csv").mkdir()
    (directory / "link.csv").symlink_to("reviews.csv")

    with pytest.raises(error):
        located_request(prediction(source, output), here=True)
    located_request(prediction(source, output), here=False)


def batch(source: str, output: str) -> BatchInferenceRequest:
    return BatchInferenceRequest(run="a", input=TextsSpec(path=source), output=output)


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(
    ("output", "located_at"),
    [
        ("out", "{here}/out"), ("./out/", "{here}/out"), ("mine", "{here}/mine"),
        ("out.csv/", "{here}/out.csv/"),
        ("s3://bucket/a/", "s3://bucket/a"), ("s3://bucket/a.csv", "s3://bucket/a.csv"), ("s3://", "s3://"),
    ],
)  # fmt: skip
def test_the_directory_of_a_batch_becomes_absolute_and_a_url_stays(directory, here, output, located_at):
    found = located_batch(batch("reviews.csv", output), here=here)

    assert found.output == located_at.format(here=directory)
    assert found.input.path == str(directory / "reviews.csv")
    assert BatchInferenceRequest.parse(found.model_dump()) == found


def test_the_name_of_a_snapshot_stays(directory):
    assert located_batch(batch("snapshot:01234567/train", "out"), here=True).input.path.startswith(
        "snapshot:"
    )


@pytest.mark.parametrize(
    ("source", "output", "error"),
    [
        ("missing.csv", "out", DataNotFound), ("empty.csv", "out", DataInvalid), ("mine", "out", DataInvalid),
        ("reviews.csv", "missing/out", TextsInvalid), ("reviews.csv", "reviews.csv/", TextsInvalid),
    ],
)  # fmt: skip
def test_only_where_the_worker_is_here_a_batch_is_refused(source, output, error):
    with pytest.raises(error):
        located_batch(batch(source, output), here=True)
    located_batch(batch(source, output), here=False)
