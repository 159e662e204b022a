"""Which snapshot a training or a prediction reads, and that taking one needs no torch."""

from __future__ import annotations

import csv

import pytest

from durabert.activities.dataset_jobs import snapshot_directory, snapshot_split, take_snapshot
from durabert.bert.progress import Reporter
from durabert.bert.snapshots import read_snapshot
from durabert.errors import DataInvalid, SnapshotNotFound
from durabert.specs import DataSpec
from durabert.store.objects import open_store
from tests.unit.test_imports import run_without

ROWS = [(f"film number {number}", "ab"[number % 2]) for number in range(10)]
SILENT = Reporter(lambda _: None, lambda: False)


def write_csv(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    return str(path)


@pytest.fixture
def home(tmp_path):
    return tmp_path / "home"


@pytest.fixture
def objects(home):
    return open_store(None, home=home)


@pytest.fixture
def taken(tmp_path, home, objects):
    return take_snapshot(DataSpec(source=write_csv(tmp_path / "a.csv", ROWS)), objects, home, SILENT)


def test_a_source_that_is_a_snapshot_is_not_stored_again(taken, home, objects):
    again = take_snapshot(DataSpec(source=f"snapshot:{taken.snapshot[:8]}"), objects, home, SILENT)

    assert taken.created
    assert again == taken.model_copy(update={"created": False})


def test_files_beside_a_snapshot_make_another_one(taken, tmp_path, home, objects):
    held_out = write_csv(tmp_path / "v.csv", ROWS[:3])
    spec = DataSpec(source=f"snapshot:{taken.snapshot}", validation=held_out)

    other = take_snapshot(spec, objects, home, SILENT)

    assert other.rows == {"train": 10, "validation": 3}
    assert other.created
    assert snapshot_directory(spec, None, objects, home, SILENT).name == other.snapshot
    assert snapshot_directory(spec, taken.snapshot, objects, home, SILENT).name == taken.snapshot


def test_a_training_reads_its_source_if_nothing_names_a_snapshot(tmp_path, home, objects):
    spec = DataSpec(source=write_csv(tmp_path / "a.csv", ROWS))

    assert snapshot_directory(spec, None, objects, home, SILENT) is None


def test_a_training_on_a_named_snapshot_reads_it(taken, home, objects):
    spec = DataSpec(source=f"snapshot:{taken.snapshot[:12]}")

    directory = snapshot_directory(spec, None, objects, home, SILENT)

    assert read_snapshot(directory).id == taken.snapshot


def test_a_prediction_reads_a_split_of_a_snapshot(taken, home, objects):
    source = snapshot_split(f"snapshot:{taken.snapshot[:8]}/train", objects, home)

    assert [record.fields["text"] for record in source] == [text for text, _ in ROWS]
    assert source.name.endswith("a.csv")
    assert snapshot_split("a.csv", objects, home) is None


@pytest.mark.parametrize("split", ["", "/", "/test", "/train/more", "/../train"])
def test_a_split_that_is_not_there_is_one_sentence(split, taken, home, objects):
    with pytest.raises(DataInvalid, match=r"expected snapshot:ID/SPLIT, one of 'train'"):
        snapshot_split(f"snapshot:{taken.snapshot}{split}", objects, home)


@pytest.mark.parametrize("name", ["snapshot:", "snapshot:00000000", "snapshot:../../x/train"])
def test_a_snapshot_that_is_not_there_is_one_sentence(name, home, objects):
    with pytest.raises(SnapshotNotFound):
        snapshot_split(name, objects, home)
    with pytest.raises(SnapshotNotFound):
        take_snapshot(DataSpec(source=name), objects, home, SILENT)


@pytest.mark.parametrize("module", ["durabert.activities.dataset_jobs", "durabert.cli.data"])
def test_taking_a_snapshot_needs_no_torch(module):
    done = run_without("torch", code=f"import {module}, durabert.bert.snapshots, durabert.bert.snapshot_diff")

    assert done.returncode == 0, done.stderr
