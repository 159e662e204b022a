"""Predicting with a trained model, on texts and on files."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from durabert.bert import predict as predict_module
from durabert.bert.loop import Stopped, fine_tune
from durabert.bert.predict import Predictor, predict_file
from durabert.errors import DeviceMissing, ModelInvalid, SpecInvalid, TextsInvalid
from durabert.specs import FineTuneConfig, TextsSpec
from tests import tiny


def train_tiny(directory, data, **fields):
    model = tiny.build_model(directory / "base", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    config = FineTuneConfig(
        model=str(model),
        epochs=5,
        batch_size=8,
        learning_rate=3e-3,
        max_length=32,
        precision="fp32",
        **fields,
    )
    fine_tune(config, data, output=directory / "model", report=lambda _: None, should_stop=lambda: False)
    return directory / "model"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    data = tiny.training_data(tiny.sentiments(192), tiny.sentiments(32, seed=1))
    return train_tiny(tmp_path_factory.mktemp("binary"), data)


@pytest.fixture(scope="module")
def predictor(directory):
    return Predictor.load(directory, precision="fp32")


@pytest.fixture(scope="module")
def pair_predictor(tmp_path_factory):
    data = tiny.training_data(tiny.agreements(256), tiny.agreements(32, seed=1))
    return Predictor.load(train_tiny(tmp_path_factory.mktemp("pairs"), data), precision="fp32")


@pytest.fixture(scope="module")
def topic_predictor(tmp_path_factory):
    data = tiny.training_data(
        tiny.topics(256), tiny.topics(32, seed=1), task="multilabel", labels=("good", "bad", "music")
    )
    return Predictor.load(train_tiny(tmp_path_factory.mktemp("topics"), data), precision="fp32")


@pytest.fixture(scope="module")
def degree_predictor(tmp_path_factory):
    data = tiny.training_data(
        tiny.degrees(192), tiny.degrees(32, seed=1), task="regression", labels=("degree",)
    )
    return Predictor.load(train_tiny(tmp_path_factory.mktemp("degrees"), data), precision="fp32")


def from_file(predictor, source, output, *, reports=None, should_stop=lambda: False, **spec):
    return predict_file(
        predictor,
        TextsSpec(path=str(source), **spec),
        Path(output),
        columns=predictor.facts.text_columns,
        report=reports.append if reports is not None else lambda _: None,
        should_stop=should_stop,
    )


def write_texts(path, texts):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text"], *([text] for text in texts)])
    return path


def read_rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_predictions_are_in_the_order_of_the_texts(predictor):
    texts, labels = tiny.sentiments(40, seed=9).texts, tiny.sentiments(40, seed=9).labels
    predictions = predictor.predict(texts)
    right = [
        prediction.label == ("bad", "good")[label]
        for prediction, label in zip(predictions, labels, strict=True)
    ]
    assert sum(right) >= 36
    one_by_one = [predictor.predict([text])[0] for text in texts]
    for alone, together in zip(one_by_one, predictions, strict=True):
        assert together.scores == pytest.approx(alone.scores, abs=1e-5)


def test_a_prediction_has_the_probability_of_each_label(predictor):
    (prediction,) = predictor.predict(["the film was great"])
    assert prediction.label == "good"
    assert prediction.confidence == prediction.scores["good"] == max(prediction.scores.values())
    assert sum(prediction.scores.values()) == pytest.approx(1)
    assert prediction.value is prediction.labels is None


def test_odd_texts_are_predicted(predictor):
    assert len(predictor.predict(["", " ", "great " * 500, "\ud83d", "🙂" * 9])) == 5


def test_no_texts_give_no_predictions(predictor):
    assert predictor.predict([]) == []


def test_pairs_are_predicted_by_both_texts(pair_predictor):
    pairs = tiny.agreements(40, seed=7)
    firsts = [pairs.texts[0]] * 40
    predictions = pair_predictor.predict(firsts, pairs.pairs)
    right = [
        prediction.label == ("bad", "good")[label]
        for prediction, label in zip(predictions, pairs.labels, strict=True)
    ]
    assert sum(right) >= 34


def test_several_labels_can_hold(topic_predictor):
    both, none = topic_predictor.predict(["great music the film", "the film"])
    assert both.labels == ["good", "music"]
    assert none.labels == []
    assert both.label is both.confidence is None
    assert set(both.scores) == {"good", "bad", "music"}


def test_a_regression_predicts_a_number(degree_predictor):
    high, low = degree_predictor.predict(["great good fine the film", "awful bad dull the film"])
    assert high.value > low.value + 1
    assert high.label is high.confidence is None
    assert high.scores == {}


def test_single_texts_do_not_fit_a_model_of_pairs(predictor, pair_predictor):
    with pytest.raises(
        TextsInvalid, match=r"trained on pairs of texts \(text, text2\), but got single texts"
    ):
        pair_predictor.predict(["good"])
    with pytest.raises(TextsInvalid, match=r"trained on single texts \(text\), but got pairs"):
        predictor.predict(["good"], ["bad"])
    with pytest.raises(TextsInvalid, match="2 texts and 1 second texts do not make pairs"):
        pair_predictor.predict(["good", "bad"], ["film"])


def test_usage_says_what_it_ran_on(predictor):
    usage = predictor.usage()
    assert (usage["device"], usage["precision"]) == ("cpu", "fp32")
    assert usage["peak_memory_mib"] > 50


def test_lower_precision_predicts_nearly_the_same(directory, predictor):
    texts = tiny.sentiments(20, seed=5).texts
    exact = predictor.predict(texts)
    rough = Predictor.load(directory, precision="auto").predict(texts)
    for one, other in zip(exact, rough, strict=True):
        assert other.scores == pytest.approx(one.scores, abs=0.05)


def test_weights_that_were_changed_are_refused(directory, tmp_path):
    changed = shutil.copytree(directory, tmp_path / "changed")
    weights = bytearray((changed / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (changed / "model.safetensors").write_bytes(weights)
    with pytest.raises(ModelInvalid, match="are not those that were trained"):
        Predictor.load(changed)


@pytest.mark.parametrize("text", [None, "", "{}", '{"task": "binary"'])
def test_a_directory_without_its_facts_is_refused(directory, tmp_path, text):
    broken = shutil.copytree(directory, tmp_path / "broken")
    (broken / "durabert.json").unlink()
    if text is not None:
        (broken / "durabert.json").write_text(text)
    with pytest.raises(ModelInvalid, match=r"durabert\.json"):
        Predictor.load(broken)


def test_a_missing_device_is_named(directory):
    with pytest.raises(DeviceMissing, match="'cuda:9'"):
        Predictor.load(directory, device="cuda:9")
    with pytest.raises(SpecInvalid, match="fp16"):
        Predictor.load(directory, device="cpu", precision="fp16")


def test_a_file_gives_a_row_for_each_row(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 7)
    texts = tiny.sentiments(40, seed=3).texts
    texts[4] = ""
    texts[20] = "great " * 99
    done = from_file(predictor, write_texts(tmp_path / "in.csv", texts), tmp_path / "out.csv")
    rows = read_rows(tmp_path / "out.csv")
    assert [row["row"] for row in rows] == [str(number) for number in range(40)]
    assert list(rows[0]) == ["row", "label", "confidence", "score_bad", "score_good"]
    assert list(rows[4].values()) == ["4", "", "", "", ""]
    expected = predictor.predict(texts)
    for number, (row, prediction) in enumerate(zip(rows, expected, strict=True)):
        if number != 4:
            assert row["label"] == prediction.label
            assert float(row["score_good"]) == pytest.approx(prediction.scores["good"], abs=1e-5)
    assert (done.rows, done.skipped) == (40, 1)
    assert sum(done.label_counts.values()) == 39
    assert done.label_counts["good"] == sum(row["label"] == "good" for row in rows)
    assert done.sha256 == hashlib.sha256((tmp_path / "out.csv").read_bytes()).hexdigest()
    assert any("1 of 40 texts is longer than max_length 32" in notice for notice in done.notices)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_a_csv_keeps_the_ids_and_odd_characters_of_its_input(predictor, tmp_path):
    source = tmp_path / "in.jsonl"
    rows = [{"id": 'a,"b"\n', "text": "good"}, {"id": "é", "text": None}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    from_file(predictor, source, tmp_path / "out.csv")
    assert [row["id"] for row in read_rows(tmp_path / "out.csv")] == ['a,"b"\n', "é"]


def test_json_lines_hold_objects(predictor, tmp_path):
    source = write_texts(tmp_path / "in.csv", ["good film", "", "bad film"])
    from_file(predictor, source, tmp_path / "out.jsonl")
    first, empty, last = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    (expected,) = predictor.predict(["good film"])
    assert first["row"] == 0
    assert first["scores"] == pytest.approx(expected.scores, abs=1e-6)
    assert first["label"] == "good"
    assert empty == {"row": 1, "label": None, "confidence": None, "scores": None}
    assert last["label"] == "bad"


def test_parquet_has_typed_columns(predictor, tmp_path):
    source = write_texts(tmp_path / "in.csv", ["good film", "", "bad film"])
    from_file(predictor, source, tmp_path / "out.parquet")
    table = parquet.read_table(tmp_path / "out.parquet")
    assert table.schema.field("row").type == pa.int64()
    assert table["label"].to_pylist() == ["good", None, "bad"]
    assert table["score_good"].null_count == 1
    assert table["confidence"].to_pylist()[0] == pytest.approx(table["score_good"].to_pylist()[0])


def test_parquet_keeps_words_as_ids(predictor, tmp_path):
    (tmp_path / "in.csv").write_text("id,text\nx,good\ny,bad\n")
    from_file(predictor, tmp_path / "in.csv", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["id"].to_pylist() == ["x", "y"]


def test_parquet_refuses_ids_that_change_from_numbers_to_words(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 1)
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "good"}\n{"id": "b", "text": "bad"}\n')
    with pytest.raises(TextsInvalid, match="column 'id' mixes numbers and words"):
        from_file(predictor, tmp_path / "in.jsonl", tmp_path / "out.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["in.jsonl"]


def test_files_of_several_labels_and_of_numbers(topic_predictor, degree_predictor, tmp_path):
    source = write_texts(tmp_path / "in.csv", ["great music the film", "the film"])
    done = from_file(topic_predictor, source, tmp_path / "topics.csv")
    assert [row["labels"] for row in read_rows(tmp_path / "topics.csv")] == ["good|music", ""]
    assert done.label_counts == {"good": 1, "bad": 0, "music": 1}
    from_file(topic_predictor, source, tmp_path / "topics.parquet")
    assert parquet.read_table(tmp_path / "topics.parquet")["labels"].to_pylist() == [["good", "music"], []]
    done = from_file(degree_predictor, source, tmp_path / "degrees.jsonl")
    first = json.loads((tmp_path / "degrees.jsonl").read_text().splitlines()[0])
    assert first["value"] == pytest.approx(
        degree_predictor.predict(["great music the film"])[0].value, abs=1e-5
    )
    assert done.label_counts == {}


def test_a_file_of_pairs_skips_rows_without_the_second_text(pair_predictor, tmp_path):
    (tmp_path / "in.csv").write_text("text,text2\nthe bad film,a great story\ngood film,\n,great story\n")
    done = from_file(pair_predictor, tmp_path / "in.csv", tmp_path / "out.csv")
    (expected,) = pair_predictor.predict(["the bad film"], ["a great story"])
    assert [row["label"] for row in read_rows(tmp_path / "out.csv")] == [expected.label, "", ""]
    assert done.skipped == 2


def test_a_column_called_as_the_output_is_renamed(predictor, tmp_path):
    (tmp_path / "in.csv").write_text("label,text\nx,good\n")
    from_file(predictor, tmp_path / "in.csv", tmp_path / "out.csv", row_id="label")
    assert read_rows(tmp_path / "out.csv")[0]["row_id"] == "x"


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("out.txt", r"output '.*out\.txt' should end with \.csv, \.jsonl, \.parquet"),
        ("nowhere/out.csv", r"output directory '.*nowhere' does not exist"),
        ("folder.csv", "is a directory"),
        ("in.csv", "is the input file, which would be lost"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_the_work(predictor, tmp_path, output, message):
    source = write_texts(tmp_path / "in.csv", ["good"])
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(TextsInvalid, match=message):
        from_file(predictor, source, tmp_path / output)
    assert source.read_text() == "text\ngood\n" or source.read_text() == "text\r\ngood\r\n"


def test_a_broken_row_at_the_end_leaves_the_earlier_output_alone(predictor, tmp_path):
    (tmp_path / "out.jsonl").write_text("earlier")
    (tmp_path / "in.jsonl").write_text('{"text": "good"}\n' * 50 + '{"text": ')
    with pytest.raises(Exception, match="line 51"):
        from_file(predictor, tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_text() == "earlier"


def test_a_stop_leaves_the_earlier_output_alone(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 5)
    source = write_texts(tmp_path / "in.csv", ["good"] * 50)
    (tmp_path / "out.csv").write_text("earlier")
    reports = []
    with pytest.raises(Stopped):
        from_file(
            predictor,
            source,
            tmp_path / "out.csv",
            reports=reports,
            should_stop=lambda: reports[-1].phase == "predicting",
        )
    assert (tmp_path / "out.csv").read_text() == "earlier"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv", "out.csv"]


def test_progress_counts_rows(predictor, tmp_path, monkeypatch):
    monkeypatch.setattr(predict_module, "CHUNK_ROWS", 5)
    monkeypatch.setattr("durabert.bert.progress.INTERVAL", 0.0)
    reports = []
    from_file(
        predictor, write_texts(tmp_path / "in.csv", ["good"] * 12), tmp_path / "out.csv", reports=reports
    )
    predicting = [report for report in reports if report.phase == "predicting"]
    assert {report.steps for report in predicting} == {12}
    assert {5, 10, 12} <= {report.step for report in predicting}
    assert predicting[-1].eta_seconds == 0
    assert predicting[-1].examples_per_second > 0
