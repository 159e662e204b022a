"""A run is what goes into it: asked for again under another name, it is linked and not trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shell import Shell

FAST = ("--epochs", 2, "--batch-size", 16, "--lr", "5e-3", "--max-length", 32, "--seed", 7)


@pytest.fixture(scope="module")
def first(shell: Shell, reviews: Path, tiny: Path) -> dict:
    [run] = shell.objects("train", reviews, "--name", "reuse-first", "--model", tiny, *FAST)
    return run["result"]


def entry_of(shell: Shell, result: dict) -> Path:
    return shell.home / "store" / "inputs" / f"{result['lineage']['inputs_sha256']}.json"


def test_a_result_says_what_it_was_made_of(shell, first, tiny):
    lineage = first["lineage"]

    assert first["reused_from"] is None
    assert "@" in lineage["started_by"]
    assert {"cpu", "cores", "memory"} <= lineage["hardware"].keys()
    assert json.loads(entry_of(shell, first).read_text())["run"] == "reuse-first"
    journal = shell.home / "store" / "runs" / "reuse-first" / "journal" / "00000001.json"
    assert json.loads(journal.read_text())["body"]["environment"]["lineage"] == lineage


def test_the_same_inputs_under_another_name_are_linked_and_told(terminal, shell, first, reviews, tiny):
    copy = tiny.parent / "same-model"
    copy.mkdir()
    for file in tiny.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())

    done = terminal.type("train", reviews, "--name", "reuse-second", "--model", copy, *FAST)

    assert done.code == 0, done.err
    assert "note: reuse-second has the inputs of run reuse-first and is linked to it" in done.out
    [run] = terminal.objects("show", "reuse-second")
    assert run["reused_from"] == "reuse-first"
    assert run["model_sha256"] == first["model_sha256"]
    assert run["metrics"] == first["metrics"]
    assert not (shell.home / "store" / "runs" / "reuse-second" / "journal").exists()
    assert (Path(run["directory"]) / "model" / "model.safetensors").is_file()
    verified = terminal.type("verify", "reuse-second", "--replay-steps", 1000)
    assert verified.code == 0, verified.out
    assert "reuse-first: losses derived anew" in verified.out


@pytest.mark.parametrize("changed", [("--seed", 8), ("--no-reuse",)], ids=["another seed", "told to train"])
def test_other_inputs_or_a_wish_train(terminal, changed, first, reviews, tiny):
    name = f"reuse-{changed[0].strip('-')}"

    [run] = terminal.objects("train", reviews, "--name", name, "--model", tiny, *FAST, *changed)

    assert run["reused_from"] is None
    assert run["result"]["attempt_log"]


def test_a_damaged_model_is_a_miss_and_the_next_run_takes_its_place(terminal, shell, reviews, tiny):
    options = ("--model", tiny, *FAST, "--set", "warmup_ratio=0.2")
    [old] = terminal.objects("train", reviews, "--name", "reuse-damaged", *options)
    stored = json.loads((shell.home / "store" / "runs" / "reuse-damaged" / "result.json").read_text())
    # What tells of this training alone: other runs share the rest.
    digest = stored["files"]["metrics.json"]
    blob = shell.home / "store" / "blobs" / "sha256" / digest[:2] / digest
    blob.write_bytes(blob.read_bytes()[:-1])

    [new] = terminal.objects("train", reviews, "--name", "reuse-repaired", *options)

    assert new["reused_from"] is None
    assert new["model_sha256"] == old["model_sha256"]
    assert json.loads(entry_of(shell, new["result"]).read_text())["run"] == "reuse-repaired"


def test_a_linked_run_is_trained_on_from_the_checkpoints_of_the_other(terminal, first, reviews, tiny):
    terminal.objects("train", reviews, "--name", "reuse-link", "--model", tiny, *FAST)

    more = ("--model", tiny, *FAST, "--epochs", 3, "--from", "reuse-link")
    [run] = terminal.objects("train", reviews, "--name", "reuse-longer", *more)

    assert run["parent"]["run"] == "reuse-link"
    assert run["steps"] == first["steps"] // 2 * 3
