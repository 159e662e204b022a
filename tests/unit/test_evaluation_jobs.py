"""What an evaluation does inside its process: a trained model, labelled rows, and what is kept of them."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from sklearn.metrics import accuracy_score, f1_score

from durabert.activities import evaluation_jobs, evaluation_planning
from durabert.activities.dataset_jobs import take_snapshot
from durabert.bert.evaluation_tables import read_predictions, read_worst
from durabert.bert.progress import Reporter
from durabert.errors import (
    ColumnMissing,
    DataInvalid,
    LabelsInvalid,
    RunNotFound,
    SnapshotNotFound,
    SpecInvalid,
    TextsInvalid,
    WorkerStopping,
)
from durabert.specs import (
    DataSpec,
    EvaluationPlan,
    EvaluationPlanRequest,
    EvaluationRequest,
    EvaluationResult,
    EvaluationSpec,
)
from durabert.store.blobs import blob_path
from durabert.store.evaluations import PREDICTIONS, WORST, EvaluationStore, manifest_path
from durabert.store.garbage import find_garbage, verify
from durabert.store.objects import open_store
from tests.batches import publish, train_model
from tests.tiny import sentiments

NUM_ROWS = 60
HOW = {"resamples": 100, "precision": "fp32", "device": "cpu"}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return train_model(tmp_path_factory.mktemp("model"))


@dataclass
class Jobs:
    """The jobs of one home, in the process of the test."""

    home: Path
    reports: list = field(default_factory=list)
    stopping: bool = False

    def stop_requested(self) -> bool:
        return self.stopping

    def report(self, _kind: str, body: dict) -> None:
        self.reports.append(body)

    @property
    def objects(self):
        return open_store(None, home=self.home)

    @property
    def store(self) -> EvaluationStore:
        return EvaluationStore(self.objects)

    def evaluate(self, source, *, run="films", **fields) -> EvaluationResult:
        columns = {name: fields.pop(name) for name in ("text", "label") if name in fields}
        request = EvaluationRequest.parse(
            {"run": run, "data": {"source": str(source), **columns}, **HOW, **fields}
        )
        job = {
            "request": request.model_dump(mode="json"), "home": str(self.home),
            "store": str(self.home / "store"), "attempt": 1,
        }  # fmt: skip
        return EvaluationResult.model_validate(evaluation_jobs.evaluate(job, self))

    def plan(self, training: Path, *sets: dict, tasks=("auto",)) -> EvaluationPlan:
        progress = Reporter(lambda _: None, lambda: False)
        taken = take_snapshot(DataSpec(source=str(training)), self.objects, self.home, progress)
        request = EvaluationPlanRequest(
            data=DataSpec(source=str(training)), snapshot=taken.snapshot, tasks=tasks,
            sets=tuple(EvaluationSpec.parse(one) for one in sets),
        )  # fmt: skip
        job = {"request": request.model_dump(mode="json"), "home": str(self.home)}
        return EvaluationPlan.model_validate(
            evaluation_planning.plan({**job, "store": str(self.home / "store")}, self)
        )

    def file(self, result: EvaluationResult, name: str) -> bytes:
        stored = self.store.stored(result.run, result.evaluation)
        return self.store.read(stored, name)


@pytest.fixture
def jobs(tmp_path, model) -> Jobs:
    publish(tmp_path / "home", "films", model)
    return Jobs(tmp_path / "home")


def write_rows(path: Path, rows: list[dict]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return path


def reviews(labels: tuple[str, str] = ("negative", "positive"), *, seed: int = 5) -> list[dict]:
    """Return labelled texts, some with the wrong label, with a column to slice by."""
    split = sentiments(NUM_ROWS, seed=seed)
    return [
        {"text": text, "label": labels[number if row % 7 else 1 - number], "source": ("web", "tv")[row % 2]}
        for row, (text, number) in enumerate(zip(split.texts, split.labels, strict=True))
    ]


@pytest.fixture
def labels(model) -> tuple[str, str]:
    return tuple(json.loads((model / "durabert.json").read_text())["labels"])


@pytest.fixture
def rows(labels) -> list[dict]:
    return reviews(labels)


@pytest.fixture
def data(tmp_path, rows) -> Path:
    return write_rows(tmp_path / "test.csv", rows)


def test_the_metrics_are_those_of_the_predictions_that_are_kept(jobs, data, rows):
    result = jobs.evaluate(data)

    predictions = {one["row"]: one for one in pylist(jobs.file(result, PREDICTIONS))}
    assert list(predictions) == list(range(NUM_ROWS))
    truth = [row["label"] for row in rows]
    assert [one["truth"] for one in predictions.values()] == truth
    predicted = [one["predicted"] for one in predictions.values()]
    assert result.metrics["accuracy"] == pytest.approx(accuracy_score(truth, predicted))
    assert result.metrics["f1_macro"] == pytest.approx(f1_score(truth, predicted, average="macro"))
    assert result.errors == sum(one != other for one, other in zip(truth, predicted, strict=True))
    assert 0 < result.errors < NUM_ROWS / 2
    low, high = result.intervals["accuracy"]
    assert low < result.metrics["accuracy"] < high
    assert (result.rows, result.split, result.metric) == (NUM_ROWS, "train", "accuracy")


def pylist(data: bytes) -> list[dict]:
    return pq.read_table(io.BytesIO(data)).to_pylist()


def test_the_predictions_read_back_are_those_that_were_judged(jobs, data, labels):
    result = jobs.evaluate(data)

    positions, judged = read_predictions(jobs.file(result, PREDICTIONS), "binary", labels)

    assert positions.tolist() == list(range(NUM_ROWS))
    assert (~judged.wrong()).mean() == pytest.approx(result.metrics["accuracy"])
    assert judged.losses.mean() == pytest.approx(result.metrics["loss"])


def test_the_report_has_classes_confusion_calibration_and_slices(jobs, data, rows, labels):
    result = jobs.evaluate(data, slice_by=["source"])

    report = jobs.store.report(jobs.store.stored("films", result.evaluation))
    assert [one.label for one in report.per_class] == list(labels)
    assert [one.support for one in report.per_class] == [
        sum(row["label"] == label for row in rows) for label in labels
    ]
    assert sum(map(sum, report.confusion)) == NUM_ROWS
    assert report.calibration_error == result.calibration_error
    assert sum(one.rows for one in report.reliability) == NUM_ROWS
    assert [(one.column, one.value, one.rows) for one in report.slices] == [
        ("source", "tv", 30), ("source", "web", 30),
    ]  # fmt: skip
    accuracies = [one.metrics["accuracy"] for one in report.slices]
    assert sum(accuracies) / 2 == pytest.approx(result.metrics["accuracy"])


def test_the_worst_errors_come_with_their_texts(jobs, data, rows):
    result = jobs.evaluate(data, worst=3)

    worst = read_worst(jobs.file(result, WORST))

    assert len(worst) == 3
    assert [one["loss"] for one in worst] == sorted((one["loss"] for one in worst), reverse=True)
    for one in worst:
        assert one["text"] == rows[one["row"]]["text"]
        assert one["truth"] != one["predicted"]


def test_the_same_evaluation_is_found_and_not_computed_again(jobs, data, tmp_path, rows):
    first = jobs.evaluate(data)
    jobs.reports.clear()

    again = jobs.evaluate(data)
    moved = jobs.evaluate(write_rows(tmp_path / "renamed.csv", rows))

    assert again == first.model_copy(update={"reused": True})
    assert moved.evaluation == first.evaluation
    assert "predicting" not in {body["phase"] for body in jobs.reports}


@pytest.mark.parametrize(
    "other", [{"seed": 1}, {"slice_by": ["source"]}, {"confidence": 0.9}, {"metrics": ["mcc"]}]
)
def test_other_options_are_another_evaluation(jobs, data, other):
    first, second = jobs.evaluate(data), jobs.evaluate(data, **other)

    assert second.evaluation != first.evaluation
    assert not second.reused


@pytest.mark.parametrize(
    "damage", ["missing blob", "other content", "same size", "manifest", "empty manifest"]
)
def test_what_is_damaged_is_computed_again_and_whole_then(jobs, data, damage):
    first = jobs.evaluate(data)
    stored = jobs.store.stored("films", first.evaluation)
    blob = jobs.home / "store" / blob_path(stored.files[PREDICTIONS])
    manifest = jobs.home / "store" / manifest_path("films", first.evaluation)
    match damage:
        case "missing blob":
            blob.unlink()
        case "other content":
            blob.write_bytes(b"x")
        case "same size":
            blob.write_bytes(bytes(blob.stat().st_size))
        case "manifest":
            manifest.write_text(manifest.read_text().replace("predictions.parquet", "other"))
        case "empty manifest":
            manifest.write_bytes(b"")

    again = jobs.evaluate(data)

    assert not again.reused
    assert again.metrics == first.metrics
    assert jobs.evaluate(data).reused
    assert list(verify(jobs.objects)) == []


def test_garbage_collection_keeps_what_an_evaluation_needs_and_verification_looks_for_it(jobs, data):
    result = jobs.evaluate(data)
    stored = jobs.store.stored("films", result.evaluation)
    needed = {blob_path(digest) for digest in stored.files.values()}

    garbage = {info.path for info in find_garbage(jobs.objects, older_than=timedelta(0)).objects}
    (jobs.home / "store" / blob_path(stored.files[WORST])).unlink()
    findings = list(verify(jobs.objects))

    assert not garbage & needed
    assert [finding.path for finding in findings] == [manifest_path("films", result.evaluation)]
    assert "names worst.parquet" in findings[0].problem


def test_rows_without_text_or_label_are_left_out_and_the_others_keep_their_places(jobs, tmp_path, rows):
    rows[3]["text"], rows[8]["label"] = "", ""

    result = jobs.evaluate(write_rows(tmp_path / "holes.csv", rows), slice_by=["source"])

    assert [one["row"] for one in pylist(jobs.file(result, PREDICTIONS))] == [
        row for row in range(NUM_ROWS) if row not in {3, 8}
    ]
    assert result.rows == NUM_ROWS - 2
    assert any("1 row without a text dropped" in notice for notice in result.notices)


def test_a_split_of_a_snapshot_is_named_as_elsewhere(jobs, data):
    first = jobs.evaluate(data)

    again = jobs.evaluate(f"snapshot:{first.snapshot[:12]}/train")

    assert again.evaluation == first.evaluation
    assert again.reused


def test_the_test_rows_of_a_directory_come_first(jobs, tmp_path, rows):
    for split, part in (("train", rows[:20]), ("validation", rows[20:40]), ("test", rows[40:50])):
        write_rows(tmp_path / f"{split}.csv", part)

    usual = jobs.evaluate(tmp_path)
    asked = jobs.evaluate(tmp_path, split="validation")

    assert (usual.split, usual.rows) == ("test", 10)
    assert (asked.split, asked.rows) == ("validation", 20)


def test_mistakes_are_told_in_one_sentence_and_leave_no_evaluation(jobs, data, tmp_path, rows):
    other = write_rows(tmp_path / "other.csv", [{**row, "label": "neutral"} for row in rows])
    pairs = write_rows(tmp_path / "pairs.csv", [{"sentence1": "a b", "sentence2": "c d", "label": "x"}] * 3)
    mistakes = [
        (
            LabelsInvalid,
            "other.csv: line 2 has the label 'neutral', which is not among those of the",
            {"source": other},
        ),
        (SpecInvalid, "metric is 'pearson', but should be one of accuracy", {"metrics": ["pearson"]}),
        (
            ColumnMissing,
            "has no column 'nowhere'; it has 'text', 'label', 'source'",
            {"slice_by": ["nowhere"]},
        ),
        (DataInvalid, "has no split 'test'; it has 'train'", {"split": "test"}),
        (RunNotFound, "there is no run 'nobody'", {"run": "nobody"}),
        (ColumnMissing, "has no column 'title'", {"text": "title"}),
        (TextsInvalid, "pairs.csv has pairs", {"source": pairs}),
        (SnapshotNotFound, "there is no snapshot 'ffffffff'", {"source": "snapshot:ffffffff/train"}),
    ]
    for error, sentence, fields in mistakes:
        with pytest.raises(error) as caught:
            jobs.evaluate(fields.pop("source", data), **fields)
        assert sentence in str(caught.value)
    assert jobs.store.ids("films") == []


def test_a_stop_leaves_nothing_and_is_handed_over(jobs, data):
    jobs.stopping = True

    with pytest.raises(WorkerStopping):
        jobs.evaluate(data)

    assert jobs.store.ids("films") == []


def test_a_plan_names_rows_and_columns_of_every_set(jobs, data, tmp_path, rows):
    training = write_rows(tmp_path / "training.csv", reviews(("bad", "good")))
    other = write_rows(
        tmp_path / "named.csv",
        [{"title": "x", "text": row["text"], "label": row["label"]} for row in reviews(("bad", "good"))],
    )

    plan = jobs.plan(training, {"data": str(other)}, {"data": str(training), "slice_by": ["source"]})

    first, second = plan.sets
    assert (first.split, first.rows) == ("train", NUM_ROWS)
    assert (first.data.text, first.data.label) == ("text", "label")
    assert first.snapshot != second.snapshot


def test_a_set_that_does_not_fit_is_named(jobs, tmp_path):
    training = write_rows(tmp_path / "training.csv", reviews(("bad", "good")))
    unfit = write_rows(tmp_path / "unfit.csv", reviews(("bad", "excellent"), seed=6))

    with pytest.raises(LabelsInvalid, match=r"evaluation set 2: .* has the label 'excellent'"):
        jobs.plan(training, {"data": str(training)}, {"data": str(unfit)})
    with pytest.raises(SpecInvalid, match="metric is 'mse'"):
        jobs.plan(training, {"data": str(training), "metrics": ["mse"]})
    with pytest.raises(ColumnMissing, match="no column 'nowhere'"):
        jobs.plan(training, {"data": str(training), "slice_by": ["nowhere"]})


def test_training_data_with_splits_are_their_own_evaluation_set(jobs, tmp_path, rows):
    directory = tmp_path / "splits"
    directory.mkdir()
    for split in ("train", "validation"):
        write_rows(directory / f"{split}.csv", rows)

    [planned] = jobs.plan(directory, {}).sets

    assert planned.split == "validation"
    with pytest.raises(DataInvalid, match=r"neither test nor validation rows .* --eval-data"):
        jobs.plan(write_rows(tmp_path / "alone.csv", rows), {})
