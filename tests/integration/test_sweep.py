"""``durabert sweep``, as a user types it: trials that are trained for real."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.shell import Shell
from tests.terminal import Terminal

SPACE = """
trials = 4
concurrency = 2
stopping = "asha"
[defaults]
epochs = 3
batch_size = 16
max_length = 32
device = "cpu"
[space]
learning_rate = { log_uniform = [1e-5, 1e-2] }
warmup_ratio = { uniform = [0.0, 0.2] }
"""


@pytest.fixture(scope="module")
def space(shell: Shell) -> Path:
    path = shell.directory / "space.toml"
    path.write_text(SPACE)
    return path


@pytest.fixture(scope="module")
def swept(shell: Shell, reviews: Path, tiny: Path, space: Path) -> dict:
    [view] = shell.objects(
        "sweep", reviews, "--space", space, "--name", "searched", "--model", tiny, "--final-seeds", 1
    )
    return view


def promoted(view: dict) -> dict:
    [trial] = [one for one in view["trials"] if len(one["values"]) == 3]
    return trial


def test_a_sweep_comes_to_its_best_trial(swept):
    assert swept["status"] == "completed"
    assert [len(one["values"]) for one in swept["trials"]].count(1) == 3
    assert swept["best"] == promoted(swept)["number"]
    [final] = swept["final"]["runs"]
    assert final["run"] == "searched-final.seed-43"
    assert final["metrics"]["accuracy"] > 0


def test_a_promoted_trial_has_the_digests_of_one_that_was_trained_at_once(shell, swept, reviews, tiny):
    trial = promoted(swept)
    options = [f"--set={name}={value!r}" for name, value in trial["params"].items()]

    [run] = shell.objects(
        "train", reviews, "--name", "at-once", "--model", tiny, "--epochs", 3, "--batch-size", 16,
        "--max-length", 32, "--device", "cpu", "--set", "best_metric=accuracy", *options,
    )  # fmt: skip

    assert run["model_sha256"] == trial["model_sha256"]
    assert run["state_sha256"] == trial["state_sha256"]
    assert [one["metrics"]["accuracy"] for one in run["result"]["history"]] == trial["values"]


def test_the_table_of_trials_has_the_best_first(shell, swept, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    shown = terminal.type("show", "searched")

    lines = [line for line in shown.out.splitlines() if line.lstrip().startswith("searched.")]
    assert lines[0].split()[0] == f"searched.{swept['best']}"
    assert len(lines) == 4
    assert f"best searched.{swept['best']}" in shown.out
    assert "sweep searched: completed; durabert show searched" in terminal.type("runs").out


def test_the_report_of_a_sweep_has_what_its_result_has(shell, swept):
    [told] = shell.objects("report", "searched")

    page = Path(told["output"]).read_text(encoding="utf-8")
    data = json.loads(re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1])
    assert told["runs"] == [f"searched.{one['number']}" for one in swept["trials"]]
    assert data["runs"][0] == f"searched.{swept['best']}"
    assert data["epochs"][0]["metric"] == pytest.approx(promoted(swept)["values"], rel=1e-4)
    assert "4 can be compared after 1 epoch" in page
    assert "searched-final.seed-43" in page


def test_a_server_that_has_forgotten_a_sweep_leaves_the_report_of_its_trials(shell, swept, tmp_path):
    elsewhere = Shell(tmp_path / "home", tmp_path, {"DURABERT_STORE": str(shell.home / "store")})

    [told] = elsewhere.objects("report", "searched")

    assert set(told["runs"]) == {f"searched.{one['number']}" for one in swept["trials"]}


def test_a_trial_that_was_trained_to_its_end_predicts_and_another_says_why_not(
    shell, swept, monkeypatch, capfd
):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    other = next(one["number"] for one in swept["trials"] if one["status"] == "stopped")

    predicted = terminal.type("predict", f"searched.{swept['best']}", "a fine film", "--json")
    refused = terminal.type("predict", f"searched.{other}", "a fine film")

    assert json.loads(predicted.out)["label"] in {"positive", "negative"}
    assert refused.code == 2
    assert "has no model, it is stopped" in refused.err


def test_the_same_command_again_joins_and_trains_nothing(shell, swept, reviews, tiny, space):
    again = shell.run(
        "sweep",
        reviews,
        "--space",
        space,
        "--name",
        "searched",
        "--model",
        tiny,
        "--final-seeds",
        1,
        "--json",
    )

    assert "nothing is trained twice" in again.stderr
    assert json.loads(again.stdout) == swept


def test_a_sweep_can_be_adjusted_and_paused_by_name(shell, reviews, tiny, space, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    started = terminal.type(
        "sweep", reviews, "--space", space, "--name", "steered", "--model", tiny, "--no-follow"
    )
    assert started.code == 0

    adjusted = terminal.type("adjust", "steered", "--add-trials", "2", "--concurrency", "1", "--json")
    paused = terminal.type("pause", "steered")
    twice = terminal.type("pause", "steered")
    refused = terminal.type("adjust", "steered")
    resumed = terminal.type("resume", "steered", "--no-follow")
    watched = terminal.type("watch", "steered", "--json")

    assert json.loads(adjusted.out) == {"paused": False, "concurrency": 1, "trials": 6}
    assert "steered is paused" in paused.err
    assert (twice.code, refused.code) == (2, 2)
    assert "paused already" in twice.err
    assert "use --add-trials or --concurrency" in refused.err
    assert "goes on" in resumed.err
    assert len(json.loads(watched.out)["trials"]) == 6


def test_a_metric_that_the_task_lacks_starts_no_trial(shell, reviews, tiny, space, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type(
        "sweep", reviews, "--space", space, "--name", "no-metric", "--model", tiny, "--metric", "pearson"
    )

    assert told.code == 2
    assert "best_metric is 'pearson', but should be one of accuracy" in told.err
    assert not list((shell.home / "runs").glob("no-metric*"))
