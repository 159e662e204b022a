"""The output of a batch: one owner, every file created once, and nothing of another one touched."""

from __future__ import annotations

import pytest

from durabert.errors import ArtifactDamaged, StoreInvalid, TextsInvalid
from durabert.specs import BytePiece, ParquetPieces, RowRange, ShardFacts, ShardPlan
from durabert.store.batches import BatchOutput
from tests.batches import contents

PLAN = ShardPlan(
    run="films", model_sha256="1" * 64, task="binary", labels=["no", "yes"], max_length=128, precision="auto",
    snapshot="2" * 64, split="train", text_columns=["text"], row_id=None, numbered=True, rows=25,
    shard_rows=10, pieces=ParquetPieces(footer=BytePiece(offset=4, size=10, sha256="3" * 64), groups=[]),
)  # fmt: skip


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def output(directory, tmp_path):
    return BatchOutput.open(str(directory), home=tmp_path)


@pytest.fixture
def plan_sha256(output):
    return output.claim(PLAN)[1]


@pytest.fixture
def shard(plan_sha256):
    return RowRange(first_row=10, num_rows=10, plan_sha256=plan_sha256)


def read_by(shard, *, num_rows=10, first_row=None):
    """Return what stands for reading a file of predictions."""
    facts = ShardFacts(
        plan_sha256=shard.plan_sha256, first_row=shard.first_row if first_row is None else first_row,
        num_rows=shard.num_rows, device="cpu", precision="fp32",
    )  # fmt: skip
    return lambda _data, _path: (facts, num_rows)


def test_the_first_who_claims_an_output_has_it(output):
    other = PLAN.model_copy(update={"run": "other"})
    mine = output.claim(PLAN)

    assert mine[0] == PLAN
    assert output.claim(other) == output.claim(PLAN) == output.plan() == mine
    assert output.planned(mine[1]) == PLAN


def test_a_plan_of_another_digest_is_not_worked_on(output, plan_sha256):
    with pytest.raises(ArtifactDamaged, match="digest 0000"):
        output.planned("0" * 64)


def test_an_output_that_holds_other_things_is_refused(output, directory):
    (directory / "thesis.txt").write_text("years of work")

    with pytest.raises(TextsInvalid, match=r"holds other things, such as 'thesis.txt'"):
        output.plan()


def test_other_things_may_come_into_an_output_later(output, directory, plan_sha256):
    (directory / "README.md").write_text("what this is")

    assert output.plan() == (PLAN, plan_sha256)


def test_a_new_directory_is_nobodys(output, directory, tmp_path):
    assert output.plan() is None
    assert BatchOutput.is_new(str(tmp_path / "later"))
    assert not BatchOutput.is_new(str(directory))
    assert not BatchOutput.is_new("s3://bucket/prefix")


def test_a_file_or_memory_is_no_output(tmp_path):
    (tmp_path / "file").write_text("")

    with pytest.raises(TextsInvalid, match="is a file, but should be a directory"):
        BatchOutput.open(str(tmp_path / "file"), home=tmp_path)
    with pytest.raises(StoreInvalid, match="gone with the process"):
        BatchOutput.open("memory:///x", home=tmp_path)


def test_a_shard_is_committed_once(output, directory, shard):
    first = output.commit(shard, b"predictions", b"errors", read_by(shard, num_rows=9))
    before = contents(directory)
    again = output.commit(shard, b"predictions", b"errors", read_by(shard, num_rows=9))

    assert again == first == output.record(shard)
    assert contents(directory) == before
    assert set(before) == {
        "plan.json",
        "predictions/000000000010-000000000019.parquet",
        "errors/000000000010-000000000019.parquet",
        "shards/000000000010-000000000019.json",
    }
    assert (first.predictions.rows, first.errors.rows) == (9, 1)


def test_predictions_that_are_there_stay_where_another_device_gives_other_bits(output, directory, shard):
    (directory / "predictions").mkdir()
    (directory / "predictions" / "000000000010-000000000019.parquet").write_bytes(b"of the first attempt")

    record = output.commit(shard, b"of the second", None, read_by(shard))

    assert contents(directory)[record.predictions.path] == b"of the first attempt"
    assert output.record(shard) == record


@pytest.mark.parametrize("wrong", [{"num_rows": 9}, {"first_row": 0}])
def test_predictions_of_other_rows_are_not_taken(output, shard, wrong):
    with pytest.raises(ArtifactDamaged, match="other rows than those of its name"):
        output.commit(shard, b"predictions", None, read_by(shard, **wrong))
    assert output.record(shard) is None


def test_rows_are_committed_as_far_as_there_is_no_gap(output, plan_sha256):
    def commit(first, rows):
        shard = RowRange(first_row=first, num_rows=rows, plan_sha256=plan_sha256)
        output.commit(shard, b"x", None, read_by(shard, num_rows=rows))

    assert output.committed_rows(PLAN) == 0
    commit(10, 10)
    assert output.committed_rows(PLAN) == 0
    commit(0, 10)
    assert output.committed_rows(PLAN) == 20
    with pytest.raises(ArtifactDamaged, match="lacks the shard 000000000020-000000000024"):
        list(output.records(PLAN, plan_sha256))
    commit(20, 5)
    assert output.committed_rows(PLAN) == 25
    assert [record.facts.first_row for record in output.records(PLAN, plan_sha256)] == [0, 10, 20]


def test_the_record_of_another_batch_is_not_taken(output, shard):
    output.commit(shard, b"x", None, read_by(shard))

    with pytest.raises(ArtifactDamaged, match="another batch"):
        output.record(shard.model_copy(update={"plan_sha256": "0" * 64}))


def test_a_batch_is_finished_once_and_leftovers_of_the_killed_are_gone(output, directory, plan_sha256):
    leftover = directory / "predictions" / "000000000000-000000000009.parquet#123456789"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half of it")

    output.finish(b"{}")
    output.finish(b"{}")

    assert output.result() == b"{}"
    assert not leftover.exists()
    with pytest.raises(ArtifactDamaged, match=r"result.json .* is there with other content"):
        output.finish(b"{ }")
