"""``durabert data``: snapshots from the command line, without a server."""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.shell import Shell, write_reviews


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Shell, dict]:
    """40 reviews, no engine, and a store with a snapshot of them."""
    directory = tmp_path_factory.mktemp("data-commands")
    write_reviews(directory / "reviews.csv", rows=40)
    shell = Shell(directory / "home", directory)
    [added] = shell.objects("data", "add", "reviews.csv")
    return shell, added


@pytest.fixture
def shell(first, tmp_path: Path) -> Shell:
    """A copy, to damage."""
    directory = shutil.copytree(first[0].directory, tmp_path / "copy")
    return Shell(directory / "home", directory)


@pytest.fixture
def added(first) -> dict:
    return first[1]


def rewrite(path: Path, change) -> Path:
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    target = path.with_name("changed.csv")
    with target.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *change(rows)])
    return target


def blob_of(shell: Shell, snapshot: str, name: str) -> Path:
    store = shell.home / "store"
    manifest = json.loads((store / "snapshots" / snapshot / "manifest.json").read_bytes())
    digest = manifest["files"][name]["sha256"]
    return store / "blobs" / "sha256" / digest[:2] / digest


def test_add_stores_the_same_content_once(shell, added):
    [again] = shell.objects("data", "add", "reviews.csv")

    assert added["created"]
    assert added["rows"] == {"train": 40}
    assert sorted(added["columns"]) == ["label", "text"]
    assert (again["snapshot"], again["created"]) == (added["snapshot"], False)


def test_add_takes_the_other_splits_and_how_to_read_them(shell):
    (shell.directory / "t.csv").write_text("body;mark\na film;x\nanother film;y\n")
    (shell.directory / "v.csv").write_text("body;mark\na third film;x\n")

    [added] = shell.objects(
        "data", "add", "t.csv", "--validation", "v.csv", "--test", "v.csv",
        "--text", "body", "--label", "mark", "--data", "delimiter=;",
    )  # fmt: skip

    assert added["rows"] == {"train": 2, "validation": 1, "test": 1}


def test_list_and_show_tell_what_is_there(shell, added):
    [listed] = shell.objects("data", "list")
    [shown] = shell.objects("data", "show", added["snapshot"][:8])
    text = shell.run("data", "list").stdout

    assert shown == listed
    assert (listed["snapshot"], listed["name"]) == (added["snapshot"], "reviews.csv")
    assert listed["rows"] == {"train": 40}
    assert listed["bytes"] > 0
    assert added["snapshot"][:12] in text
    assert added["snapshot"][:13] not in text


def test_verify_names_each_damaged_file(shell, added):
    assert [line["state"] for line in shell.objects("data", "verify")] == ["ok"]
    rows, manifest = (blob_of(shell, added["snapshot"], name) for name in ("train.parquet", "manifest.json"))
    rows.write_bytes(rows.read_bytes()[:-1])
    manifest.unlink()

    done = shell.run("data", "verify", added["snapshot"][:8], "--json")
    details = [json.loads(line)["detail"] for line in done.stdout.splitlines()]

    assert done.returncode == 1, done.stderr
    assert len(details) == 2
    assert [name for name in ("train.parquet", "manifest.json") if not any(name in d for d in details)] == []


def test_verify_finds_rows_that_are_not_those_of_the_id(shell, added):
    manifest = shell.home / "store" / "snapshots" / added["snapshot"] / "manifest.json"
    file = blob_of(shell, added["snapshot"], "train.parquet")
    table = pq.read_table(file)
    pq.write_table(
        table.set_column(1, table.column_names[1], table.column(1).take(list(range(39, -1, -1)))), file
    )
    data = file.read_bytes()
    told = json.loads(manifest.read_bytes())
    told["files"]["train.parquet"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    manifest.write_text(json.dumps(told))
    moved = blob_of(shell, added["snapshot"], "train.parquet")
    moved.parent.mkdir(exist_ok=True)
    file.rename(moved)

    done = shell.run("data", "verify")

    assert done.returncode == 1, done.stdout + done.stderr
    assert "the rows of the split 'train' are not those of its id" in done.stdout


def test_list_names_a_damaged_snapshot_and_goes_on(shell, added):
    write_reviews(shell.directory / "more.csv", rows=20, seed=1)
    [other] = shell.objects("data", "add", "more.csv")
    blob_of(shell, added["snapshot"], "manifest.json").unlink()

    done = shell.run("data", "list", "--json")

    assert done.returncode == 0, done.stderr
    assert other["snapshot"] in done.stdout
    assert "damaged" in done.stdout + done.stderr


def test_diff_counts_what_changed(shell, added):
    def change(rows):
        (first, label), *rest = rows[:-2]
        return [(first, "negative" if label == "positive" else "positive"), *rest, ("a new film", "positive")]

    changed = rewrite(shell.directory / "reviews.csv", change)
    [other] = shell.objects("data", "add", changed)

    [found] = shell.objects("data", "diff", added["snapshot"], other["snapshot"])

    counts = {kind: change["count"] for kind, change in found.items()}
    assert counts == {"added": 1, "removed": 2, "relabelled": 1, "changed": 0, "moved": 0}
    assert "a new film" in str(found["added"]["examples"])


def test_diff_sees_rows_move_between_splits(shell):
    rows = [f"film number {number},{'ab'[number % 2]}\n" for number in range(12)]
    ids = []
    for cut in (10, 6):
        (shell.directory / "t.csv").write_text("text,label\n" + "".join(rows[:cut]))
        (shell.directory / "v.csv").write_text("text,label\n" + "".join(rows[cut:]))
        ids += [one["snapshot"] for one in shell.objects("data", "add", "t.csv", "--validation", "v.csv")]

    [found] = shell.objects("data", "diff", *ids)

    assert {kind: change["count"] for kind, change in found.items()} == {
        "added": 0, "removed": 0, "relabelled": 0, "changed": 0, "moved": 4,
    }  # fmt: skip
    assert len(found["moved"]["examples"]) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("show", "0" * 8), "no snapshot '00000000'"),
        (("verify", "1234"), "no snapshot '1234'"),
        (("add", "absent.csv"), "absent.csv"),
        (("add", "reviews.csv", "--label", "colour"), "no column 'colour'"),
        (("add", "reviews.csv", "--data", "colour"), "FIELD=VALUE"),
    ],
)
def test_a_mistake_is_one_sentence(shell, arguments, said):
    done = shell.run("data", *arguments)

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
