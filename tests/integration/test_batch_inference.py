"""``durabert predict`` into a directory, as a user types it, and with what may be wrong about it."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from tests.batches import contents, ids_in, publish, train_model, write_input
from tests.integration.test_bad_input import require_mistake
from tests.s3 import BUCKET, S3Server
from tests.shell import Shell
from tests.unit.test_batch_jobs import Batch

NUM_ROWS = 60
CUT = ("--shard-rows", 25, "--device", "cpu")


@pytest.fixture(scope="module")
def run(shell: Shell, reviews: Path, tiny: Path) -> str:
    """The name of a run that has a model."""
    shell.objects("train", reviews, "--name", "batched", "--model", tiny, "--epochs", 1, "--max-length", 32)
    return "batched"


@pytest.fixture(scope="module")
def texts(shell: Shell) -> Path:
    return write_input(shell.directory / "large.csv", NUM_ROWS, without_text=(30,))


@pytest.fixture(scope="module")
def predicted(shell: Shell, run: str, texts: Path) -> Path:
    """A directory with the predictions on all texts."""
    [result] = shell.objects("predict", run, "--input", texts, "--output", "predicted", *CUT)
    assert (result["rows"], result["predicted"], result["errors"], result["shards"]) == (NUM_ROWS, 59, 1, 3)
    assert not result["reused"]
    return Path(result["output"])


def test_a_directory_gets_the_predictions_in_the_order_of_the_rows(predicted):
    assert ids_in(predicted, "predictions") == [f"r{number}" for number in range(NUM_ROWS) if number != 30]
    assert ids_in(predicted, "errors") == ["r30"]
    assert sorted(path.name for path in (predicted / "predictions").iterdir()) == [
        "000000000000-000000000024.parquet",
        "000000000025-000000000049.parquet",
        "000000000050-000000000059.parquet",
    ]


def test_the_same_command_finds_what_is_there(predicted, run, texts, terminal):
    before = contents(predicted)

    told = terminal.type("predict", run, "--input", texts, "--output", predicted, "--concurrency", 2)

    assert told.code == 0
    assert "holds these predictions already; nothing is predicted twice" in told.err
    assert "59 of 60 rows predicted: " in told.out
    assert contents(predicted) == before


def test_another_run_does_not_write_into_it(predicted, shell, reviews, tiny, texts, terminal):
    shell.objects("train", reviews, "--name", "rival", "--model", tiny, "--epochs", 2, "--max-length", 32)
    before = contents(predicted)

    told = terminal.type("predict", "rival", "--input", texts, "--output", predicted)

    require_mistake(told, ("holds predictions of run 'batched'", "not of run 'rival'", "another directory"))
    assert contents(predicted) == before


def test_predictions_go_to_s3(texts, tmp_path, monkeypatch):
    publish(tmp_path / "home", "films", train_model(tmp_path))
    batch = Batch(tmp_path / "home")
    with S3Server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        first = batch.all(texts, f"s3://{BUCKET}/some/predictions")
        again = batch.plan(texts, f"s3://{BUCKET}/some/predictions")
    batch.all(texts, tmp_path / "local")

    assert again.result is not None
    assert again.result.result_sha256 == first["result_sha256"]
    assert contents(tmp_path / "s3" / BUCKET / "some" / "predictions") == contents(tmp_path / "local")


def test_ctrl_c_detaches_and_says_how_to_go_on(shell, run, tmp_path):
    texts = write_input(tmp_path / "texts.csv", 3000)
    command = ("predict", run, "--input", texts, "--output", tmp_path / "out", "--shard-rows", 10)
    process = shell.start(*command, "--concurrency", 1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "shards").is_dir():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "no shard is committed"
        time.sleep(0.05)

    process.send_signal(signal.SIGINT)
    _, printed = process.communicate(timeout=30)

    assert process.returncode == 130
    name = printed.split("durabert cancel ")[1].split()[0]
    assert name.startswith("batch:batched:")
    assert f"durabert watch {name}" in printed
    cancelled = shell.run("cancel", name)
    assert cancelled.returncode == 0, cancelled.stderr
    assert "no process of it is left" in cancelled.stderr
    assert not (tmp_path / "out" / "result.json").exists()
    watched = shell.run("watch", name)
    assert (watched.returncode, watched.stderr) == (1, "durabert: it was cancelled\n")
    require_once(tmp_path / "out", committed=len(list((tmp_path / "out" / "shards").iterdir())))


def require_once(output: Path, *, committed: int) -> None:
    """Fail unless the committed shards hold the first rows, each of them once."""
    records = sorted((output / "shards").iterdir())
    named = [json.loads(record.read_text())["predictions"]["path"] for record in records]
    assert 0 < committed == len(named) < 300
    assert named == [f"predictions/{record.stem}.parquet" for record in records]
    assert ids_in(output, "predictions")[: 10 * committed] == [f"r{n}" for n in range(10 * committed)]


AT_ONCE = [
    ("no rows in a shard", ("--shard-rows", 0), ("shard_rows is '0'", "greater than or equal to 1")),
    ("too many in a shard", ("--shard-rows", 250_001), ("shard_rows is '250001'", "250000")),
    ("shards in words", ("--shard-rows", "many"), ("shard_rows is 'many'", "valid integer")),
    ("none at once", ("--concurrency", 0), ("concurrency is '0'", "greater than or equal to 1")),
    ("too many at once", ("--concurrency", 65), ("concurrency is '65'", "64")),
    ("a file", ("--output", "reviews"), ("reviews' is a file, but should be a directory",)),
    ("no directory above", ("--output", "no/such/place"), ("no/such' does not exist", "create it")),
    ("nothing named", ("--output", ""), ("output is ''", "at least 1 character")),
    ("no input file", ("--input", "no.csv"), ("'no.csv'", "there is no file")),
    ("shards of a file", ("--output", "o.csv", "--shard-rows", 5), ("shard_rows is '5'", "directory")),
    ("concurrency of a file", ("--output", "o.csv", "--concurrency", 5), ("concurrency is '5'", "directory")),
    ("unknown run", (), ("no run 'nobody'",)),
]


@pytest.mark.parametrize(("typed", "says"), [one[1:] for one in AT_ONCE], ids=[one[0] for one in AT_ONCE])
def test_a_mistake_is_told_at_once_and_nothing_is_written(typed, says, shell, texts, terminal):
    (shell.directory / "reviews").write_text("a file")

    told = terminal.type("predict", "nobody", "--input", texts, "--output", "fresh", *typed)

    require_mistake(told, says)
    assert not (shell.directory / "fresh").exists()
    assert not (shell.directory / "o.csv").exists()
    assert (shell.directory / "reviews").read_text() == "a file"


def test_texts_do_not_go_to_a_directory(run, terminal):
    told = terminal.type("predict", run, "a text", "--output", "fresh")

    require_mistake(told, ("output is 'fresh'", "--input file"))


ON_THE_WORKER = [
    ("missing column", ("--text", "txt"), ("no column 'txt'", "'id', 'text'")),
    ("missing column of ids", ("--row-id", "key"), ("no column 'key'",)),
    ("other things", ("--output", "."), ("holds other things, such as",)),
    ("unknown scheme", ("--output", "ftp://example.org/x"), ("'ftp://example.org/x'", "s3://")),
    ("no bucket", ("--output", "s3://"), ("names no bucket",)),
    ("memory", ("--output", "memory:///x"), ("gone with the process",)),
]


@pytest.mark.parametrize(
    ("typed", "says"), [one[1:] for one in ON_THE_WORKER], ids=[one[0] for one in ON_THE_WORKER]
)
def test_a_mistake_that_the_worker_finds_fails_once(typed, says, run, shell, texts, terminal):
    before = {path.name for path in shell.directory.iterdir()}

    told = terminal.type("predict", run, "--input", texts, "--output", "fresh", *typed)

    require_mistake(told, says)
    assert {path.name for path in shell.directory.iterdir()} == before
    terminal.require_nothing_left()
