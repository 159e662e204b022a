"""``durabert audit`` and ``reproduce``, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from durabert.activities.audit import audited
from durabert.store.objects import open_store
from tests.shell import Shell

FAST = ("--epochs", 2, "--batch-size", 16, "--lr", "5e-3", "--max-length", 32, "--seed", 11)


@pytest.fixture(scope="module")
def audited_run(shell: Shell, reviews: Path, tiny: Path) -> dict:
    [run] = shell.objects(
        "train", reviews, "--name", "audited", "--model", tiny, *FAST, "--checkpoint-every", 10
    )
    return run["result"]


def findings_of(report: dict) -> dict[str, str]:
    return {finding["subject"]: finding["state"] for finding in report["findings"]}


def test_an_audit_proves_what_was_run_on_what_and_is_kept(terminal, shell, audited_run):
    done = terminal.type("audit", "audited", "--output", "report.md")

    assert done.code == 0, done.err
    assert "report.md: nothing contradicts the record in" in done.out
    report = (shell.directory / "report.md").read_text()
    assert "**The record holds.**" in report
    for said in (
        audited_run["model_sha256"], audited_run["snapshot"], audited_run["lineage"]["base_model_sha256"],
        audited_run["lineage"]["started_by"], "| seed | 11 |", "| history | holds |", "| data | holds |",
    ):  # fmt: skip
        assert said in report


def test_an_audit_checks_history_and_store_against_each_other(terminal, audited_run):
    [report] = terminal.objects("audit", "audited")

    states = findings_of(report)
    assert report["holds"]
    assert set(states.values()) == {"ok"}, states
    assert {
        "history", "journal", "result", "model", "curve", "snapshot", "result in the history",
        "request in the history", "snapshot in the history", "start in the journal", "data", "base model",
        "code",
    } <= states.keys()  # fmt: skip
    assert report["facts"]["workflow"].startswith("CheckpointedBertTrainingWorkflow audited, execution ")


def test_the_store_is_audited_where_the_history_is_gone(terminal, shell, audited_run, tmp_path):
    # Another server over the same store: it has never heard of the run.
    elsewhere = {"DURABERT_HOME": str(tmp_path / "home"), "DURABERT_STORE": str(shell.home / "store")}

    [report] = terminal.objects("audit", "audited", **elsewhere)

    states = findings_of(report)
    assert report["holds"]
    assert states.pop("history") == "gone"
    assert set(states.values()) == {"ok"}
    assert report["facts"]["started by"] == audited_run["lineage"]["started_by"]


@pytest.fixture
def stored(shell: Shell, audited_run: dict):
    """The result of the run in the store, put back as it was."""
    path = shell.home / "store" / "runs" / "audited" / "result.json"
    before = path.read_bytes()
    yield path
    path.write_bytes(before)


def tamper(stored: Path, field: str, value: object) -> None:
    document = json.loads(stored.read_text())
    document["result"][field] = value
    stored.write_text(json.dumps(document, sort_keys=True, indent=1))


def test_a_result_that_was_changed_does_not_hold(terminal, stored):
    tamper(stored, "metrics", {"accuracy": 1.0})

    done = terminal.type("audit", "audited")

    assert done.code == 1, done.err
    assert "**The record does not hold.**" in done.out
    assert "| result in the history | **different** | its metrics is another |" in done.out


@pytest.mark.parametrize(
    ("field", "value", "different"),
    [
        ("model_sha256", "0" * 64, {"result", "model"}),
        ("data_sha256", "0" * 64, {"result", "start in the journal", "data"}),
        ("notices", ["nothing"], {"result"}),
    ],
)
def test_the_store_alone_shows_that_a_result_was_changed(shell, stored, field, value, different):
    tamper(stored, field, value)
    objects = open_store(None, home=shell.home)

    findings = list(audited(objects, shell.home, "audited", None, report=lambda _: None))

    assert {finding.subject for finding in findings if finding.state == "different"} == different


def test_a_linked_run_is_audited_with_the_one_that_was_trained(terminal, audited_run, reviews, tiny):
    terminal.objects("train", reviews, "--name", "audited-link", "--model", tiny, *FAST)

    [report] = terminal.objects("audit", "audited-link")

    states = findings_of(report)
    assert report["holds"], states
    assert states["audited: curve"] == states["link to audited"] == states["data"] == "ok"


def test_a_failed_run_is_audited_without_a_result(terminal, shell, reviews):
    terminal.type("train", reviews, "--name", "audited-failed", "--model", shell.directory)

    [report] = terminal.objects("audit", "audited-failed")

    assert findings_of(report) == {"history": "ok", "store": "gone"}
    assert report["facts"]["status"].startswith("failed: ModelInvalid")


def test_a_run_is_reproduced_to_the_last_bit(terminal, audited_run):
    [report] = terminal.objects("reproduce", "audited", "--name", "audited-twice")

    states = findings_of(report)
    assert report["equal"], report
    assert states == dict.fromkeys(
        ["data", "base model", "weights", "state", "metrics", "test metrics", "curve"], "ok"
    )
    [run] = terminal.objects("show", "audited-twice")
    assert run["result"]["lineage"]["reproduces"] == "audited"
    assert run["reused_from"] is None


def test_what_differs_is_told_and_the_machine_is_warned_of_first(terminal, stored):
    versions = json.loads(stored.read_text())["result"]["versions"]
    tamper(stored, "versions", {**versions, "torch": "1.0"})
    tamper(stored, "model_sha256", "0" * 64)

    done = terminal.type("reproduce", "audited", "--name", "audited-twice")

    assert done.code == 1, done.err
    assert "The bits may differ, here is torch" in done.err
    assert "joined it, nothing is trained twice" in done.err
    assert "audited-twice differs from audited: weights" in done.out


def test_a_run_that_has_no_result_is_not_reproduced(terminal):
    done = terminal.type("reproduce", "audited-failed")

    assert done.code == 2
    assert "run 'audited-failed' has no result to compare with, it is failed" in done.err


def test_a_run_that_nobody_knows_is_told(terminal):
    done = terminal.type("audit", "nobody")

    assert (done.code, done.err) == (
        2,
        "durabert: there is no run 'nobody'; 'durabert runs' lists them\n",
    )
