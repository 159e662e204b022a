"""TensorBoard gets each value once, whatever happened to the run or to who wrote before."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from durabert.errors import OutputInUse
from durabert.trackers.feed import feed_of
from durabert.trackers.tensorboard import TensorBoard
from tests.recorded import made_run

SERIES = {
    "train/loss",
    "train/learning_rate",
    "train/examples_per_second",
    "validation/loss",
    "validation/accuracy",
    "test/loss",
    "test/accuracy",
}


@pytest.fixture
def run():
    return made_run("films", steps=60, deaths=2)


def until(run, step):
    """Return the run as it was when its newest checkpoint was of that step."""
    record = run.record
    epochs = [epoch for epoch in record.epochs if epoch.step <= step]
    earlier = replace(
        record, points=record.points[:step], times=record.times[:step], epochs=epochs, result=None
    )
    return replace(run, status="running", record=earlier)


def read(directory):
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    return found


def steps_of(directory, name):
    return [event.step for event in read(directory).Scalars(name)]


def sync(run, directory):
    return TensorBoard(directory).sync(feed_of(run, "films"))


def test_every_value_is_there_with_its_step_and_its_time(run, tmp_path):
    added = sync(run, tmp_path)

    found = read(tmp_path / "films")
    losses = found.Scalars("train/loss")
    assert set(found.Tags()["scalars"]) == SERIES
    assert added == 60 * 3 + 3 * 2 + 2
    assert [event.value for event in losses] == pytest.approx([point.loss for point in run.record.points])
    assert losses[0].wall_time == pytest.approx(run.record.times[0].timestamp())


def test_asked_again_it_adds_nothing_and_writes_no_file(run, tmp_path):
    sync(run, tmp_path)
    files = sorted((tmp_path / "films").iterdir())

    assert sync(run, tmp_path) == 0
    assert sorted((tmp_path / "films").iterdir()) == files


def test_what_came_since_is_added_without_a_gap_or_a_double_point(run, tmp_path):
    for step in (15, 15, 40):
        sync(until(run, step), tmp_path)
    sync(run, tmp_path)

    assert steps_of(tmp_path / "films", "train/loss") == list(range(1, 61))
    assert steps_of(tmp_path / "films", "validation/accuracy") == [20, 40, 60]


def test_what_a_killed_writer_left_torn_is_made_good(run, tmp_path):
    sync(until(run, 40), tmp_path)
    [file] = (tmp_path / "films").iterdir()
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    sync(run, tmp_path)

    assert sorted(steps_of(tmp_path / "films", "train/loss")) == list(range(1, 61))


def test_a_run_that_ended_is_closed_with_its_state_once(run, tmp_path):
    sync(until(run, 40), tmp_path)
    failed = replace(run, status="failed")

    sync(failed, tmp_path)
    sync(failed, tmp_path)

    found = read(tmp_path / "films")
    states = [event.tensor_proto.string_val[0] for event in found.Tensors("durabert/status")]
    assert states == [b"running", b"failed"]
    assert "_hparams_/session_end_info" in found.summary_metadata


def test_the_next_round_of_following_reads_nothing_again(run, tmp_path):
    tracker = TensorBoard(tmp_path)
    tracker.sync(feed_of(until(run, 20), "films"))

    assert tracker.sync(feed_of(until(run, 21), "films")) == 3
    assert tracker.sync(feed_of(until(run, 21), "films")) == 0


def test_a_directory_that_cannot_be_written_is_a_mistake_of_the_user(run, tmp_path):
    (tmp_path / "films").write_text("a file")

    with pytest.raises(OutputInUse, match="films"):
        sync(run, tmp_path)


def test_another_run_of_the_same_name_gets_a_directory_of_its_own(run, tmp_path):
    first = replace(run, record=replace(run.record, identity="a" * 64))
    sync(first, tmp_path)
    second = replace(run, record=replace(run.record, identity="b" * 64))

    assert sync(second, tmp_path) > 0
    assert sync(second, tmp_path) == 0
    assert steps_of(tmp_path / "films@bbbbbbbb", "train/loss") == list(range(1, 61))
    assert steps_of(tmp_path / "films", "train/loss") == list(range(1, 61))
