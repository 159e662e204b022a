"""Attempts and their checkpoints in a store: whole or absent, kept or dropped, damaged or passed over."""

from __future__ import annotations

import pytest

from durabert.errors import (
    ArtifactDamaged,
    AttemptSuperseded,
    CheckpointNotUsable,
    NameInUse,
    StoreUnavailable,
)
from durabert.specs import CheckpointPolicy
from durabert.specs.durability import CURVE_FILE
from durabert.store.attempts import Attempt, attempts_of
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import open_store


@pytest.fixture
def objects(tmp_path):
    return open_store(str(tmp_path / "store"), home=tmp_path)


def begin(objects, *, attempt=1, execution="here", identity="i", run="run", **policy):
    return Attempt.begin(
        objects, run, identity=identity, execution=execution, temporal_attempt=attempt,
        policy=CheckpointPolicy(**policy), environment={},
    )  # fmt: skip


def commit(attempt, step, *, best=None, shared=b"shared"):
    files = [("a", f"a{step}".encode()), ("b", shared), (CURVE_FILE, f"curve{step}".encode())]
    return attempt.commit(step=step, best_epoch=best, files=files)


def test_a_file_without_content_is_that_of_the_checkpoint_before(objects):
    first = begin(objects)
    before = commit(first, 10)

    after = first.commit(step=20, best_epoch=None, files=[("a", b"new"), ("b", None)])

    assert after.files[1] == before.files[1]
    assert begin(objects, attempt=2).files == {"a": b"new", "b": b"shared"}


def files_below(tmp_path):
    return sorted(path.name for path in (tmp_path / "store/runs/run/files").iterdir())


def test_the_next_attempt_goes_on_from_the_newest_checkpoint(objects):
    first = begin(objects)
    commit(first, 10)
    commit(first, 20)

    second = begin(objects, attempt=2)

    assert second.number == 2
    assert second.resumed.step == 20
    assert second.files == {"a": b"a20", "b": b"shared"}
    assert [one.last_step for one in second.log] == [20, None]
    assert [one.resumed_from for one in second.log] == [None, 20]


def test_a_superseded_attempt_can_add_nothing_and_disturb_nothing(objects):
    stale = begin(objects)
    commit(stale, 10)
    fresh = begin(objects, attempt=2)

    for act in (
        lambda: commit(stale, 20),
        lambda: stale.complete("0" * 64),
        lambda: stale.end("ProcessKilled", "too late"),
    ):
        with pytest.raises(AttemptSuperseded):
            act()
    commit(fresh, 30)

    third = begin(objects, attempt=3)
    assert third.resumed.step == 30
    assert third.passed == []


def test_an_attempt_older_than_the_newest_claim_does_not_begin(objects):
    begin(objects, attempt=5)

    with pytest.raises(AttemptSuperseded):
        begin(objects, attempt=4)


def test_another_spec_cannot_take_a_run_that_has_not_ended(objects):
    first = begin(objects)

    with pytest.raises(NameInUse, match="has not ended"):
        begin(objects, execution="there", identity="other")
    first.end("TrainingDiverged", "no hope")
    assert begin(objects, execution="there", identity="other").resumed is None


def test_a_run_resumed_by_a_new_execution_goes_on(objects):
    commit(begin(objects), 10)

    assert begin(objects, execution="again").resumed.step == 10


@pytest.mark.parametrize("harm", ["truncated", "emptied", "flipped", "missing"])
@pytest.mark.parametrize("name", ["a", "b"])
def test_a_damaged_file_is_named_and_its_checkpoint_passed_over(objects, tmp_path, harm, name):
    first = begin(objects)
    commit(first, 10, shared=b"first")
    newest = commit(first, 20, shared=b"second")
    [digest] = [ref.sha256 for ref in newest.files if ref.name == name]
    file = tmp_path / "store/runs/run/files" / digest
    data = file.read_bytes()
    match harm:
        case "truncated":
            file.write_bytes(data[:-1])
        case "emptied":
            file.write_bytes(b"")
        case "flipped":
            file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
        case "missing":
            file.unlink()

    second = begin(objects, attempt=2)

    assert second.resumed.step == 10
    assert second.files == {"a": b"a10", "b": b"first"}
    [passed] = second.passed
    assert passed.step == 20
    assert f"its file {name}" in str(passed)
    commit(second, 15)
    third = begin(objects, attempt=3)
    assert third.resumed.step == 15
    assert third.passed == []


def test_when_all_checkpoints_are_damaged_the_run_begins_anew(objects, tmp_path):
    first = begin(objects)
    commit(first, 10)
    commit(first, 20)
    for name in files_below(tmp_path):
        (tmp_path / "store/runs/run/files" / name).write_bytes(b"")

    second = begin(objects, attempt=2)

    assert second.resumed is None
    assert [one.step for one in second.passed] == [20, 10]


def test_the_last_two_the_best_and_every_third_are_kept(objects, tmp_path):
    attempt = begin(objects, keep_last=2, keep_every=3)
    for step, best in zip(range(10, 90, 10), [None, 1, 1, 1, 1, 1, 1, 1], strict=True):
        commit(attempt, step, best=best)

    checkpoints = RunCheckpoints(objects, "run")
    kept = checkpoints.kept(checkpoints.journal.read())

    assert [one.step for one in kept] == [20, 30, 60, 70, 80]
    for one in kept:
        checkpoints.read(one)
    curves = 8
    assert len(files_below(tmp_path)) == len(kept) + 1 + curves


def test_a_curve_is_whole_after_resuming_from_an_older_checkpoint(objects, tmp_path):
    first = begin(objects)
    commit(first, 10)
    lost = commit(first, 20)
    (tmp_path / "store/runs/run/files" / lost.files[0].sha256).unlink()
    second = begin(objects, attempt=2)
    commit(second, 18)
    last = commit(second, 25)

    line = RunCheckpoints(objects, "run").line(RunCheckpoints(objects, "run").journal.read(), last)

    assert [one.step for one in line] == [10, 18, 25]


def test_a_checkpoint_is_found_by_its_step(objects):
    first = begin(objects)
    commit(first, 10)
    commit(first, 20)
    checkpoints = RunCheckpoints(objects, "run")

    assert checkpoints.at(10)[0].step == 10
    assert checkpoints.at(None)[0].step == 20
    with pytest.raises(CheckpointNotUsable, match="keeps those of 10, 20"):
        checkpoints.at(15)
    with pytest.raises(CheckpointNotUsable, match="has no checkpoint"):
        RunCheckpoints(objects, "other").at(None)


def test_equal_states_have_equal_digests_whoever_made_them(objects):
    one = commit(begin(objects, run="one"), 10)
    other = begin(objects, run="other")
    other = commit(other, 10)

    assert one.state_sha256 == other.state_sha256


def test_the_journal_tells_what_each_attempt_ended_with(objects):
    first = begin(objects)
    commit(first, 10)
    first.end("WorkerStopping", "told to stop")
    begin(objects, attempt=2)

    told = attempts_of(RunCheckpoints(objects, "run").journal.read())

    assert [(one.number, one.resumed_from, one.last_step, one.ended) for one in told] == [
        (1, None, 10, "WorkerStopping"),
        (2, 10, None, None),
    ]


def test_an_entry_that_names_no_digest_is_refused(objects):
    attempt = begin(objects)
    body = {"ordinal": 1, "step": 1, "base": None, "best_epoch": None, "state_sha256": "", "identity": "i",
            "dropped": [], "files": [{"name": "a", "sha256": "../../../etc/passwd", "size": 1}]}  # fmt: skip
    attempt._append("checkpoint", body)

    with pytest.raises(ArtifactDamaged, match="is no checkpoint"):
        RunCheckpoints(objects, "run").kept(RunCheckpoints(objects, "run").journal.read())


@pytest.mark.parametrize("arrived", [True, False])
def test_a_commit_whose_answer_is_lost_is_settled_by_the_next_one(objects, monkeypatch, arrived):
    attempt = begin(objects)
    commit(attempt, 10)
    create, lost = objects.create, []

    def losing(path, data):
        if not lost:
            lost.append(path)
            if arrived:
                create(path, data)
            raise StoreUnavailable("no answer")
        create(path, data)

    monkeypatch.setattr(objects, "create", losing)
    with pytest.raises(StoreUnavailable):
        commit(attempt, 20)
    commit(attempt, 30)

    record = RunCheckpoints(objects, "run").journal.read()
    assert [entry.body["step"] for entry in record.of_kind("checkpoint")] == [10, 20, 30]
    assert record.damages == []
    assert begin(objects, attempt=2).resumed.step == 30
