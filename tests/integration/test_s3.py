"""The object store on a real S3 server that is stopped, comes back, refuses and fails."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from durabert.errors import StoreInvalid, StoreUnavailable
from durabert.store.blobs import Blobs, blob_path
from durabert.store.garbage import delete, find_garbage, verify
from durabert.store.objects import ObjectExists, ObjectStore, open_store
from durabert.testing import StoreContract
from tests.s3 import BUCKET, SECRET, FaultProxy, S3Server
from tests.shell import Shell
from tests.unit.test_attempts import begin, commit

NO_ANSWER_SECONDS = 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with S3Server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def opened(server, monkeypatch, tmp_path):
    """Open a store on the server, or on a proxy in front of it."""

    def opened(url: str | None = None, port: int | None = None, **changed: str) -> ObjectStore:
        for name, value in {**server.environment(port), **changed}.items():
            monkeypatch.setenv(name, value)
        return open_store(url, home=tmp_path)

    return opened


class TestS3(StoreContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def bucket(cls, server, tmp_path_factory):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in server.environment().items():
                patch.setenv(name, value)
            cls.store = open_store(None, home=tmp_path_factory.mktemp("home"))

    def make_store(self) -> ObjectStore:
        return self.store


def test_a_server_that_stops_is_unavailable_and_works_again_when_it_is_back(server, opened):
    store = opened()
    store.write("a/before", b"data")
    server.stop()
    try:
        for work in (
            lambda: store.read("a/before"),
            lambda: store.write("a/large", bytes(2**22)),
            lambda: list(store.list("a")),
        ):
            began = time.monotonic()
            with pytest.raises(StoreUnavailable, match="does not answer"):
                work()
            assert time.monotonic() - began < NO_ANSWER_SECONDS
    finally:
        server.restart()

    assert store.read("a/before") == b"data"
    store.create("a/after", b"data")


def test_a_server_that_hangs_is_unavailable_in_time(server, opened):
    with FaultProxy(server.port, delay=300) as proxy:
        proxy.mode = "slow"
        store = opened(port=proxy.port)
        began = time.monotonic()
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.write("a/b", bytes(2**22))

    assert time.monotonic() - began < NO_ANSWER_SECONDS


def test_failures_of_a_moment_are_not_noticed_and_longer_ones_are(server, opened):
    with FaultProxy(server.port) as proxy:
        store = opened(port=proxy.port)
        store.write("a/b", b"data")

        proxy.mode = "errors"
        with pytest.raises(StoreUnavailable, match="it answers 500 Internal Server Error"):
            store.write("a/b", b"new")
        proxy.mode = "refusing"
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.read("a/b")
        proxy.mode = "slow"
        assert store.read("a/b") == b"data"
        proxy.mode = "ok"
        store.write("a/b", b"new")
        assert store.read("a/b") == b"new"


def test_a_creation_whose_answer_was_lost_is_ones_own(server, opened):
    with FaultProxy(server.port) as proxy:
        store = opened(port=proxy.port)
        assert not store.is_conditional()
        proxy.mode = "losing"
        with pytest.raises(StoreUnavailable, match="does not answer"):
            store.create("lost/a", b"mine")
        assert (server.directory / BUCKET / "store" / "lost" / "a").read_bytes() == b"mine"

        proxy.mode = "ok"
        store.create("lost/a", b"mine")
        with pytest.raises(ObjectExists):
            store.create("lost/a", b"another's")


def test_garbage_is_collected_and_damage_is_named(opened):
    store = opened(f"s3://{BUCKET}/garbage")
    attempt = begin(store, keep_last=1)
    for step in (10, 20):
        commit(attempt, step)
    attempt.end("RunCancelled", "cancelled")
    orphan = blob_path(Blobs(store).put(b"nobody names it"))
    [kept] = [info.path for info in store.list("runs/run/files") if info.size == len(b"shared")]

    found = find_garbage(store, older_than=timedelta(0))
    assert [info.path for info in found.objects] == [orphan]
    delete(store, found)
    assert list(store.list("blobs")) == []
    assert list(verify(store)) == []
    store.write(kept, b"damage")
    assert [finding.path for finding in verify(store)] == [kept]


@pytest.mark.parametrize(
    ("url", "changed", "said"),
    [
        (None, {"AWS_SECRET_ACCESS_KEY": "another"}, "the credentials are refused"),
        (None, {"AWS_ACCESS_KEY_ID": "another"}, "the credentials are refused"),
        ("s3://nowhere/x", {}, "there is no such bucket"),
        (None, {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"}, "it does not answer"),
    ],
)
def test_what_is_wrong_at_the_start_is_one_sentence(opened, url, changed, said):
    with pytest.raises(StoreInvalid) as refused:
        opened(url, **changed).check()

    name = url or f"s3://{BUCKET}/store"
    assert str(refused.value).startswith(f"the store {name} cannot be used: {said}")
    assert SECRET not in str(refused.value)
    assert len(str(refused.value)) < 150


def test_the_doctor_says_what_the_store_can(tmp_path, shell: Shell, server):
    right = Shell(shell.home, tmp_path, server.environment())
    wrong = Shell(shell.home, tmp_path, server.environment() | {"DURABERT_STORE": "s3://nowhere"})

    [found] = [check for check in right.objects("doctor") if check["subject"] == "store"]
    assert (found["state"], "no conditional writes" in found["finding"]) == ("warning", True)
    done = wrong.run("doctor")
    assert done.returncode == 1
    assert "FAIL  store: the store s3://nowhere cannot be used: there is no such bucket" in done.stdout


def test_a_worker_with_a_wrong_store_ends_at_once(tmp_path, shell: Shell, server):
    mistaken = Shell(shell.home, tmp_path, server.environment() | {"AWS_SECRET_ACCESS_KEY": "another"})

    done = mistaken.run("worker")

    assert done.returncode == 2
    assert done.stderr.strip() == (
        f"durabert: the store s3://{BUCKET}/store cannot be used: "
        "the credentials are refused, or do not allow it"
    )
