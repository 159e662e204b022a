"""``durabert schedule``, as a user types it, with real training; no clock is awaited."""

from __future__ import annotations

import json
import shlex
import shutil
import time
from pathlib import Path

import pytest

from tests.shell import Shell, write_reviews

FAST = ("--batch-size", 8, "--lr", "5e-3", "--max-length", 32, "--epochs", 6)


@pytest.fixture(scope="module")
def weekly(shell: Shell, reviews: Path, tiny: Path) -> str:
    """A schedule that retrains on a copy of the reviews."""
    shutil.copy(reviews, shell.directory / "labelled.csv")
    write_reviews(shell.directory / "held-out.csv", rows=60, seed=9)
    created = shell.run(
        "schedule", "create", "weekly", "labelled.csv", "--cron", "0 3 * * 1", "--time-zone", "Europe/Zurich",
        "--model", tiny, *FAST, "--eval-data", "held-out.csv", "--promote-to", "weekly@champion",
        "--catch-up", "2d",
    )  # fmt: skip
    assert created.returncode == 0, created.stderr
    assert "weekly fires 0 3 * * 1 Europe/Zurich, next at " in created.stdout
    assert "fires only while the engine is up" in created.stderr
    assert "is made up for within 2d" in created.stderr
    return "weekly"


@pytest.fixture(scope="module")
def first(shell: Shell, weekly: str) -> dict:
    [result] = shell.objects("schedule", "trigger", weekly)
    return result


def test_a_firing_retrains_and_promotes(terminal, first):
    assert (first["status"], first["version"]) == ("promoted", 1)
    [standing] = first["standings"]
    assert (standing["rows"], standing["metric"]) == (60, "accuracy")

    done = terminal.type("predict", "weekly@champion", "a good film", "--json")

    assert json.loads(done.out)["label"] == "positive"
    assert f"weekly@champion is version 1 of weekly, run {first['run']}" in done.err
    assert first["run"] in {run["run"] for run in terminal.objects("runs")}
    assert terminal.type("show", first["run"]).code == 0


def test_the_same_data_are_skipped_and_other_data_are_not(terminal, shell, first):
    skipped = terminal.type("schedule", "trigger", "weekly")
    with (shell.directory / "labelled.csv").open("a") as file:
        file.write("a lovely film and a good story,positive\nan awful film and a poor story,negative\n")
    [second] = terminal.objects("schedule", "trigger", "weekly")

    assert skipped.code == 0
    assert f"skipped: the data have not changed since run {first['run']}" in skipped.out
    assert second["champion"] == first["run"]
    assert second["run"] != first["run"]
    [standing] = second["standings"]
    assert standing["champion"] == first["standings"][0]["value"]
    assert second["status"] in {"promoted", "refused"}
    [gate] = [one for one in second["gates"] if one["gate"] == "champion"]
    assert "on 60 rows of held-out" in gate["detail"]
    [shown] = terminal.objects("schedule", "show", "weekly")
    assert [one["status"] for one in shown["firings"]] == ["promoted", "skipped", second["status"]]
    assert (shown["promote_to"], shown["timing"]["cron"]) == ("weekly@champion", "0 3 * * 1")
    text = terminal.type("schedule", "show", "weekly").out
    assert "0 3 * * 1 Europe/Zurich" in text
    assert f"last: {second['reason']}" in text


def listed(terminal, name: str) -> bool:
    """Whether a schedule is listed; the server's index is a moment late."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if name in {one["name"] for one in terminal.objects("schedule", "list")}:
            return True
    return False


def test_schedules_are_listed_paused_and_deleted(terminal, weekly, tiny):
    terminal.objects("schedule", "create", "often", "reviews.csv", "--every", "6h", "--model", tiny)

    assert listed(terminal, "often")
    paused = terminal.type("schedule", "pause", "often", "--reason", "new labels come")
    shown = terminal.type("schedule", "show", "often")
    [resumed] = terminal.objects("schedule", "resume", "often")
    near = terminal.type("schedule", "show", "oftn")
    used = terminal.type("schedule", "create", "often", "reviews.csv", "--every", "1d", "--model", tiny)
    deleted = terminal.type("schedule", "delete", "often")

    assert "durabert schedule resume often lets it fire again" in paused.err
    assert "paused: new labels come" in shown.out
    assert "every 6h" in shown.out
    assert resumed["paused"] is False
    assert near.sentence() == "there is no schedule 'oftn'; did you mean 'often'?"
    assert used.code == 2
    assert "durabert schedule delete often" in used.sentence()
    assert deleted.code == 0
    assert terminal.type("schedule", "show", "often").code == 2


EVERY_DAY = "create x reviews.csv --every 1d"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("create x reviews.csv", "has either a cron expression or an interval; give --cron or --every"),
        (f"{EVERY_DAY} --cron '0 3 * * 1'", "give --cron or --every"),
        ("create x reviews.csv --cron '0 3 * *'", "--cron is '0 3 * *', but should be five fields"),
        ("create x reviews.csv --cron '0 0 31 2 *'", "which never comes"),
        ("create x reviews.csv --every 10s", "--every is '10s', but should be at least 1m"),
        ("create x reviews.csv --every often", "but should be a number and a unit, m, h, d or w"),
        ("create x reviews.csv --every 9999w", "every_seconds is 6047395200.0, but should"),
        (f"{EVERY_DAY} --overlap queue", "--overlap is 'queue', but should be skip or"),
        (f"{EVERY_DAY} --catch-up 1s", "--catch-up is '1s', but should be at least 10s"),
        (f"{EVERY_DAY} --time-zone Europe/Rome", "but --every has none; give --cron"),
        ("create x gone.csv --every 1d", "there is no file or directory 'gone.csv'"),
        ("create x --every 1d", "no data was given"),
        ("create ../x reviews.csv --every 1d", "schedule name '../x' is not allowed"),
        (f"create {'x' * 71} reviews.csv --every 1d", "use 1 to 70 letters"),
        (f"{EVERY_DAY} --require-approval", "--require-approval is given, but only --promote-to"),
        (f"{EVERY_DAY} --promote-to a", "'a' should be NAME@ALIAS"),
        (f"{EVERY_DAY} --promote-to a@3", "versions number themselves"),
        (f"{EVERY_DAY} --promote-to a@b --min-metric f1=x", "min_metrics is 'x', but should be a valid"),
        (f"{EVERY_DAY} --epochs 0", "epochs is '0', but should"),
        (
            "show nothing-like-it",
            "there is no schedule 'nothing-like-it'; 'durabert schedule list'",
        ),
        ("backfill weekly --from x --to 2026-01-01", "--from is 'x', but should be a date"),
        (
            "backfill weekly --from 2026-02-01 --to 2026-01-01",
            "--to is 2026-01-01T00:00:00+00:00, but should not be before --from, 2026-02-01T00:00:00+00:00",
        ),
    ],
)
def test_a_mistake_is_one_sentence_and_creates_nothing(terminal, weekly, command, told):
    done = terminal.type("schedule", *shlex.split(command))

    assert done.code == 2, done.out
    assert told in done.sentence()
    assert terminal.type("schedule", "show", "x").code == 2


def test_an_experiment_of_several_runs_is_no_schedule(terminal, weekly, tmp_path):
    config = tmp_path / "several.toml"
    config.write_text('data = "reviews.csv"\n[[runs]]\nname = "a"\n[[runs]]\nname = "b"\n')

    done = terminal.type("schedule", "create", "x", "--config", config, "--every", "1d")

    assert done.code == 2
    assert "a schedule retrains one model, but the experiment has 2 runs" in done.sentence()
