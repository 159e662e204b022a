"""Weights & Biases gets each step once, and how the run ended; ``make trackers`` installs it and runs this.

The files of its offline mode are read back with its own reader. There is no server of W&B here: what its
client sends online, and for ``wandb sync``, goes to a stand-in.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from durabert.errors import OutputInUse, SpecInvalid, StoreInvalid
from durabert.specs import ErrorInfo
from durabert.trackers.feed import feed_of
from durabert.trackers.wandb import Wandb
from tests.recorded import made_run
from tests.trackers.wandb_stand_in import StandIn
from tests.unit.test_tensorboard import SERIES, until

wandb = pytest.importorskip("wandb", reason="W&B is not installed; make trackers does")
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(autouse=True)
def offline(tmp_path, monkeypatch):
    """Nothing of the user's: settings, keys, files."""
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "wandb"
    wandb.teardown()


@pytest.fixture
def server(offline, monkeypatch):
    with StandIn() as server:
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_BASE_URL", server.address)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield server
        wandb.teardown()


@pytest.fixture
def run():
    return made_run("films", steps=60, deaths=2)


def sync(*runs, target=""):
    """Feed a run as it was again and again, in one process."""
    tracker = Wandb(target)
    try:
        return [tracker.sync(feed_of(run, "films")) for run in runs]
    finally:
        tracker.close()


def inspected(directory, *options, run="films"):
    from wandb.util import get_core_path

    [file] = directory.glob(f"offline-run-*/run-{run}.wandb")
    command = [get_core_path(), "leet", "inspect", "--no-observability", "--json", *options]
    done = subprocess.run(
        [*command, "--run-file", file, directory], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def rows_of(directory, **of):
    records = [json.loads(line) for line in inspected(directory, **of).splitlines()]
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def summary_of(directory, **of):
    return json.loads(inspected(directory, "--summary", **of))


def curve(rows, name):
    return [(row["_step"], row[name]) for row in rows if name in row]


def test_every_value_of_the_record_is_there_once_with_its_step_and_its_time(run, offline):
    [added] = sync(run)

    rows, found = rows_of(offline), summary_of(offline)
    feed = feed_of(run, "films")
    assert added == 60 * 3 + 3 * 2 + 2
    for name in SERIES:
        values = [(value.step, pytest.approx(value.value)) for value in feed.series[name]]
        told = [(60, found["summary"][name])] if name.startswith("test/") else curve(rows, name)
        assert told == values, name
    times = [time.timestamp() for time in run.record.times]
    assert [row["_timestamp"] for row in rows] == pytest.approx(times)


def test_parameters_digests_and_the_experiment_are_told(run, offline):
    sync(run)

    found = summary_of(offline)
    [record] = [line for line in inspected(offline).splitlines() if '"type":"run"' in line]
    assert found["config"]["learning_rate"] == 5e-05
    assert found["summary"]["durabert/model_sha256"] == "ab" * 32
    assert (found["name"], found["project"]) == ("films", "durabert")
    assert json.loads(record)["run"]["run_group"] == "films"


def test_asked_again_it_adds_nothing_and_writes_no_file(run, offline):
    sync(run)
    before = {path: path.stat().st_mtime_ns for path in offline.rglob("*.wandb")}

    assert sync(run, run) == [0, 0]
    assert {path: path.stat().st_mtime_ns for path in offline.rglob("*.wandb")} == before


@pytest.mark.parametrize("following", [True, False])
def test_what_came_since_is_added_without_a_gap_or_a_double_point(run, offline, following):
    seen = [until(run, 15), until(run, 15), until(run, 40), run]

    added = sync(*seen) if following else [count for one in seen for count in sync(one)]

    rows = rows_of(offline)
    assert [step for step, _ in curve(rows, "train/loss")] == list(range(1, 61))
    assert [step for step, _ in curve(rows, "validation/accuracy")] == [20, 40, 60]
    assert sum(added) == 60 * 3 + 3 * 2 + 2
    assert added[1] == 0


def test_a_validation_that_is_known_later_than_its_step_is_not_lost(run, offline):
    early = until(run, 20)
    unvalidated = replace(early, record=replace(early.record, epochs=[]))

    sync(unvalidated, early, until(run, 30))

    assert [step for step, _ in curve(rows_of(offline), "validation/accuracy")] == [20]


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [("completed", 0, "finished"), ("failed", 1, "failed"), ("cancelled", 255, "failed")],
)
def test_a_run_is_closed_with_its_state_and_opened_again_when_it_goes_on(offline, status, code, state):
    error = ErrorInfo(type="TrainingDiverged", message="the loss is not finite") if code == 1 else None
    run = made_run("films", steps=20, status=status, error=error)
    sync(run)
    found = summary_of(offline)
    assert (found["exit_code"], found["state"]) == (code, state)
    assert found["summary"]["durabert/status"] == status
    assert found["step"] == (20 if status == "completed" else 19)

    sync(until(run, 10))

    assert summary_of(offline)["summary"]["durabert/status"] == "running"
    assert '"type":"preempting"' in inspected(offline)


FEEDS_AND_HANGS = """
import sys
from durabert.trackers.feed import feed_of
from durabert.trackers.wandb import Wandb
from tests.recorded import made_run
from tests.trackers.wandb_stand_in import StandIn
from tests.unit.test_tensorboard import until
Wandb("").sync(feed_of(until(made_run("films", steps=60, deaths=2), 40), "films"))
print("fed", flush=True)
sys.stdin.read()
"""


def kill_a_feeding():
    path = os.pathsep.join(sys.path)
    feeding = subprocess.Popen(
        [sys.executable, "-c", FEEDS_AND_HANGS], env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert feeding.stdout.readline() == "fed\n"
    children = [path.read_text().split() for path in Path(f"/proc/{feeding.pid}/task").glob("*/children")]
    for process in [feeding.pid, *(int(child) for found in children for child in found)]:
        os.kill(process, signal.SIGKILL)
    assert feeding.wait() == -signal.SIGKILL
    for pipe in (feeding.stdin, feeding.stdout):
        pipe.close()


def test_what_a_killed_feeding_left_torn_is_made_good(run, offline):
    kill_a_feeding()

    [added] = sync(run)

    assert added == 60 * 3 + 3 * 2 + 2
    assert [step for step, _ in curve(rows_of(offline), "train/loss")] == list(range(1, 61))
    assert summary_of(offline)["state"] == "finished"


def test_another_run_of_the_same_name_gets_an_id_of_its_own(run, offline):
    for identity in ("a" * 64, "b" * 64):
        sync(replace(run, record=replace(run.record, identity=identity)))

    for name in ("films-aaaaaaaa", "films-bbbbbbbb"):
        assert len(rows_of(offline, run=name)) == 60


def test_the_files_of_one_project_are_left_alone_by_another(run, offline):
    sync(run, target="mine")
    sync(run, target="team/theirs")

    assert len(list(offline.glob("offline-run-*/run-films.wandb"))) == 2
    assert sync(run, target="mine") == [0]


def test_nothing_of_the_feeding_machine_is_told(run, offline):
    sync(run)

    records = [json.loads(line) for line in inspected(offline).splitlines()]
    kinds = {record["type"] for record in records}
    [told] = [record["run"] for record in records if record["type"] == "run"]
    assert kinds <= {"header", "run", "telemetry", "summary", "history", "exit"}
    assert not {"host", "git"} & set(told)


def require_once(kept):
    assert [step for step, _ in curve(kept.rows, "train/loss")] == list(range(1, 61))
    assert [step for step, _ in curve(kept.rows, "validation/accuracy")] == [20, 40, 60]
    assert kept.summary["test/loss"] == pytest.approx(0.4)
    assert kept.end == (0, False)


@pytest.mark.parametrize("following", [True, False])
def test_online_a_run_goes_on_where_the_server_has_it(run, server, following):
    early = until(run, 20)
    unvalidated = replace(early, record=replace(early.record, epochs=[]))
    seen = [until(run, 15), until(run, 15), unvalidated, early, until(run, 30), run]

    added = sync(*seen) if following else [count for one in seen for count in sync(one)]

    require_once(server.runs["films"])
    assert added == [14 * 3, 0, 5 * 3, 3 + 2, 9 * 3, 31 * 3 + 2 * 2 + 2]
    assert sync(run) == [0]
    require_once(server.runs["films"])


@pytest.mark.parametrize(("status", "code"), [("failed", 1), ("cancelled", 255)])
def test_online_a_run_that_ended_too_early_loses_no_validation_when_it_goes_on(run, server, status, code):
    early = until(run, 20)
    sync(replace(early, status=status, record=replace(early.record, epochs=[])))
    assert server.runs["films"].end == (code, False)

    sync(until(run, 30))
    assert server.runs["films"].end == (1, True)

    sync(run)
    require_once(server.runs["films"])


def test_online_a_killed_feeding_is_gone_on_with(run, server):
    kill_a_feeding()
    before = len(server.runs["films"].rows)

    sync(run)

    assert before < 60
    require_once(server.runs["films"])


def send(directory):
    done = subprocess.run(
        [sys.executable, "-m", "wandb", "sync", *directory.glob("offline-run-*")],
        capture_output=True, text=True, timeout=60, check=False, env={**os.environ, "WANDB_MODE": "online"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_what_was_sent_is_not_sent_again(run, offline, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    early = until(run, 20)
    unvalidated = replace(early, status="failed", record=replace(early.record, epochs=[]))

    added = []
    for seen in (until(run, 15), unvalidated, until(run, 30), run):
        added += sync(seen)
        send(offline)
        added += sync(seen)
    send(offline)

    require_once(server.runs["films"])
    assert added == [14 * 3, 0, 5 * 3, 0, 10 * 3 + 2, 0, 31 * 3 + 2 * 2 + 2, 0]


def test_what_was_sent_before_it_was_whole_is_told(run, offline):
    sync(until(run, 15))
    [note] = offline.glob("offline-run-*/durabert.json")
    note.write_text(json.dumps({"place": json.loads(note.read_text())["place"]}))
    note.with_name("run-films.wandb.synced").touch()

    with pytest.raises(OutputInUse, match="before it was whole"):
        sync(run)


def test_a_server_that_does_not_answer_is_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)

    with pytest.raises(StoreInvalid, match=f"127.0.0.1:{port}"):
        Wandb("")


@pytest.mark.parametrize("mode", ["disabled", "shared", "sometimes"])
def test_a_mode_that_feeds_nothing_is_a_mistake_of_the_user(monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)

    with pytest.raises(SpecInvalid, match=f"'{mode}'"):
        Wandb("")


def test_a_project_that_wandb_cannot_have_is_a_mistake_of_the_user():
    with pytest.raises(SpecInvalid, match="films:2"):
        Wandb("films:2")


def test_who_is_not_logged_in_is_told_and_not_asked(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked for something"))

    with pytest.raises(StoreInvalid, match="nobody is logged in"):
        Wandb("")


def test_a_key_that_cannot_be_one_is_told(monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "short")

    with pytest.raises(StoreInvalid, match="WANDB_API_KEY"):
        Wandb("")


def test_a_directory_that_cannot_be_written_is_a_mistake_of_the_user(offline):
    offline.write_text("a file")

    with pytest.raises(OutputInUse, match="wandb"):
        Wandb("")
