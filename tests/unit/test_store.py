"""A run is whole or absent, published once, and what dead attempts leave is swept up."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path

import pytest

from durabert.errors import NameInvalid, RunNotFound
from durabert.store.runs import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore


def fill(staged):
    (staged / MODEL_DIRECTORY).mkdir()
    (staged / MODEL_DIRECTORY / "weights").write_bytes(b"weights")
    (staged / RESULT_FILE).write_text("{}")


def test_a_published_run_is_whole(tmp_path):
    store = RunStore(tmp_path)
    with store.staging("a") as staged:
        fill(staged)

        target = store.publish(staged, "a")

    assert (target / MODEL_DIRECTORY / "weights").read_bytes() == b"weights"
    assert list((tmp_path / "staging").iterdir()) == []


def test_an_attempt_that_fails_leaves_nothing(tmp_path):
    store = RunStore(tmp_path)

    def fail() -> None:
        with store.staging("a") as staged:
            fill(staged)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert list((tmp_path / "staging").iterdir()) == []
    assert not (tmp_path / "runs").exists()


def test_a_run_is_published_once(tmp_path):
    store = RunStore(tmp_path)
    with store.staging("a") as first, store.staging("a") as second:
        fill(first)
        fill(second)
        store.publish(first, "a")

        with pytest.raises(RunExists):
            store.publish(second, "a")

    assert first.exists() is False


@pytest.mark.parametrize("name", ["../a", "a/b", "..", "", "/etc"])
def test_no_name_leads_out_of_the_store(tmp_path, name):
    store = RunStore(tmp_path)

    with pytest.raises(NameInvalid):
        store.directory(name)
    with pytest.raises(NameInvalid):
        store.staging(name).__enter__()


def test_a_run_that_is_not_there_is_told(tmp_path):
    store = RunStore(tmp_path)

    assert store.result("a") is None
    with pytest.raises(RunNotFound, match="'a'"):
        store.model_directory("a")


def attempt_until_killed(home, ready):
    with RunStore(home).staging("a") as staged:
        fill(staged)
        ready.send(str(staged))
        signal.pause()


def test_what_a_killed_attempt_left_is_swept_up_and_a_live_one_is_spared(tmp_path):
    store = RunStore(tmp_path)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=attempt_until_killed, args=(tmp_path, sender))
    process.start()
    staged = receiver.recv()
    assert store.sweep() == []

    process.kill()
    process.join(10)

    assert Path(staged).name in store.sweep()
    assert list((tmp_path / "staging").iterdir()) == []
