"""``durabert export`` and ``predict --engine``, as a user types them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from durabert.bert.quiet import quiet_libraries
from tests.shell import Shell
from tests.terminal import Terminal

FAST = ("--epochs", 6, "--batch-size", 8, "--lr", "5e-3", "--max-length", 32)
TEXTS = ("it was fine and the music was lovely", "a poor story", "a fine plot and a lovely film was it")


@pytest.fixture(scope="module")
def trained(shell: Shell, reviews: Path, tiny: Path) -> dict:
    [run] = shell.objects("train", reviews, "--name", "to-export", "--model", tiny, *FAST)
    return run


@pytest.fixture(scope="module")
def exported(shell: Shell, trained: dict) -> dict:
    [result] = shell.objects("export", "to-export", "--format", "onnx-int8", "--output", "int8")
    return result


def test_an_export_says_how_it_compares(shell, trained, exported):
    assert exported["model_sha256"] == trained["model_sha256"]
    assert exported["output"] == str(shell.directory / "int8")
    parity = exported["parity"]
    assert (parity["metric"], parity["rows"]) == ("accuracy", trained["result"]["rows"]["validation"])
    assert parity["labels_equal"] >= 0.995
    assert parity["reference"] == pytest.approx(trained["metrics"]["accuracy"], abs=0.05)
    assert json.loads((shell.directory / "int8" / "durabert.json").read_text())["parity"] == parity


@pytest.fixture(scope="module")
def labels(shell: Shell, trained: dict) -> list[str]:
    """What torch predicts for the texts."""
    answers = shell.objects("predict", "to-export", *TEXTS)
    assert answers[0]["label"] != answers[1]["label"]
    return [answer["label"] for answer in answers]


@pytest.mark.parametrize("engine", ["torch", "onnx", "onnx-int8"])
def test_every_engine_predicts_in_the_order_of_the_texts(engine, shell, labels, exported):
    answers = shell.objects("predict", "to-export", *TEXTS, "--engine", engine)

    assert [answer["text"] for answer in answers] == list(TEXTS)
    assert [answer["label"] for answer in answers] == labels


def test_a_file_is_predicted_by_another_engine(shell, trained, exported, reviews):
    [said] = shell.objects(
        "predict", "to-export", "--input", reviews, "--output", "by-int8.csv", "--engine", "onnx-int8"
    )

    assert (said["engine"], said["precision"], said["rows"]) == ("onnx-int8", "int8", 240)
    assert said["model_sha256"] == trained["model_sha256"]


def test_the_same_export_again_succeeds_and_writes_nothing(shell, exported):
    before = {path: path.stat().st_mtime_ns for path in (shell.directory / "int8").iterdir()}

    done = shell.run("export", "to-export", "--format", "onnx-int8", "--output", "int8")

    assert done.returncode == 0
    assert "holds this export already" in done.stderr
    assert "same label for " in done.stdout
    assert {path: path.stat().st_mtime_ns for path in (shell.directory / "int8").iterdir()} == before


def test_an_hf_export_is_a_model_that_transformers_loads(shell, labels):
    from transformers import pipeline

    [result] = shell.objects("export", "to-export", "--output", "plain")

    assert (result["format"], result["parity"], result["onnx_sha256"]) == ("hf", None, None)
    with quiet_libraries():
        classify = pipeline("text-classification", model=result["output"], device="cpu")
        answers = classify(list(TEXTS))
    assert [answer["label"] for answer in answers] == labels


def test_a_run_without_a_snapshot_needs_its_data(shell, reviews, tiny, monkeypatch, capfd):
    # Another seed: weights that have passed the gate need no data again.
    options = ("--pattern", "bert_finetune", "--model", tiny, *FAST, "--seed", 7)
    [run] = shell.objects("train", reviews, "--name", "no-snapshot", *options)
    terminal = Terminal.of(shell, monkeypatch, capfd)

    refused = terminal.type("export", "no-snapshot", "--format", "onnx", "--output", "no-data")
    asked = terminal.type("predict", "no-snapshot", "text", "--engine", "onnx")
    done = terminal.type(
        "export", "no-snapshot", "--format", "onnx", "--output", "with-data", "--data", reviews, "--json"
    )
    predicted = terminal.type("predict", "no-snapshot", *TEXTS, "--engine", "onnx", "--json")

    for told in (refused, asked):
        assert told.code == 2
        assert "has no snapshot of its data" in told.sentence()
        assert "durabert export no-snapshot --data DATA" in told.sentence()
    assert not (shell.directory / "no-data").exists()
    [result] = done.objects()
    assert result["notices"] == []
    assert result["parity"]["data_sha256"] == run["result"]["data_sha256"]
    assert [answer["text"] for answer in predicted.objects()] == list(TEXTS)


def test_a_directory_with_other_files_stays_as_it_is(shell, exported, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    other = shutil.copytree(shell.directory / "int8", shell.directory / "other")
    (other / "durabert.json").unlink()

    told = terminal.type("export", "to-export", "--output", "other")

    assert told.code == 2
    assert "holds other files; choose a new or an empty directory" in told.sentence()
    assert sorted(path.name for path in other.iterdir()) == sorted(
        path.name for path in (shell.directory / "int8").iterdir() if path.name != "durabert.json"
    )
    terminal.require_nothing_left()


def test_an_export_of_another_format_is_not_replaced(shell, exported, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type("export", "to-export", "--format", "onnx", "--output", "int8")

    assert told.code == 2
    assert "holds the onnx-int8 export of run 'to-export'" in told.sentence()
