"""What a batch does inside its processes: plan, score, commit; once each, whoever comes twice."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from durabert.activities import batch_jobs
from durabert.errors import (
    ArtifactDamaged,
    ColumnMissing,
    DataInvalid,
    DataNotFound,
    RunNotFound,
    RunNotUsable,
    SnapshotNotFound,
    SpecInvalid,
    TextsInvalid,
    WorkerStopping,
)
from durabert.specs import (
    BatchCommit,
    BatchInferenceRequest,
    BatchPlan,
    InferenceRequest,
    RowRange,
    TextsSpec,
)
from tests.batches import contents, ids_in, publish, result_in, train_model, write_input

NUM_ROWS, SHARD_ROWS = 50, 20
WITHOUT_TEXT = (3, 4, 45)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return train_model(tmp_path_factory.mktemp("model"))


@dataclass
class Batch:
    """The jobs of one home, in the process of the test."""

    home: Path
    reports: list = field(default_factory=list)
    stopping: bool = False

    def stop_requested(self) -> bool:
        return self.stopping

    def report(self, _kind: str, body: dict) -> None:
        self.reports.append(body)

    def job(self, request, **more) -> dict:
        return {"request": request.model_dump(mode="json"), "home": str(self.home), **more}

    def request(self, path, output, run="films", **fields) -> BatchInferenceRequest:
        texts = TextsSpec(
            path=str(path), **{key: fields.pop(key) for key in ("text", "row_id") if key in fields}
        )
        options = {"shard_rows": SHARD_ROWS, "precision": "fp32", "device": "cpu", **fields}
        return BatchInferenceRequest(run=run, input=texts, output=str(output), **options)

    def plan(self, *args, **fields) -> BatchPlan:
        request = self.request(*args, **fields)
        answer = batch_jobs.plan(self.job(request, store=str(self.home / "store")), self)
        return BatchPlan.model_validate(answer)

    def score(self, plan: BatchPlan, output, first: int, *, load=None, run="films") -> dict:
        shard = RowRange(
            first_row=first, num_rows=min(plan.shard_rows, plan.rows - first), plan_sha256=plan.plan_sha256
        )
        request = InferenceRequest(
            run=run, input=TextsSpec(path=plan.snapshot), output=str(output), shard=shard, precision="fp32",
            device="cpu",
        )  # fmt: skip
        job = self.job(request, store=str(self.home / "store"), attempt=1)
        return batch_jobs.score(job, self) if load is None else batch_jobs.score_with(load, job, self)

    def commit(self, plan: BatchPlan, output) -> dict:
        request = BatchCommit(output=str(output), plan_sha256=plan.plan_sha256)
        return batch_jobs.commit(self.job(request), self)

    def all(self, path, output, **fields) -> dict:
        plan = self.plan(path, output, **fields)
        for first in range(plan.first_row, plan.rows, plan.shard_rows):
            self.score(plan, output, first)
        return self.commit(plan, output)


@pytest.fixture
def batch(tmp_path, model) -> Batch:
    publish(tmp_path / "home", "films", model)
    return Batch(tmp_path / "home")


@pytest.fixture
def texts(tmp_path) -> Path:
    return write_input(tmp_path / "texts.csv", NUM_ROWS, without_text=WITHOUT_TEXT)


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


def test_each_row_is_predicted_or_has_its_reason(batch, texts, output):
    result = batch.all(texts, output)

    wrong = [f"r{number}" for number in WITHOUT_TEXT]
    assert ids_in(output, "predictions") == [f"r{n}" for n in range(NUM_ROWS) if n not in WITHOUT_TEXT]
    assert ids_in(output, "errors") == wrong
    assert ids_in(output, "errors", "reason") == [
        f"line {number + 2} has no text in the column 'text'" for number in WITHOUT_TEXT
    ]
    assert (result["rows"], result["predicted"], result["errors"], result["shards"]) == (50, 47, 3, 3)
    assert result["notices"] == ["3 rows could not be scored; errors/ has the reason of each"]
    labels = ids_in(output, "predictions", "label")
    assert labels.count("good") == result["label_counts"]["good"] >= 15
    assert labels.count("bad") == result["label_counts"]["bad"] >= 15


def test_the_result_names_every_file_with_its_digest(batch, texts, output):
    result = batch.all(texts, output)

    written = result_in(output)
    files = [part for shard in written["shards"] for part in (shard["predictions"], shard["errors"]) if part]
    there = contents(output)
    assert {file["path"] for file in files} == {path for path in there if path.endswith(".parquet")}
    for file in files:
        assert file["sha256"] == hashlib.sha256(there[file["path"]]).hexdigest()
        assert file["rows"] == pq.read_metadata(output / file["path"]).num_rows
    assert [shard["first_row"] for shard in written["shards"]] == [0, 20, 40]
    assert sum(file["rows"] for file in files) == NUM_ROWS
    assert written["snapshot"] == result["snapshot"]
    assert result["result_sha256"] == hashlib.sha256(there["result.json"]).hexdigest()


def test_all_of_it_again_changes_nothing_and_says_so(batch, texts, output):
    first = batch.all(texts, output)
    before = contents(output)

    plan = batch.plan(texts, output)
    again = batch.all(texts, output, shard_rows=7)

    assert plan.result is not None
    assert plan.result.model_dump(mode="json") == first == again
    assert contents(output) == before


def test_a_shard_that_is_committed_is_not_scored_again(batch, texts, output):
    plan = batch.plan(texts, output)
    first = batch.score(plan, output, 0)

    def load(*_args, **_options):
        raise AssertionError("there is nothing to score")

    again = batch.score(plan, output, 0, load=load)

    assert again["output_sha256"] == first["output_sha256"]
    assert batch.plan(texts, output).first_row == SHARD_ROWS


def test_a_batch_goes_on_in_the_shards_that_it_was_begun_with(batch, texts, output):
    begun = batch.plan(texts, output)
    batch.score(begun, output, 0)

    other = batch.plan(texts, output, shard_rows=5)

    assert other.model_copy(update={"first_row": 0}) == begun
    assert other.first_row == SHARD_ROWS


def test_an_interrupted_batch_has_the_bytes_of_an_undisturbed_one(batch, texts, tmp_path, output):
    batch.all(texts, tmp_path / "calm")

    plan = batch.plan(texts, output)
    batch.score(plan, output, 40)
    batch.stopping = True
    with pytest.raises(WorkerStopping):
        batch.score(plan, output, 0)
    batch.stopping = False
    batch.all(texts, output)

    assert contents(output) == contents(tmp_path / "calm")
    assert list((batch.home / "staging").iterdir()) == []


def test_rows_without_a_column_of_ids_are_numbered_through(batch, tmp_path, output):
    path = tmp_path / "plain.csv"
    path.write_text("text\n" + "the film was great\n" * NUM_ROWS)

    batch.all(path, output)

    assert ids_in(output, "predictions", "row") == list(range(NUM_ROWS))


def test_ids_have_one_type_in_all_shards(batch, tmp_path, output):
    path = tmp_path / "mixed.jsonl"
    ids = [*range(SHARD_ROWS), *(f'"{n}x"' for n in range(SHARD_ROWS, NUM_ROWS))]
    path.write_text("\n".join(f'{{"id": {one}, "text": "the film"}}' for one in ids))

    batch.all(path, output)

    assert ids_in(output, "predictions") == [str(one).strip('"') for one in ids]
    schemas = {str(pq.read_schema(file).remove_metadata()) for file in (output / "predictions").iterdir()}
    assert len(schemas) == 1


def test_a_text_that_is_no_string_is_an_error_of_its_row(batch, tmp_path, output):
    path = tmp_path / "odd.jsonl"
    path.write_text('{"id": 1, "text": "the film"}\n{"id": 2, "text": 7}\n{"id": 3, "text": "was great"}')

    batch.all(path, output)

    assert ids_in(output, "predictions") == [1, 3]
    assert ids_in(output, "errors") == [2]
    assert ids_in(output, "errors", "reason") == [
        "line 2 has 7 in the text column 'text', but a string was expected"
    ]


def test_a_shard_without_a_single_text_is_a_file_without_rows(batch, tmp_path, output):
    path = write_input(tmp_path / "few.csv", 30, without_text=tuple(range(20)))

    result = batch.all(path, output)

    assert ids_in(output, "predictions") == [f"r{number}" for number in range(20, 30)]
    assert (result["predicted"], result["errors"]) == (10, 20)


def test_a_split_of_a_snapshot_is_an_input(batch, texts, tmp_path, output):
    plan = batch.plan(texts, tmp_path / "first")

    batch.all(plan.snapshot, output)

    assert result_in(output)["snapshot"] == plan.snapshot
    assert len(ids_in(output, "predictions")) == NUM_ROWS - len(WITHOUT_TEXT)


def test_an_output_of_another_run_is_refused_with_both_named(batch, texts, output, model):
    publish(batch.home, "books", model)
    batch.all(texts, output)
    before = contents(output)

    with pytest.raises(TextsInvalid, match=r"holds predictions of run 'films' .* not of run 'books'"):
        batch.plan(texts, output, run="books")
    assert contents(output) == before


@pytest.mark.parametrize("changed", [{"precision": "auto"}, {"row_id": "text"}])
def test_an_output_of_another_question_is_refused(batch, texts, output, changed):
    batch.plan(texts, output)

    with pytest.raises(TextsInvalid, match="choose another directory"):
        batch.plan(texts, output, **changed)


def test_an_output_of_other_rows_is_refused_with_both_named(batch, texts, output):
    plan = batch.plan(texts, output)
    write_input(texts, NUM_ROWS + 1)

    with pytest.raises(TextsInvalid, match="not of run 'films'") as caught:
        batch.plan(texts, output)
    assert plan.snapshot[: len("snapshot:") + 12] in str(caught.value)


MISTAKES = [
    ("no such run", {"run": "nobody"}, RunNotFound, "'nobody'"),
    ("no such column", {"text": "txt"}, ColumnMissing, "no column 'txt'"),
    ("no such column of ids", {"row_id": "key"}, ColumnMissing, "no column 'key'"),
    ("no such file", {"path": "missing.csv"}, DataNotFound, "no file"),
    ("no such snapshot", {"path": "snapshot:00000000/train"}, SnapshotNotFound, "'00000000'"),
    ("too many shards", {"shard_rows": 1}, SpecInvalid, "50 shards of 50 rows, but should be at least 5"),
]


@pytest.mark.parametrize(
    ("fields", "kind", "says"), [one[1:] for one in MISTAKES], ids=[one[0] for one in MISTAKES]
)
def test_a_mistake_is_told_and_nothing_is_written(batch, texts, output, monkeypatch, fields, kind, says):
    monkeypatch.setattr("durabert.activities.batch_planning.MAX_SHARDS", 10)
    given = {"path": texts, **fields}

    with pytest.raises(kind, match=says):
        batch.plan(given.pop("path"), output, **given)
    assert not output.exists()


def test_a_row_without_an_id_is_told_before_the_work(batch, tmp_path, output):
    path = tmp_path / "gap.jsonl"
    path.write_text('{"id": 1, "text": "a"}\n{"id": null, "text": "b"}')

    with pytest.raises(DataInvalid, match=r"gap.jsonl: line 2 has no 'id', the column that identifies rows"):
        batch.plan(path, output)
    assert not output.exists()


def test_another_model_under_the_same_name_scores_nothing(batch, texts, output, tmp_path):
    plan = batch.plan(texts, output)
    other = train_model(tmp_path / "other-model")
    (other / "durabert.json").write_text(
        (other / "durabert.json").read_text().replace(plan.model_sha256, "9" * 64)
    )
    shutil.rmtree(batch.home / "runs" / "films")
    publish(batch.home, "films", other)

    with pytest.raises(RunNotUsable, match=f"planned with {plan.model_sha256}"):
        batch.score(plan, output, 0)


def test_a_batch_that_lacks_a_shard_is_not_finished(batch, texts, output):
    plan = batch.plan(texts, output)
    batch.score(plan, output, 0)

    with pytest.raises(ArtifactDamaged, match="lacks the shard 000000000020-000000000039"):
        batch.commit(plan, output)
    assert not (output / "result.json").exists()


def test_rows_of_a_shard_that_are_damaged_in_the_store_are_refused(batch, texts, output):
    plan = batch.plan(texts, output)
    for blob in (batch.home / "store" / "blobs").rglob("*"):
        if blob.is_file() and blob.read_bytes()[:4] == b"PAR1":
            data = bytearray(blob.read_bytes())
            data[20] ^= 1
            blob.write_bytes(bytes(data))

    with pytest.raises(ArtifactDamaged, match="have the digest"):
        batch.score(plan, output, 0)


def test_progress_is_reported(batch, texts, output):
    batch.all(texts, output)

    phases = [report["phase"] for report in batch.reports]
    assert {"loading model", "taking a snapshot", "predicting", "saving"} <= set(phases)
    last = [report for report in batch.reports if report["phase"] == "predicting"][-1]
    assert last["step"] == last["steps"] == 10
