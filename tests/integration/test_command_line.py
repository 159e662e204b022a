"""The command line, from command to model, as a user types it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet
import pytest

from durabert.bert.quiet import quiet_libraries
from tests.shell import DURABERT, Shell, write_reviews

FAST = ("--epochs", 10, "--batch-size", 8, "--lr", "3e-3", "--max-length", 32)


@pytest.fixture(scope="module")
def trained(shell: Shell, reviews: Path, tiny: Path) -> dict:
    [run] = shell.objects("train", reviews, "--name", "trained", "--model", tiny, *FAST)
    return run


def test_train_prints_one_object_with_what_was_done(trained):
    assert trained["run"] == "trained"
    assert trained["status"] == "completed"
    assert trained["attempts"] == 1
    assert trained["steps"] == 10 * 27
    assert trained["metrics"]["accuracy"] >= 0.9
    assert trained["seconds"] > 0
    assert trained["train_loss"] > 0
    assert trained["examples_per_second"] > 0
    assert trained["peak_memory_mib"] > 50
    assert len(trained["model_sha256"]) == 64


def test_the_result_is_a_model_that_transformers_loads(trained):
    from transformers import pipeline

    with quiet_libraries():
        classify = pipeline(
            "text-classification", model=str(Path(trained["directory"]) / "model"), device="cpu"
        )
        answers = classify(["the film was great", "the film was awful"])

    assert [answer["label"] for answer in answers] == ["positive", "negative"]


def test_show_says_the_same_again(shell, trained):
    [shown] = shell.objects("show", "trained")

    assert shown == trained


def test_runs_lists_it_once(shell, trained):
    assert [run["run"] for run in shell.objects("runs")].count("trained") == 1


def test_the_same_command_joins_the_run(shell, trained, reviews, tiny):
    done = shell.run("train", reviews, "--name", "trained", "--model", tiny, *FAST, "--json")

    assert done.returncode == 0
    assert "nothing is trained twice" in done.stderr
    assert json.loads(done.stdout)["model_sha256"] == trained["model_sha256"]


def test_the_same_configuration_gives_the_same_model(shell, trained, reviews, tiny):
    [again] = shell.objects("train", reviews, "--name", "again", "--model", tiny, *FAST, "--no-reuse")

    assert again["model_sha256"] == trained["model_sha256"]
    assert again["metrics"] == trained["metrics"]


def test_a_command_without_a_name_finds_its_run_again(shell, reviews, tiny):
    [first] = shell.objects("train", reviews, "--model", tiny, *FAST, "--seed", 5)
    [second] = shell.objects("train", reviews, "--model", tiny, *FAST, "--seed", 5)

    assert first["run"].startswith("reviews-")
    assert second["run"] == first["run"]


def test_several_configurations_are_one_experiment(shell, reviews, tiny):
    options = ("--model", tiny, "--max-length", 32, "--epochs", 1)
    done = shell.run(
        "train",
        reviews,
        "--name",
        "several",
        *options,
        "--run",
        "name=small,batch_size=8",
        "--run",
        "seed=3",
        "--json",
    )

    runs = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["run"] for run in runs] == ["several.small", "several.2"]
    assert [run["config"]["batch_size"] for run in runs] == [8, 16]


def test_two_processes_come_to_the_bits_of_one_that_computes_two_pieces(shell, reviews, tiny):
    # bf16 or fp32, as the machine has it.
    runs = ("--run", "name=two,num_processes=2", "--run", "name=one,gradient_accumulation=2")
    two, one = shell.objects(
        "train", reviews, "--name", "shared", "--model", tiny, *runs, *FAST, "--device", "cpu"
    )

    assert [run["result"]["num_processes"] for run in (two, one)] == [2, 1]
    assert two["model_sha256"] == one["model_sha256"]
    assert two["state_sha256"] == one["state_sha256"]
    done = shell.run("verify", "shared.two", "--replay-steps", 1000)
    assert done.returncode == 0, done.stdout + done.stderr


def test_one_failed_configuration_does_not_lose_the_others(shell, reviews, tiny):
    done = shell.run(
        "train", reviews, "--name", "partly", "--max-length", 32, "--epochs", 1,
        "--run", f"name=good,model={tiny}", "--run", "name=bad,model=no-one/no-such-model", "--json",
    )  # fmt: skip

    good, bad = [json.loads(line) for line in done.stdout.splitlines()]
    assert good["status"] == "completed"
    assert bad["status"] == "failed"
    assert bad["error"]["type"] == "ModelNotFound"
    assert bad["attempts"] == 1
    assert done.returncode == 2


def test_an_experiment_can_come_from_toml(shell, reviews, tiny):
    document = f"""
name = "from-toml"
data = "{reviews}"
[defaults]
model = "{tiny}"
max_length = 32
[[runs]]
epochs = 1
"""
    (shell.directory / "experiment.toml").write_text(document)

    [run] = shell.objects("train", "--config", "experiment.toml")

    assert run["run"] == "from-toml"
    assert run["config"]["epochs"] == 1


def test_predict_prints_a_label_and_a_confidence_for_each_text(shell, trained):
    answers = shell.objects("predict", "trained", "the film was great", "a poor story")

    assert [answer["label"] for answer in answers] == ["positive", "negative"]
    assert all(0.5 < answer["confidence"] <= 1 for answer in answers)
    table = shell.run("predict", "trained", "the film was great").stdout
    assert "positive" in table
    assert "the film was great" in table


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_predict_goes_from_file_to_file_with_row_ids(shell, trained, suffix):
    source = shell.directory / "texts.csv"
    rows = [
        (f"r{number}", f"the film was {word}") for number, word in enumerate(["great", "awful", "lovely"])
    ]
    with source.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    output = shell.directory / f"predictions.{suffix}"

    [answer] = shell.objects("predict", "trained", "--input", source, "--output", output)

    assert answer["rows"] == 3
    assert answer["label_counts"] == {"negative": 1, "positive": 2}
    assert labels_of(output) == [("r0", "positive"), ("r1", "negative"), ("r2", "positive")]


def labels_of(path: Path) -> list[tuple[str, str]]:
    if path.suffix == ".csv":
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
    elif path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
    else:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    return [(row["id"], row["label"]) for row in rows]


def test_replay_decides_the_same_from_server_and_from_file(shell, trained):
    saved = shell.directory / "history.json"

    [from_server] = shell.objects("replay", "trained", "--save", saved)
    [from_file] = shell.objects("replay", saved)

    assert from_server["same"]
    assert from_file["same"]
    assert from_server["events"] == from_file["events"] < 60


def test_replay_says_where_a_history_differs(shell, trained):
    saved = shell.directory / "history.json"
    shell.run("replay", "trained", "--save", saved)
    changed = shell.directory / "changed.json"
    changed.write_text(saved.read_text().replace("fine_tune_bert", "other_activity"))

    done = shell.run("replay", changed)

    assert done.returncode == 1
    assert "other_activity" in done.stdout


def test_cancel_ends_the_run_and_its_process(shell, reviews, tiny):
    started = shell.run("train", reviews, "--name", "cancelled", "--model", tiny, *LONG, "--no-follow")
    assert started.returncode == 0, started.stderr
    pid = wait_for_training(shell, "cancelled")["progress"]["process_id"]

    done = shell.run("cancel", "cancelled")

    assert done.returncode == 0, done.stderr
    assert not Path(f"/proc/{pid}").exists()
    [shown] = shell.objects("show", "cancelled")
    assert shown["status"] == "cancelled"
    assert not (shell.home / "runs" / "cancelled").exists()


def test_ctrl_c_detaches_and_the_run_goes_on(shell, reviews, tiny):
    process = shell.start("train", reviews, "--name", "detached", "--model", tiny, *LONG)
    before = wait_for_training(shell, "detached")

    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "durabert watch detached" in printed
    assert "durabert cancel detached" in printed
    after = wait_for_training(shell, "detached", beyond=before["progress"]["step"])
    assert after["attempts"] == 1
    assert shell.run("cancel", "detached").returncode == 0


def test_a_second_ctrl_c_cancels(shell, reviews, tiny):
    process = shell.start("train", reviews, "--name", "twice", "--model", tiny, *LONG)
    pid = wait_for_training(shell, "twice")["progress"]["process_id"]

    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    for line in process.stderr:
        if "Press Ctrl-C again" in line:
            break
    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)

    assert process.returncode == 130
    assert "no process of it is left" in printed
    assert not Path(f"/proc/{pid}").exists()


LONG = ("--epochs", 1000, "--batch-size", 4, "--max-length", 32)


def wait_for_training(shell: Shell, run: str, *, beyond: int = 0) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        done = shell.run("show", run, "--json")
        shown = json.loads(done.stdout) if done.returncode == 0 else {}
        progress = shown.get("progress")
        if progress and progress["phase"] == "training" and progress["step"] > beyond:
            return shown
    raise TimeoutError(f"{run} does not train")


def test_doctor_finds_engine_and_worker(shell):
    checks = {check["subject"]: check for check in shell.objects("doctor")}

    assert checks["engine"]["state"] == "ok"
    assert checks["queue bert-finetune-task-queue"]["state"] == "ok"
    assert checks["model minilm"]["state"] == "ok"


def waited_for_a_processor(pid: int) -> float:
    """Return the seconds in which a process could have run, had other tests not had the processors."""
    _, nanoseconds, _ = Path(f"/proc/{pid}/schedstat").read_text().split()
    return int(nanoseconds) / 1e9


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells how long a process waited to run")
def test_help_answers_in_under_300_ms():
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        with subprocess.Popen([DURABERT, "--help"], stdout=subprocess.DEVNULL) as process:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            seconds.append(time.perf_counter() - began - waited_for_a_processor(process.pid))
        assert process.returncode == 0

    assert min(seconds) < 0.3


def test_the_friendly_functions_work_in_a_script_without_a_main_guard(shell, tiny, tmp_path):
    write_reviews(tmp_path / "reviews.csv", seed=3)
    script = tmp_path / "script.py"
    script.write_text(
        f"""
import durabert
result = durabert.fine_tune("reviews.csv", name="scripted", model={str(tiny)!r}, epochs=1, max_length=32)
print(result.metrics["accuracy"])
print([p.label for p in durabert.predict("scripted", ["the film was great"])])
first, again = (durabert.evaluate("scripted", "reviews.csv", resamples=100) for _ in range(2))
print(first.rows, first.reused, again.reused, first.metrics == again.metrics)
try:
    durabert.fine_tune("reviews.csv", name="scripted", model={str(tiny)!r}, epochs=2, max_length=32)
except durabert.UserError as error:
    print(error)
"""
    )

    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, cwd=tmp_path, check=False,
        env={**os.environ, "DURABERT_HOME": str(shell.home)},
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    accuracy, labels, evaluated, error = done.stdout.splitlines()
    assert 0 <= float(accuracy) <= 1
    assert labels in ("['positive']", "['negative']")
    assert evaluated == "240 False True True"
    assert error == (
        "the name 'scripted' is in use by another experiment (its epochs is 1, not 2); "
        "choose another name, and to train on from it give --from scripted"
    )
