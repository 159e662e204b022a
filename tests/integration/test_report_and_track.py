"""``durabert report`` and ``durabert track`` of real runs, one of which had its trainer killed."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.shell import Shell

FAST = ("--epochs", 4, "--batch-size", 16, "--max-length", 32, "--device", "cpu", "--checkpoint-every", 5)
ENDLESS = (
    "--epochs",
    1000,
    "--batch-size",
    4,
    "--max-length",
    32,
    "--device",
    "cpu",
    "--checkpoint-every",
    5,
)


@pytest.fixture(scope="module")
def done(shell: Shell, reviews: Path, tiny: Path) -> dict:
    [run] = shell.objects("train", reviews, "--name", "reported", "--model", tiny, *FAST)
    return run


@pytest.fixture(scope="module")
def killed(shell: Shell, reviews: Path, tiny: Path) -> dict:
    """A run whose trainer was killed on the way, and that was cancelled later."""
    shell.objects("train", reviews, "--name", "killed", "--model", tiny, *ENDLESS, "--no-follow")
    first = at_work(shell, "killed", attempt=1)
    os.kill(first["progress"]["process_id"], signal.SIGKILL)
    at_work(shell, "killed", attempt=2)
    [cancelled] = shell.objects("cancel", "killed")
    return cancelled


def at_work(shell: Shell, run: str, *, attempt: int, seconds: float = 60) -> dict:
    """Wait until an attempt has committed a checkpoint of its own."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        [view] = shell.objects("show", run)
        progress = view["progress"] or {}
        log = progress.get("attempt_log") or [{}]
        before = log[-1].get("resumed_from") or 0
        if view["attempts"] >= attempt and (progress.get("checkpoint_step") or 0) > before:
            return view
    raise TimeoutError(f"{run} has no checkpoint of attempt {attempt} within {seconds} s")


def data_of(page: Path) -> dict:
    text = page.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def steps_of(directory: Path) -> list[int]:
    found = EventAccumulator(str(directory), size_guidance={"scalars": 0})
    found.Reload()
    return [event.step for event in found.Scalars("train/loss")]


def test_a_report_has_every_step_and_epoch_of_the_run(shell, done):
    [told] = shell.objects("report", "reported")

    data = data_of(shell.directory / "reported.html")
    assert told["output"] == str(shell.directory / "reported.html")
    assert told["bytes"] == (shell.directory / "reported.html").stat().st_size
    assert data["curves"][0]["step"] == list(range(1, done["steps"] + 1))
    assert data["epochs"][0]["metric"][-1] == pytest.approx(
        done["result"]["history"][-1]["metrics"]["accuracy"], abs=1e-4
    )
    assert [bar["end"] for bar in data["attempts"]] == ["completed"]


def test_a_report_is_replaced_and_another_file_is_not(shell, done):
    shell.objects("report", "reported")
    shell.objects("report", "reported")
    (shell.directory / "notes.html").write_text("mine")

    refused = shell.run("report", "reported", "--output", "notes.html")

    assert refused.returncode == 2
    assert "is there and is no report" in refused.stderr
    assert (shell.directory / "notes.html").read_text() == "mine"


def test_a_server_that_has_forgotten_a_run_leaves_its_report_as_it_was(shell, done, tmp_path):
    elsewhere = Shell(tmp_path / "home", tmp_path, {"DURABERT_STORE": str(shell.home / "store")})

    elsewhere.objects("report", "reported")
    missing = elsewhere.run("report", "never")

    assert len(data_of(tmp_path / "reported.html")["curves"][0]["step"]) == done["steps"]
    assert missing.returncode == 2
    assert "there is no run 'never'" in missing.stderr


def test_a_killed_trainer_leaves_no_gap_and_no_double_point(shell, killed):
    shell.objects("report", "killed")
    [added] = shell.objects("track", "killed", "--to", "tensorboard:boards")
    [again] = shell.objects("track", "killed", "--to", "tensorboard:boards")

    ends = [bar["end"] for bar in data_of(shell.directory / "killed.html")["attempts"]]
    steps = steps_of(shell.directory / "boards/killed")
    assert ends[0] == "died"
    assert ends[-1] == "stopped"
    assert steps == list(range(1, len(steps) + 1))
    assert len(steps) > 5
    assert (added["status"], again["added"]) == ("cancelled", 0)


def test_following_ends_when_the_runs_have_ended(shell, done):
    [told] = shell.objects("track", "reported", "--to", "tensorboard:followed", "--follow")

    assert told["status"] == "completed"
    assert steps_of(shell.directory / "followed/reported") == list(range(1, done["steps"] + 1))


@pytest.mark.parametrize(
    "to", ["paper:notes", "tensorboard", "tensorboard:", "notes", "wandb:", "wandb:a/b/c"]
)
def test_a_tracker_that_there_is_not_is_told_in_one_sentence(shell, to):
    refused = shell.run("track", "reported", "--to", to)

    assert refused.returncode == 2
    assert refused.stderr.startswith(f"durabert: --to is {to!r}, but should be ")
