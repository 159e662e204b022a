"""Mistakes, as a user makes them: one sentence, exit code 2, no retry, nothing left behind."""

from __future__ import annotations

import csv
import os
import shutil
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import durabert
from tests.shell import Shell, write_reviews
from tests.terminal import Terminal, Told

FAST = ("--max-length", 32, "--epochs", 1)
LONG = ("--max-length", 32, "--epochs", 1000, "--batch-size", 4)


@dataclass(frozen=True)
class Mistake:
    """What is typed, and what the sentence must contain; ``{bad}`` and ``{tiny}`` are directories."""

    name: str
    typed: tuple[object, ...]
    says: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def arguments(self, **places: Path) -> list[str]:
        return [str(word).format(**places) for word in self.typed]


def mistake(name: str, *typed: object, says: tuple[str, ...], **environment: str) -> Any:
    return pytest.param(Mistake(name, typed, says, environment), id=name)


def train(name: str, *typed: object, says: tuple[str, ...], **environment: str) -> Any:
    return mistake(name, "train", *typed, says=says, **environment)


@pytest.fixture(scope="session")
def bad(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A directory of files and models with something wrong in each."""
    bad = tmp_path_factory.mktemp("bad")
    with write_reviews(bad / "reviews.csv", rows=80).open(newline="") as file:
        texts = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    _write_tables(bad, texts)
    (bad / "latin.csv").write_bytes(b"text,label\n" + "un café très agréable,yes\n".encode("latin-1") * 4)
    (bad / "no-train").mkdir()
    shutil.copy(bad / "reviews.csv", bad / "no-train" / "test.csv")
    for model in ("no-weights", "only-pickle", "no-config"):
        shutil.copytree(tiny, bad / model)
    (bad / "no-weights" / "model.safetensors").unlink()
    (bad / "only-pickle" / "model.safetensors").rename(bad / "only-pickle" / "pytorch_model.bin")
    (bad / "no-config" / "config.json").unlink()
    (bad / "broken.toml").write_text('name = "x\n')
    (bad / "unknown.toml").write_text('data = "reviews.csv"\n[[runs]]\nbatchsize = 3\n')
    (bad / "misplaced.toml").write_text('data = "reviews.csv"\nepochs = 3\n')
    (bad / "number.toml").write_text('data = "reviews.csv"\nruns = 3\n')
    (bad / "no-history.json").write_text('{"events": [{"eventId": "1"}]}')
    (bad / "no-json.json").write_bytes(b"\xff\xfe")
    return bad


def _write_tables(bad: Path, texts: list[tuple[str, str]]) -> None:
    tables = {
        "empty.csv": [],
        "header.csv": [("text", "label")],
        "no-text.csv": [("a", "b", "label"), *((n, 2 * n, label) for n, (_, label) in enumerate(texts))],
        "two-texts.csv": [
            ("text", "sentence", "label"),
            *((text, f"so {text}", label) for text, label in texts),
        ],
        "two-labels.csv": [("text", "label", "labels"), *((text, label, label) for text, label in texts)],
        "no-label.csv": [("text", "idx"), *((text, n) for n, (text, _) in enumerate(texts))],
        "one-class.csv": [("text", "label"), *((text, "good") for text, _ in texts)],
        "other-labels.csv": [("text", "label"), *((text, "neutral") for text, _ in texts)],
        "numbers.csv": [("text", "label"), *((n, label) for n, (_, label) in enumerate(texts))],
        "texts.csv": [("text",), ("the film was great",)],
        "only-header.csv": [("text",)],
        "other-columns.csv": [("a", "b"), (1, 2)],
    }
    for name, rows in tables.items():
        with (bad / name).open("w", newline="") as file:
            csv.writer(file).writerows(rows)


REVIEWS = "{bad}/reviews.csv"
TINY = ("--model", "{tiny}")
ENGINES = ("'torch'", "'onnx'", "'onnx-int8'")
FORMATS = ("'hf'", "'onnx'", "'onnx-int8'")
NAME_RULE = "use 1 to 100 letters, digits, '-' and '_'"

# Told before anything is started: the home directory is not even made.
AT_ONCE = [
    train("missing file", "missing.csv", says=("'missing.csv'", "no file or directory")),
    train("missing path", "./data/missing", says=("'./data/missing'", "no file or directory")),
    train(
        "missing validation", REVIEWS, "--validation", "dev.csv", says=("'dev.csv'", "the validation rows")
    ),
    train("a name that is too long for a file", f"{'x' * 5000}.csv", says=("no file or directory", "xxx...")),
    train("empty file", "{bad}/empty.csv", says=("empty.csv is empty", "at least one row")),
    train("no data", says=("no data was given", "durabert train DATA")),
    train("missing model directory", REVIEWS, "--model", "./mine", says=("'./mine'", "no model directory")),
    train("model is a file", REVIEWS, "--model", REVIEWS, says=("reviews.csv", "expected a directory")),
    train("no model", REVIEWS, "--model", "", says=("model is ''", "at least 1 character")),
    train("batch size 0", REVIEWS, "--batch-size", 0, says=("batch_size is '0'", "or equal to 1")),
    train("no process", REVIEWS, "--num-processes", 0, says=("num_processes is '0'", "'auto'", "equal to 1")),
    train(
        "more processes than rows of a batch", REVIEWS, "--num-processes", 4, "--batch-size", 3,
        says=("num_processes is 4", "at most batch_size, 3"),
    ),
    train(
        "processes on one GPU", REVIEWS, "--num-processes", 2, "--device", "cuda:1",
        says=("num_processes is 2", "'cuda:1', which is one device"),
    ),
    train("negative rate", REVIEWS, "--lr", "-1", says=("learning_rate is '-1'", "greater than 0")),
    train("rate that is no number", REVIEWS, "--lr", "nan", says=("learning_rate is 'nan'", "finite number")),
    train("rate in words", REVIEWS, "--lr", "fast", says=("learning_rate is 'fast'", "valid number")),
    train("epochs and a half", REVIEWS, "--epochs", "1.5", says=("epochs is '1.5'", "valid integer")),
    train("seed too large", REVIEWS, "--seed", 2**32, says=("seed is '4294967296'", "4294967295")),
    train("unknown device", REVIEWS, "--device", "gpu", says=("device is 'gpu'", "cpu, mps, cuda")),
    train("unknown precision", REVIEWS, "--precision", "fp8", says=("precision is 'fp8'", "'bf16'")),
    train("unknown schedule", REVIEWS, "--set", "schedule=step", says=("schedule is 'step'", "'cosine'")),
    train("unknown delimiter", REVIEWS, "--data", "delimiter=ab", says=("delimiter is 'ab'", "1 character")),
    *[
        train(f"name {name[:9]!r}", REVIEWS, "--name", name, says=(f"name {name!r} is not", NAME_RULE))
        for name in ("a/b", "..", "../up", "a b", "x" * 101, "", ".hidden", "-a", "a.b", "\u00e4")
    ],
    train("name of a run", REVIEWS, "--run", "name=a/b", says=("name 'a/b' is not allowed", NAME_RULE)),
    train(
        "runs of one name", REVIEWS, "--run", "name=a", "--run", "name=a", says=("two runs", "'unnamed.a'")
    ),
    train(
        "second run", REVIEWS, "--run", "seed=1", "--run", "seed=x", says=("run 2: seed is 'x'", "integer")
    ),
    train("--set near miss", REVIEWS, "--set", "batchsize=3", says=("'batchsize'", "mean 'batch_size'?")),
    train("--run near miss", REVIEWS, "--run", "batchsize=3", says=("'batchsize'", "mean 'batch_size'?")),
    train("--set unknown", REVIEWS, "--set", "zzz=3", says=("'zzz'", "known are batch_size, best_metric")),
    train("--data near miss", REVIEWS, "--data", "delim=3", says=("'delim'", "mean 'delimiter'?")),
    train("--set without =", REVIEWS, "--set", "epochs", says=("--set 'epochs'", "FIELD=VALUE")),
    train("--run without =", REVIEWS, "--run", "epochs", says=("--run 'epochs'", "FIELD=VALUE")),
    train("TOML near miss", "--config", "{bad}/unknown.toml", says=("'batchsize'", "mean 'batch_size'?")),
    train("TOML misplaced", "--config", "{bad}/misplaced.toml", says=("'epochs'", "[defaults] or [[runs]]")),
    train("TOML of a wrong shape", "--config", "{bad}/number.toml", says=("runs is 3", "[[runs]]")),
    train("broken TOML", "--config", "{bad}/broken.toml", says=("broken.toml' is not TOML", "line 1")),
    train("missing TOML", "--config", "no.toml", says=("'no.toml'", "No such file")),
    train("TOML is a directory", "--config", "{bad}/no-train", says=("no-train'", "Is a directory")),
    train("unknown option", REVIEWS, "--epoch", 3, says=("--epoch", "--epochs", "train --help")),
    train("option without value", REVIEWS, "--epochs", says=("--epochs", "requires an argument")),
    train("too many arguments", REVIEWS, "more", says=("(more)", "train --help")),
    train("not Unicode", "\udcff.csv", says=(r"'\udcff.csv'", "is not valid utf-8")),
    train("unknown profile", REVIEWS, "--profile", "nope", says=("'nope'", "not found", "temporal config")),
    mistake("unknown command", "trian", says=("'trian'", "did you mean 'train'")),
    mistake("unknown profile in a variable", "runs", says=("'nope'",), TEMPORAL_PROFILE="nope"),
    *[
        mistake(f"address {address}", "runs", says=(f"'{address}'", "HOST:PORT"), TEMPORAL_ADDRESS=address)
        for address in ("nonsense", "http://localhost:7233", "localhost", "127.0.0.1:port", "a b:1")
    ],
    mistake("port of an address", "runs", says=("'h:99999'", "port number"), TEMPORAL_ADDRESS="h:99999"),
    mistake(
        "host of an address", "runs", says=("'no.invalid:7233'", "host"), TEMPORAL_ADDRESS="no.invalid:7233"
    ),
    mistake("worker without a server", "worker", says=("no Temporal server", "TEMPORAL_ADDRESS")),
    mistake("slots in words", "worker", "--slots", "two", says=("slots is 'two'", "valid integer")),
    mistake("no slots", "worker", "--slots", 0, says=("slots is '0'", "greater than or equal to 1")),
    mistake("port in words", "up", "--port", "http", says=("port is 'http'", "valid integer")),
    mistake("port too large", "up", "--port", 65536, says=("port is '65536'", "65535")),
    mistake("no run", "predict", says=("'run'", "predict --help")),
    mistake("no text", "predict", "a", says=("list of texts is empty", "at least one text")),
    mistake("blank text", "predict", "a", "good", " ", says=("text 2 is ' '", "at least one word")),
    mistake("text that is too long", "predict", "a", "x" * 100_000, "y" * 162_145, says=("bytes", "file")),
    mistake("hostile run", "predict", "../../up", "text", says=("'../../up' is not allowed", NAME_RULE)),
    mistake("pairs that do not fit", "predict", "a", "x", "y", "--pair", "z", says=("2 texts", "1 pairs")),
    mistake("column without a file", "predict", "a", "x", "--text", "t", says=("text is 't'", "--input")),
    mistake(
        "missing input", "predict", "a", "--input", "no.csv", "--output", "o.csv",
        says=("'no.csv'", "there is no file"),
    ),
    mistake(
        "empty input", "predict", "a", "--input", "{bad}/empty.csv", "--output", "o.csv",
        says=("empty.csv is empty", "at least one row"),
    ),
    mistake(
        "input is a directory", "predict", "a", "--input", "{bad}", "--output", "o.csv",
        says=("is a directory", "a file was expected"),
    ),
    mistake("no output", "predict", "a", "--input", "{bad}/texts.csv", says=("need an output file",)),
    mistake("output of a text", "predict", "a", "x", "--output", "o.csv", says=("output is 'o.csv'",)),
    mistake(
        "unknown suffix", "predict", "a", "--input", "{bad}/texts.csv", "--output", "o.xml",
        says=("'o.xml'", ".csv, .jsonl, .parquet"),
    ),
    mistake(
        "missing output directory", "predict", "a", "--input", "{bad}/texts.csv", "--output", "no/o.csv",
        says=("no' does not exist", "create it"),
    ),
    mistake(
        "output is the input", "predict", "a", "--input", "{bad}/texts.csv", "--output", "{bad}/texts.csv",
        says=("texts.csv' is the input file",),
    ),
    mistake("unknown engine", "predict", "a", "x", "--engine", "xla", says=("engine is 'xla'", *ENGINES)),
    mistake(
        "device of an engine", "predict", "a", "x", "--engine", "onnx", "--device", "cuda",
        says=("device is 'cuda'", "auto or cpu", "'onnx'"),
    ),
    mistake(
        "engine of a batch", "predict", "a", "--input", "{bad}/texts.csv", "--output", "o/",
        "--engine", "onnx",
        says=("engine is 'onnx'", "torch where predictions go to a directory"),
    ),
    mistake(
        "precision of an engine", "predict", "a", "x", "--engine", "onnx-int8", "--precision", "bf16",
        says=("precision is 'bf16'", "'onnx-int8'"),
    ),
    mistake(
        "unknown format", "export", "a", "--format", "pickle", "--output", "o",
        says=("format is 'pickle'", *FORMATS),
    ),
    mistake("nowhere to export to", "export", "a", says=("--output", "export --help")),
    mistake(
        "export over a file", "export", "a", "--output", REVIEWS,
        says=("reviews.csv' is a file", "new directory"),
    ),
    mistake("export to nowhere", "export", "a", "--output", "no/o", says=("no' does not exist", "create it")),
    mistake(
        "export of missing data", "export", "a", "--output", "o", "--data", "no.csv", says=("'no.csv'",)
    ),
    mistake(
        "label without data", "export", "a", "--output", "o", "--label", "l",
        says=("label is 'l'", "--data"),
    ),
    mistake(
        "hostile run to export", "export", "../up", "--output", "o",
        says=("'../up' is not allowed", NAME_RULE),
    ),
    mistake("missing history", "replay", "no.json", says=("'no.json'", "No such file")),
    mistake("no history", "replay", "{bad}/no-history.json", says=("no-history.json", "event 1 is missing")),
    mistake("history that is no text", "replay", "{bad}/no-json.json", says=("no-json.json", "UTF-8")),
    mistake("history to nowhere", "replay", "a", "--save", "no/h.json", says=("'no'", "no directory")),
]  # fmt: skip


@pytest.mark.parametrize("wrong", AT_ONCE)
def test_a_mistake_is_told_before_anything_is_started(wrong, bad, tiny, tmp_path, monkeypatch, capfd):
    home = tmp_path / "home"
    terminal = Terminal(home, tmp_path, monkeypatch, capfd)

    told = terminal.type(*wrong.arguments(bad=bad, tiny=tiny), **wrong.environment)

    require_mistake(told, wrong.says)
    assert not home.exists()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        (lambda: durabert.fine_tune("missing.csv", name="a"), "no file or directory 'missing.csv'"),
        (lambda: durabert.fine_tune("r.csv", name="a/b"), "'a/b' is not allowed"),
        (lambda: durabert.fine_tune("r.csv", name="a", epoch=3), "'epoch'; did you mean 'epochs'?"),
        (lambda: durabert.fine_tune("r.csv", name="a", batch_size=0), "batch_size is 0, but should be"),
        (lambda: durabert.predict("../up", ["text"]), "'../up' is not allowed"),
        (lambda: durabert.predict("a", []), "the list of texts is empty"),
        (lambda: durabert.predict("a", "text"), "texts is 'text', but should be a list"),
        (lambda: durabert.predict("a", [3]), "texts.0 is 3, but should be a valid string"),
        (lambda: durabert.predict("a", ["\ud800"]), "should be valid Unicode"),
        (lambda: durabert.evaluate("../up", "r.csv"), "'../up' is not allowed"),
        (lambda: durabert.evaluate("a", "missing.csv"), "no file or directory 'missing.csv'"),
        (lambda: durabert.evaluate("a", "r.csv", slices="x"), "unknown field 'slices'"),
        (lambda: durabert.evaluate("a", "r.csv", resamples=1), "resamples is 1, but should be"),
    ],
)
def test_a_mistake_in_a_script_is_an_error_of_the_user(typed, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(durabert.UserError) as caught:
        typed()

    assert says in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def require_mistake(told: Told, says: tuple[str, ...]) -> None:
    sentence = told.sentence()
    for part in says:
        assert part in sentence
    assert told.code == 2
    assert told.out == ""


HUB = ("neither a known name ('minilm') nor a directory", "hub")

# Only the worker can see these: the run fails, once.
ON_THE_WORKER = [
    train("header only", "{bad}/header.csv", *TINY, says=("header.csv has a header but no rows", "one row")),
    train("no train file", "{bad}/no-train", *TINY, says=("no-train has no train file", "it has test.csv")),
    train("no text column", "{bad}/no-text.csv", *TINY, says=("'a', 'b', 'label'", "--text")),
    train("two text columns", "{bad}/two-texts.csv", *TINY, says=("'text' or 'sentence'", "--text")),
    train("two label columns", "{bad}/two-labels.csv", *TINY, says=("'label' or 'labels'", "--label")),
    train("no label column", "{bad}/no-label.csv", *TINY, says=("label", "it has 'text', 'idx'", "--label")),
    train("missing column", REVIEWS, "--text", "txt", *TINY, says=("no column 'txt'", "'text', 'label'")),
    train("one class", "{bad}/one-class.csv", *TINY, says=("all 80 rows have the label 'good'", "two")),
    train(
        "other labels", REVIEWS, "--validation", "{bad}/other-labels.csv", *TINY,
        says=("line 2 has the label 'neutral'", "'negative', 'positive'"),
    ),
    train("numbers for texts", "{bad}/numbers.csv", *TINY, says=("'text' holds values such as '0'",)),
    train("wrong encoding", "{bad}/latin.csv", *TINY, says=("line 2 has the byte 0xe9", "latin-1")),
    train("unknown encoding", REVIEWS, "--data", "encoding=utf-9", *TINY, says=("encoding is 'utf-9'",)),
    train("unknown model", REVIEWS, "--model", "no-one/no-bert", says=("'no-one/no-bert'", *HUB)),
    train("model near miss", REVIEWS, "--model", "minlm", says=("'minlm'", "did you mean 'minilm'?")),
    train("no weights", REVIEWS, "--model", "{bad}/no-weights", says=("no-weights'", "model.safetensors")),
    train("only pickle", REVIEWS, "--model", "{bad}/only-pickle", says=("pytorch_model.bin", "execute code")),
    train("no configuration", REVIEWS, "--model", "{bad}/no-config", says=("no-config'", "config.json")),
    train("too long", REVIEWS, *TINY, "--max-length", 5000, says=("max_length is 5000", "at most 64")),
]  # fmt: skip


@pytest.mark.parametrize("wrong", ON_THE_WORKER)
def test_a_mistake_that_the_worker_finds_fails_once(wrong, shell, bad, tiny, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type(*wrong.arguments(bad=bad, tiny=tiny), "--json")

    [run] = told.objects()
    sentence = told.sentence()
    for part in wrong.says:
        assert part in sentence
    assert told.code == 2
    assert run["error"]["message"] == sentence
    assert (run["status"], run["directory"]) == ("failed", None)
    # None, where the snapshot of the data found it.
    assert run["attempts"] <= 1
    terminal.require_nothing_left()


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has the device")
def test_a_device_that_is_not_there_fails_once(shell, bad, tiny, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type("train", bad / "reviews.csv", "--model", tiny, "--device", "cuda", *FAST)

    require_mistake(told, ("device 'cuda' is not on this machine", "'cpu'"))
    terminal.require_nothing_left()


def test_a_mistake_of_all_runs_is_told_once(shell, bad, tiny, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type(
        "train", bad / "header.csv", "--name", "wrong", "--model", tiny, "--run", "seed=1", "--run", "seed=2"
    )

    require_mistake(told, ("header.csv has a header but no rows",))
    require_mistake(
        terminal.type("predict", "wrong", "text"), ("'wrong'", "experiment of 2 runs", "wrong.1, wrong.2")
    )
    require_mistake(terminal.type("predict", "wrong.1", "text"), ("'wrong.1' has no model, it failed",))
    require_mistake(terminal.type("cancel", "wrong"), ("'wrong' has already ended: failed",))
    for command in ("show", "watch", "cancel"):
        require_mistake(terminal.type(command, "wrong.3"), ("no run 'wrong.3'", "durabert runs"))
    terminal.require_nothing_left()


@pytest.fixture(scope="module")
def usable(shell: Shell, bad: Path, tiny: Path) -> str:
    """The name of a run that has a model."""
    shell.objects("train", bad / "reviews.csv", "--name", "usable", "--model", tiny, *FAST)
    return "usable"


WITH_A_MODEL = [
    mistake("one text", "x", "--pair", "y", says=("trained on single texts", "got pairs")),
    mistake(
        "only a header", "--input", "{bad}/only-header.csv", "--output", "{bad}/o.csv",
        says=("only-header.csv has a header but no rows", "one row"),
    ),
    mistake(
        "other columns", "--input", "{bad}/other-columns.csv", "--output", "{bad}/o.csv",
        says=("'a', 'b'", "--text"),
    ),
    mistake(
        "missing column", "--input", "{bad}/texts.csv", "--output", "{bad}/o.csv", "--row-id", "key",
        says=("no column 'key'", "'text'"),
    ),
]  # fmt: skip


@pytest.mark.parametrize("wrong", WITH_A_MODEL)
def test_a_prediction_that_cannot_be_made_fails_once(wrong, shell, usable, bad, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type("predict", usable, *wrong.arguments(bad=bad))

    require_mistake(told, wrong.says)
    terminal.require_nothing_left()
    assert not (bad / "o.csv").exists()


def test_a_name_in_use_is_told_with_the_difference(shell, usable, bad, tiny, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    command = ("train", bad / "reviews.csv", "--name", usable, "--model", tiny, *FAST)

    told = terminal.type(*command, "--seed", 7)
    other = terminal.type(*command, "--pattern", "bert_finetune")
    joined = terminal.type(*command)

    require_mistake(told, ("'usable' is in use", "seed is 42, not 7", "choose another name"))
    require_mistake(other, ("'usable' is in use", "pattern is 'bert_checkpointing', not 'bert_finetune'"))
    assert joined.code == 0
    assert "nothing is trained twice" in joined.err
    require_mistake(terminal.type("cancel", usable), ("'usable' has already ended: completed",))
    terminal.require_nothing_left()


def test_what_still_runs_has_no_model_and_keeps_its_name(shell, bad, tiny, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    command = ("train", bad / "reviews.csv", "--name", "endless", "--model", tiny, "--no-follow", *LONG)
    assert terminal.type(*command).code == 0

    told = terminal.type(*command, "--set", "weight_decay=0.5")
    joined = terminal.type(*command)
    asked = terminal.type("predict", "endless", "text")
    exported = terminal.type("export", "endless", "--output", "unfinished")

    require_mistake(told, ("'endless' is in use", "weight_decay is 0.01, not 0.5"))
    assert joined.code == 0
    assert "with the same spec; joined it" in joined.err
    require_mistake(asked, ("'endless' has no model, it is ",))
    require_mistake(exported, ("'endless' has no model, it is ",))
    assert terminal.type("cancel", "endless").code == 0
    require_mistake(terminal.type("cancel", "endless"), ("'endless' has already ended: cancelled",))
    terminal.require_nothing_left()


@pytest.mark.parametrize("command", ["show", "watch", "cancel", "replay", "predict", "export"])
def test_a_run_that_nobody_started_is_not_found(command, shell, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)
    more = {"predict": ["text"], "export": ["--output", "nobodys"]}.get(command, [])

    told = terminal.type(command, "nobody", *more)

    require_mistake(told, ("no run 'nobody'", "'durabert runs' lists them"))
    terminal.require_nothing_left()


@pytest.mark.parametrize("command", ["show", "watch", "cancel"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "", "x" * 10_000, "a\nb", "predict:a:0"])
def test_a_hostile_name_is_refused(command, name, shell, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type(command, name)

    require_mistake(told, ("is not allowed", repr(name)[:20], NAME_RULE))
    assert len(told.sentence()) < 300


@pytest.mark.parametrize("name", ["../../etc/passwd", "", "x" * 10_000])
def test_a_history_of_a_hostile_name_is_not_found(name, shell, monkeypatch, capfd):
    terminal = Terminal.of(shell, monkeypatch, capfd)

    told = terminal.type("replay", name)

    require_mistake(told, (repr(name)[:20],))
    assert len(told.sentence()) < 300


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A port of this machine that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def address_of(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("command", [("runs",), ("worker",), ("train", "{bad}/reviews.csv")])
def test_an_address_that_nobody_listens_at_is_told_at_once(command, listener, bad, tmp_path):
    address = address_of(listener)
    listener.close()
    shell = Shell(tmp_path / "home", tmp_path, {"TEMPORAL_ADDRESS": address})

    done = shell.run(*(word.format(bad=bad) for word in command))

    # As a process of its own: a thread of the SDK that outlives the connection can abort it at its end.
    told = Told(done.returncode, done.stdout, done.stderr)
    require_mistake(told, (repr(address), "the connection was refused", "TEMPORAL_ADDRESS"))
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_never_answers_is_told_within_10_seconds(listener, tmp_path):
    shell = Shell(tmp_path / "home", tmp_path, {"TEMPORAL_ADDRESS": address_of(listener)})
    began = time.monotonic()

    done = shell.run("runs")

    told = Told(done.returncode, done.stdout, done.stderr)
    require_mistake(told, (repr(address_of(listener)), "nothing answered within 10 s"))
    assert time.monotonic() - began < 10 + 3


def test_a_port_that_is_taken_is_told(listener, tmp_path, monkeypatch, capfd):
    terminal = Terminal(tmp_path / "home", tmp_path, monkeypatch, capfd)
    port = listener.getsockname()[1]

    told = terminal.type("up", "--port", port)

    require_mistake(told, (f"port {port} is in use by another program", "--port"))
    assert not (tmp_path / "home" / "engine" / "engine.json").exists()


def test_a_home_that_cannot_be_written_is_told(tmp_path, monkeypatch, capfd):
    (tmp_path / "file").write_text("")
    terminal = Terminal(tmp_path / "file" / "home", tmp_path, monkeypatch, capfd)

    told = terminal.type("runs")

    require_mistake(told, (f"{tmp_path}{os.sep}file", "cannot be used"))
