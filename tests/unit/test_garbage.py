"""Garbage collection deletes what nothing leads to, nothing else; verification names what is damaged."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from durabert.cli.app import app
from durabert.errors import StoreInvalid
from durabert.specs import DataSpec, FineTuneConfig, FineTuneRequest
from durabert.store.blobs import Blobs, blob_path
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.garbage import delete, find_garbage, verify
from durabert.store.objects import open_store
from durabert.store.results import ResultStore
from durabert.store.snapshots import SnapshotStore
from tests.unit.test_attempts import begin, commit
from tests.workflow.conftest import result_of

SNAPSHOT = "5" * 64
OLD = timedelta(days=2)


@pytest.fixture
def objects(tmp_path):
    return open_store(None, home=tmp_path)


@pytest.fixture
def snapshot(objects, tmp_path):
    directory = tmp_path / "snapshot"
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")
    (directory / "train.parquet").write_bytes(b"rows")
    SnapshotStore(objects, tmp_path / "cache").commit(SNAPSHOT, directory)
    return SNAPSHOT


def a_run(objects, run="run", *, end=True):
    """A run with three checkpoints of which one is kept, and with a file that no checkpoint names."""
    attempt = begin(objects, run=run, keep_last=1)
    for step in (10, 20, 30):
        commit(attempt, step)
    objects.write(f"runs/{run}/files/{'a' * 64}", b"of a commit that failed")
    if end:
        attempt.end("RunCancelled", "cancelled")
    return attempt


def age(tmp_path, by=OLD):
    """Make everything in the store older, or what is given."""
    then = (datetime.now(UTC) - by).timestamp()
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (then, then))


def paths(garbage):
    return [info.path for info in garbage.objects]


def test_what_something_leads_to_is_kept_and_the_rest_is_deleted(objects, snapshot, tmp_path):
    a_run(objects)
    orphan = Blobs(objects).put(b"nobody names it")
    everything = {info.path for top in ("blobs", "runs", "snapshots") for info in objects.list(top)}
    garbage = {blob_path(orphan), f"runs/run/files/{'a' * 64}"}
    age(tmp_path)

    found = find_garbage(objects)
    assert set(paths(found)) == garbage
    assert found.problems == []
    delete(objects, found)

    left = {info.path for top in ("blobs", "runs", "snapshots") for info in objects.list(top)}
    assert left == everything - garbage
    SnapshotStore(objects, tmp_path / "cache").verify(snapshot)
    record = RunCheckpoints(objects, "run").journal.read()
    [kept] = RunCheckpoints(objects, "run").kept(record)
    assert RunCheckpoints(objects, "run").read(kept) == {"a": b"a30", "b": b"shared"}
    assert list(verify(objects)) == []


def test_what_is_young_is_left_alone(objects):
    a_run(objects)
    Blobs(objects).put(b"its manifest is on its way")

    assert find_garbage(objects).objects == []
    assert len(find_garbage(objects, older_than=timedelta(0)).objects) == 2


def test_what_is_written_anew_while_garbage_is_looked_for_stays(objects, tmp_path):
    digest = Blobs(objects).put(b"nobody names it")
    age(tmp_path)
    found = find_garbage(objects)
    assert paths(found) == [blob_path(digest)]

    Blobs(objects).put(b"nobody names it")
    delete(objects, found)

    assert Blobs(objects).get(digest) == b"nobody names it"


def test_nothing_of_a_running_run_is_touched(objects, tmp_path):
    a_run(objects, end=False)
    age(tmp_path)

    assert find_garbage(objects).objects == []
    with pytest.raises(StoreInvalid, match="run 'run' has not ended"):
        find_garbage(objects, older_than=timedelta(hours=1))


def test_the_model_of_a_run_that_is_about_to_have_a_result_is_kept(objects):
    attempt = a_run(objects, end=False)
    attempt.complete("0" * 64)

    with pytest.raises(StoreInvalid, match="has not ended"):
        find_garbage(objects, older_than=timedelta(0))


@pytest.mark.parametrize("damage", ["missing", "bits"])
def test_nothing_of_a_run_with_a_damaged_journal_is_deleted(objects, tmp_path, damage):
    a_run(objects)
    a_run(objects, "other")
    entry = "runs/run/journal/00000003.json"
    objects.delete([entry]) if damage == "missing" else objects.write(entry, b"{}")
    age(tmp_path)

    found = find_garbage(objects)

    assert paths(found) == [f"runs/other/files/{'a' * 64}"]
    [problem] = found.problems
    assert "entry 3" in problem
    assert problem.endswith("nothing of run 'run' is deleted")
    assert entry in [finding.path for finding in verify(objects)]


@pytest.mark.parametrize("path", [f"snapshots/{SNAPSHOT}/manifest.json", "runs/run/result.json"])
def test_no_blob_is_deleted_while_what_names_blobs_is_damaged(objects, snapshot, tmp_path, path):
    a_run(objects)
    Blobs(objects).put(b"nobody names it")
    objects.write(path, b"{")
    age(tmp_path)

    found = find_garbage(objects)

    assert paths(found) == [f"runs/run/files/{'a' * 64}"]
    [problem] = found.problems
    assert problem.endswith("no blob is deleted")
    assert any(finding.path in path for finding in verify(objects))


def test_what_killed_writers_left_is_found(objects, tmp_path):
    objects.write("runs/x", b"")
    left = tmp_path / "store" / "runs" / "y#12"
    left.write_bytes(b"half")
    objects.write("probe/abc", b"durabert")
    age(tmp_path)

    found = find_garbage(objects)
    delete(objects, found)

    assert found.size == 12
    assert not left.exists()
    assert list(objects.list("probe")) == []


@pytest.mark.parametrize("damage", ["other", "missing"])
def test_each_object_that_is_damaged_or_missing_is_named(objects, snapshot, tmp_path, damage):
    a_run(objects)
    objects.delete([f"runs/run/files/{'a' * 64}"])
    assert list(verify(objects)) == []
    named = [info.path for info in objects.list("blobs")]
    named += [info.path for info in objects.list("runs/run/files")]
    assert len(named) == 2 + 5

    for path in named:
        data = objects.read(path)
        objects.delete([path]) if damage == "missing" else objects.write(path, b"x")
        [finding] = verify(objects)
        assert path.rpartition("/")[2] in finding.path + finding.problem
        objects.write(path, data)


def test_what_is_published_during_verification_is_not_missing(objects, tmp_path):
    a_run(objects)
    objects.delete([f"runs/run/files/{'a' * 64}"])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(b"weights")
    results = ResultStore(objects)
    request = FineTuneRequest(
        run="run", experiment="e", data=DataSpec(source="a.csv"), config=FineTuneConfig()
    )
    published = []

    def publish(done, total):
        if not published:
            published.append(results.upload(tmp_path / "model"))
            results.publish(result_of(request), published[0])

    findings = list(verify(objects, report=publish))

    assert results.result("run").files == published[0]
    assert findings == []


def test_the_commands_say_what_they_did(objects, tmp_path, monkeypatch):
    monkeypatch.setenv("DURABERT_HOME", str(tmp_path))
    a_run(objects)
    age(tmp_path)

    def said(*arguments, exit_code=0):
        done = CliRunner().invoke(app, ["store", *arguments, "--json"])
        assert done.exit_code == exit_code, done.output
        return [json.loads(line) for line in done.stdout.splitlines()]

    [finding] = said("verify", exit_code=1)
    assert finding["path"] == f"runs/run/files/{'a' * 64}"
    [would] = said("gc", "--dry-run")
    [did] = said("gc")
    [again] = said("gc")
    assert (would["objects"], did["objects"], again["objects"]) == (1, 1, 0)
    assert (would["deleted"], did["deleted"]) == (False, True)
    assert said("verify") == []
    [shown] = said("show")
    assert (shown["runs"], shown["checkpoint_files"], shown["conditional_writes"]) == (1, 5, True)
    done = CliRunner().invoke(app, ["store", "gc", "--older-than", "nan"])
    assert "--older-than is 'nan'" in str(done.exception)
