"""``durabert eval``, ``train --eval-data`` and ``compare``, as a user types them."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tests.shell import Shell, write_reviews
from tests.terminal import Terminal

SHORT = ("--epochs", 4, "--batch-size", 16, "--max-length", 32, "--device", "cpu")
FAST = (*SHORT, "--lr", "5e-3")


@pytest.fixture(scope="module")
def unseen(shell: Shell) -> Path:
    """Rows that no run was trained on, with a column to slice by."""
    path = write_reviews(shell.directory / "unseen.csv", rows=60, seed=8)
    with path.open(newline="") as file:
        header, *rows = csv.reader(file)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*header, "source"])
        writer.writerows([*row, ("web", "tv")[number % 2]] for number, row in enumerate(rows))
    return path


@pytest.fixture(scope="module")
def study(shell: Shell, reviews: Path, tiny: Path, unseen: Path) -> list[dict]:
    """Two configurations, the second of which learns nothing, with two seeds each."""
    return shell.objects(
        "train", reviews, "--name", "study", "--model", tiny, *SHORT, "--seeds", "1,2",
        "--run", "name=good,learning_rate=5e-3", "--run", "name=idle,learning_rate=1e-9",
        "--eval-data", unseen, "--slice-by", "source",
    )  # fmt: skip


def test_an_experiment_with_seeds_evaluates_every_run(shell, study):
    assert [run["run"] for run in study] == [
        "study.good-seed1", "study.good-seed2", "study.idle-seed1", "study.idle-seed2",
    ]  # fmt: skip
    for run in study:
        [evaluation] = run["evaluations"]
        result = evaluation["result"]
        assert (evaluation["status"], result["rows"], result["slices"]) == ("completed", 60, 2)
        low, high = result["intervals"]["accuracy"]
        assert low <= result["metrics"]["accuracy"] <= high
    shown = shell.run("show", "study").stdout
    assert shown.count("1: unseen.csv train") == 4


def test_the_same_evaluation_by_hand_is_found(shell, study, unseen):
    of_the_experiment = study[0]["evaluations"][0]["result"]

    [found] = shell.objects("eval", "study.good-seed1", unseen, "--slice-by", "source")

    assert found["reused"]
    assert found["evaluation"] == of_the_experiment["evaluation"]
    assert [one["value"] for one in found["report"]["slices"]] == ["tv", "web"]
    assert len(found["worst"]) == min(20, found["errors"])


def test_an_evaluation_is_shown_with_intervals_slices_and_errors(shell, study, unseen, monkeypatch, capfd):
    told = Terminal.of(shell, monkeypatch, capfd).type("eval", "study.idle-seed1", unseen, "--metric", "mcc")

    assert told.code == 0
    assert "95% interval" in told.out
    assert "as negative" in told.out
    assert "taken for" in told.out
    assert "study.idle-seed1 on unseen.csv train: 60 rows" in told.out


def test_configurations_are_compared_over_their_seeds(shell, study, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    [compared] = terminal.type("compare", "study", "--json").objects()
    shown = terminal.type("compare", "study.good-seed1", "study.idle-seed1").out

    assert (compared["first"]["name"], compared["second"]["name"]) == ("study.good", "study.idle")
    assert compared["first"]["runs"] == ["study.good-seed1", "study.good-seed2"]
    assert compared["configuration"]["learning_rate"] == [5e-3, 1e-9]
    [rows] = compared["evaluations"]
    accuracy = next(one for one in rows["metrics"] if one["metric"] == "accuracy")
    assert accuracy["first"]["runs"] == 2
    assert accuracy["first"]["deviation"] is not None
    assert accuracy["difference"] < 0
    assert accuracy["sentence"]
    assert "McNemar's exact test" in shown
    assert "is worse than study.good-seed1" in shown


def test_a_run_beside_one_that_is_hardly_different_is_noise(shell, study, reviews, tiny, unseen):
    shell.objects("train", reviews, "--name", "twin", "--model", tiny, *FAST, "--seed", 1)
    shell.objects("eval", "twin", unseen)

    [compared] = shell.objects("compare", "study.good-seed1", "twin")

    assert {one["verdict"] for one in compared["evaluations"][0]["metrics"]} == {"noise"}
    assert compared["evaluations"][0]["mcnemar"]["p_value"] == 1
    assert compared["configuration"] == {}


def test_mistakes_are_one_sentence_and_start_nothing(shell, study, reviews, tiny, unseen, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    odd = shell.directory / "odd.csv"
    odd.write_text("text,label\na film,odd\nthe film,negative\n")
    train = ("train", reviews, "--model", tiny, *FAST, "--name", "never")
    mistakes = [
        (("eval", "study.good-seed1", odd), "which is not among those of the training rows"),
        (("eval", "study.good-seed1", unseen, "--metric", "mse"), "metric is 'mse', but should be one of"),
        (("eval", "study.good-seed1", unseen, "--slice-by", "nowhere"), "has no column 'nowhere'"),
        (("eval", "study.good-seed1", unseen, "--set", "resamples=5"), "resamples is '5', but should be"),
        (("eval", "study", unseen), "is an experiment of 4 runs"),
        (("eval", "study.good-seed1", "nowhere.csv"), "there is no file or directory 'nowhere.csv'"),
        ((*train, "--seeds", "1,2,1"), "seeds has 1 more than once"),
        ((*train, "--seeds", "1,x"), "seeds.1 is 'x', but should be a valid integer"),
        ((*train, "--slice-by", "source"), "there is no --eval-data to slice"),
        ((*train, "--eval-data", odd), "which is not among those of the training rows"),
        ((*train, "--eval-data", unseen, "--pattern", "bert_finetune"), "evaluates nothing; use bert_eval"),
        ((*train, "--max-concurrent", "0"), "max_concurrent is '0', but should be"),
        (("compare", "study.good-seed1"), "name at least one other to compare it with"),
        (("compare", "study.good-seed1", "study"), "'study.good' is named twice"),
        (("compare", "study.good-seed1", "nobody"), "there is no run 'nobody'"),
    ]
    for typed, sentence in mistakes:
        told = terminal.type(*typed)
        assert (told.code, sentence in told.sentence()) == (2, True), (typed, told)
    terminal.require_nothing_left()


def test_runs_without_a_common_evaluation_are_not_compared(shell, study, reviews, tiny, monkeypatch, capfd):
    shell.objects("train", reviews, "--name", "alone", "--model", tiny, *FAST, "--seed", 9)

    told = Terminal.of(shell, monkeypatch, capfd).type("compare", "study.good-seed1", "alone")

    assert told.code == 2
    assert "have no evaluation in common" in told.sentence()
    assert "durabert eval alone DATA" in told.sentence()
