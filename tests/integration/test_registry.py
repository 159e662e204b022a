"""``durabert promote``, ``approve``, ``reject`` and ``registry``, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.shell import Shell, write_reviews

FAST = ("--batch-size", 8, "--lr", "5e-3", "--max-length", 32)


@pytest.fixture(scope="module")
def runs(shell: Shell, reviews: Path, tiny: Path) -> None:
    """A good run, and one that has learned nothing."""
    shell.objects("train", reviews, "--name", "good", "--model", tiny, "--epochs", 4, *FAST)
    shell.objects("train", reviews, "--name", "poor", "--model", tiny, "--epochs", 1, *FAST, "--lr", "1e-7")


@pytest.fixture(scope="module")
def champion(shell: Shell, runs: None) -> dict:
    [result] = shell.objects("promote", "good", "--to", "reviews@champion", "--min-metric", "accuracy=0.8")
    return result


def test_a_promoted_model_is_used_by_its_alias(terminal, champion):
    assert (champion["status"], champion["version"]) == ("promoted", 1)
    assert [gate["gate"] for gate in champion["gates"]] == ["artifact", "min accuracy"]

    done = terminal.type("predict", "reviews@champion", "a good film", "--json")

    assert json.loads(done.out)["label"] == "positive"
    assert "reviews@champion is version 1 of reviews, run good" in done.err
    [exported] = terminal.objects("export", "reviews@1", "--output", "by-version")
    assert exported["run"] == "good"
    assert terminal.type("verify", "reviews@champion").code == 0


def test_a_model_that_a_gate_refuses_stays_out(terminal, champion):
    low = terminal.type("promote", "poor", "--to", "reviews@staging", "--min-metric", "accuracy=0.99")
    worse = terminal.type("promote", "poor", "--to", "reviews@champion")

    assert low.code == worse.code == 1
    assert "and should be at least 0.99" in low.out
    assert "that of run good" in worse.out
    assert "poor is not reviews@champion: refused" in worse.out
    [model] = terminal.objects("registry", "reviews")
    assert (model["aliases"], len(model["versions"])) == ({"champion": 1}, 1)


def test_the_champion_is_beaten_on_rows_that_both_were_evaluated_on(terminal, shell, champion):
    # Rows that no other file has: the same rows are one snapshot, under the name that they first came under.
    write_reviews(shell.directory / "contested.csv", rows=240, seed=6)
    for run in ("reviews@champion", "poor"):
        terminal.objects("eval", run, "contested.csv")

    worse = terminal.type("promote", "poor", "--to", "reviews@champion")

    assert worse.code == 1
    assert "poor is worse than good: accuracy" in worse.out
    assert "on 240 rows of contested" in worse.out


def test_an_approval_is_waited_for_and_kept(terminal, champion):
    asked = terminal.type("promote", "good", "--to", "reviews@production", "--require-approval")
    again = terminal.type("promote", "poor", "--to", "reviews@production", "--require-approval")
    [waits] = terminal.objects("registry", "reviews", "--open")
    unreasoned = terminal.type("approve", "reviews@production", "--reason", " ")
    approved = terminal.type("approve", "reviews@production", "--reason", "looked at 50 errors")
    late = terminal.type("reject", "reviews@production", "--reason", "no")

    assert asked.code == 0, asked.err
    assert (waits["request"]["run"], waits["reminders"]) == ("good", 0)
    assert "durabert approve reviews@production --reason TEXT" in asked.out
    assert again.code == 2
    assert "is open, that of run 'good'; approve or reject it first" in again.err
    assert "a decision needs a reason" in unreasoned.err
    assert approved.out == "reviews@production is version 1, run good\n"
    assert late.code == 2
    assert "no promotion to reviews@production waits for a decision: run good is version 1" in late.err
    listed = terminal.type("registry", "reviews").out
    assert "champion, production" in listed
    assert "looked at 50 errors" in listed


def test_what_expired_cannot_be_approved(terminal, champion):
    terminal.type(
        "promote", "good", "--to", "reviews@soon", "--require-approval", "--expire-hours", "0.000001"
    )
    late = terminal.type("approve", "reviews@soon", "--reason", "good")

    assert late.code == 2
    assert "it expired at" in late.err
    [model] = terminal.objects("registry", "reviews")
    assert "soon" not in model["aliases"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (("promote", "nobody", "--to", "a@b"), "there is no run 'nobody'"),
        (("promote", "good", "--to", "films"), "'films' should be NAME@ALIAS or NAME@VERSION"),
        (("promote", "good", "--to", "films@3"), "versions number themselves; name an alias"),
        (("promote", "good", "--to", "films@../x"), "alias '../x' is not allowed"),
        (
            ("promote", "good", "--to", "a@b", "--min-metric", "f7=1"),
            "run 'good' has no metric 'f7'; it has ",
        ),
        (
            ("promote", "good", "--to", "a@b", "--min-metric", "accuracy=x"),
            "--min-metric accuracy is 'x', but should be a number",
        ),
        (("promote", "good", "--to", "a@b", "--expire-hours", "1"), "only --require-approval waits"),
        (
            ("promote", "good", "--to", "a@b", "--require-approval", "--expire-hours", "x"),
            "--expire-hours is 'x'",
        ),
        (
            ("promote", "good", "--to", "a@b", "--require-approval", "--remind-hours", "0.1"),
            "remind_after_seconds is 360, but should be at least 6048",
        ),
        (("promote", "nothing@champion", "--to", "a@b"), "the registry has no model 'nothing'"),
        (("predict", "reviews@7", "text"), "its newest version is 1"),
        (("approve", "reviews@nobody", "--reason", "x"), "there is no promotion to reviews@nobody"),
        (("registry", "nothing"), "the registry has no model 'nothing'"),
        (("registry", "../x"), "name '../x' is not allowed"),
    ],
)
def test_a_mistake_is_one_sentence(terminal, champion, command, told):
    done = terminal.type(*command)

    assert done.code == 2, done.out
    assert told in done.err
    assert len(done.err.splitlines()) == 1
