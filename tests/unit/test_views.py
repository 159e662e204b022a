"""What people and programs see of a run with checkpoints."""

from __future__ import annotations

import io

from rich.console import Console

from durabert.cli.board import Board
from durabert.cli.render import print_details
from durabert.client import ExperimentView, RunView
from durabert.contract import HEARTBEAT_SECONDS
from durabert.specs import AttemptRecord, CheckpointRef, FineTuneConfig, FineTuneRequest, Progress
from durabert.specs.data import DataSpec
from tests.workflow.conftest import result_of

LOG = [
    AttemptRecord(number=1, worker="1@here", started="", last_step=30, ended="DeviceFault"),
    AttemptRecord(number=2, worker="2@there", started="", resumed_from=30, last_step=60),
]


def run_view(status: str = "running", **fields) -> RunView:
    return RunView(run="films", experiment="films", status=status, config=FineTuneConfig(), **fields)


def training(**fields) -> Progress:
    return Progress(phase="training", step=61, steps=100, epoch=1, epochs=3, **fields)


def completed() -> RunView:
    request = FineTuneRequest(
        experiment="films", run="films", data=DataSpec(source="x.csv"), config=FineTuneConfig()
    )
    result = result_of(request).model_copy(
        update={
            "attempt_log": LOG,
            "parent": CheckpointRef(run="other", step=40),
            "snapshot": "5" * 64,
            "state_sha256": "7" * 64,
            "micro_batches": 4,
        }
    )
    return run_view("completed", result=result, parent=result.parent)


def test_details_show_one_line_an_attempt(capsys):
    print_details(run_view(progress=training(checkpoint_step=60, attempt_log=LOG)))

    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["1", "30", "DeviceFault", "1@here"] in lines
    assert ["2", "30", "60", "2@there"] in lines
    assert ["checkpoint", "step", "60"] in lines


def test_details_show_what_a_result_stands_on(capsys):
    print_details(completed())

    printed = capsys.readouterr().out
    assert "other@40" in printed
    assert "5" * 64 in printed
    assert "7" * 64 in printed
    assert ["micro-batches", "4"] in [line.split() for line in printed.splitlines()]


def test_programs_see_the_same_fields_before_and_after_the_end():
    before = run_view(progress=training(checkpoint_step=60, attempt_log=LOG, warnings=["slow"])).as_json()
    after = completed().as_json()

    assert list(before) == list(after)
    assert (before["checkpoint_step"], before["warnings"]) == (60, ["slow"])
    assert before["attempt_log"] == after["attempt_log"]
    assert (after["parent"], after["micro_batches"]) == ({"run": "other", "step": 40}, 4)


def test_a_warning_is_told_once(monkeypatch):
    said = io.StringIO()
    monkeypatch.setattr("durabert.cli.board.Console", lambda **_: Console(file=said, width=200))
    board = Board(engine=None)

    for warnings in (["low memory"], ["low memory"], ["low memory", "full disk"]):
        board.show(shown(run_view(progress=training(warnings=warnings))))

    assert said.getvalue() == "films: low memory\nfilms: full disk\n"


def test_a_pause_is_told_while_its_process_leaves_and_after(capsys):
    board = Board(engine=None)

    board.show(shown(run_view(progress=training(), pausing=True)))
    board.show(shown(run_view("paused")))

    pausing, paused = capsys.readouterr().err.splitlines()
    assert "pausing" in pausing
    assert paused == "films: paused; durabert resume films lets it go on"


def test_a_worker_is_missed_only_when_its_next_heartbeat_should_have_come(capsys):
    board = Board(engine=None)

    board.show(shown(run_view(progress=training(), heartbeat_age_seconds=HEARTBEAT_SECONDS + 1)))
    board.show(shown(run_view(progress=training(), attempts=1, heartbeat_age_seconds=2 * HEARTBEAT_SECONDS)))

    alive, missed = capsys.readouterr().err.splitlines()
    assert "no sign" not in alive
    assert missed.endswith("no sign of the worker for 20 s")


def shown(run: RunView) -> ExperimentView:
    return ExperimentView(
        name="films", status="running", started="2026-01-01T00:00:00Z", data="x.csv", runs=[run], num_events=9
    )
