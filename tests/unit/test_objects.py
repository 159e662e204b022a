"""The object store as a directory and in memory, and what it says when it cannot work."""

from __future__ import annotations

import errno
import json
import mmap
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from durabert.errors import DependencyMissing, StoreInvalid, StoreUnavailable
from durabert.faults import VARIABLE
from durabert.store.local import DIRECT_BYTES, unfinished_files
from durabert.store.objects import ObjectExists, ObjectStore, open_store
from durabert.testing import StoreContract


class TestDirectory(StoreContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def home(cls, tmp_path_factory):
        cls.store = open_store(None, home=tmp_path_factory.mktemp("home"))

    def make_store(self) -> ObjectStore:
        return self.store


class TestMemory(StoreContract):
    @pytest.fixture(autouse=True, scope="class")
    @classmethod
    def opened(cls):
        cls.store = open_store("memory:///", home=Path("unused"))

    def make_store(self) -> ObjectStore:
        return self.store


@pytest.mark.parametrize("kind", ["path", "file URL", "variable"])
def test_a_directory_is_named_in_three_ways(tmp_path, monkeypatch, kind):
    url = {"path": str(tmp_path / "s"), "file URL": f"file://{tmp_path}/s", "variable": None}[kind]
    if url is None:
        monkeypatch.setenv("DURABERT_STORE", str(tmp_path / "s"))

    open_store(url, home=tmp_path / "home").write("a/b", b"data")

    assert (tmp_path / "s" / "a" / "b").read_bytes() == b"data"


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("ftp://me:secret@host/x", "ftp://host/x"),
        ("s3://", "names no bucket"),
        ("s3:///prefix", "names no bucket"),
        ("S4://bucket", "begin with s3://"),
        ("s3:bucket", "should begin with s3://"),
        ("s3://[secret", "cannot be read"),
        ("s3://me:secret@bucket/../x", "'s3://bucket/../x' is not allowed"),
        ("s3://bucket/x?token=secret", "'s3://bucket/x' is not allowed"),
        ("file://host/x", "file:///PATH"),
    ],
)
def test_a_url_that_cannot_be_is_refused_without_its_credentials(tmp_path, url, said):
    with pytest.raises(StoreInvalid, match=said) as refused:
        open_store(url, home=tmp_path).check()

    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").touch()

    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StoreInvalid, match="is no directory that can be used"):
            open_store(str(path), home=tmp_path).check()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_the_right_to_write_is_no_store(tmp_path):
    (tmp_path / "store").mkdir(mode=0o500)

    with pytest.raises(StoreInvalid, match="Permission denied"):
        open_store(None, home=tmp_path).check()


def test_a_directory_that_is_gone_is_not_made_anew(tmp_path):
    (tmp_path / "mount").mkdir()
    store = open_store(str(tmp_path / "mount" / "store"), home=tmp_path / "home")
    store.write("a/b", b"data")
    (tmp_path / "mount").rename(tmp_path / "elsewhere")
    again = open_store(store.url, home=tmp_path / "home")

    for one, said in ((store, "its directory is gone"), (again, "the directory .*/mount is missing")):
        for work in (lambda one=one: one.write("a/b", b"new"), lambda one=one: list(one.list("a"))):
            with pytest.raises(StoreUnavailable, match=said):
                work()
        with pytest.raises(StoreInvalid, match=said):
            one.check()
    (tmp_path / "elsewhere").rename(tmp_path / "mount")

    assert store.read("a/b") == again.read("a/b") == b"data"


def test_a_directory_that_cannot_be_written_is_said_to_be(tmp_path):
    store = open_store(None, home=tmp_path)
    (tmp_path / "store" / "probe").touch()

    with pytest.raises(StoreInvalid, match=r"store cannot be used: Not a directory"):
        store.check()


@pytest.mark.parametrize("write", ["write", "create"])
def test_a_full_disk_is_said_to_be_and_leaves_nothing(tmp_path, monkeypatch, write):
    store = open_store(None, home=tmp_path)
    faults = [{"at": "store.write", "do": "enospc", "mark": str(tmp_path / write)}]
    monkeypatch.setenv(VARIABLE, json.dumps(faults))

    with pytest.raises(StoreUnavailable, match="the disk is full"):
        getattr(store, write)("a/b", b"data")

    assert (tmp_path / f"{write}.0").exists(), "the fault did not strike"
    assert list(store.list("a")) == []
    getattr(store, write)("a/b", b"data")
    assert store.read("a/b") == b"data"


@pytest.fixture
def direct(monkeypatch):
    """Sizes of the writes that went past the kernel's cache."""
    sizes, pwrite = [], os.pwrite

    def counted(descriptor, data, offset):
        sizes.append(len(data))
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", counted)
    return sizes


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache")
@pytest.mark.parametrize("size", [0, 4095, *(DIRECT_BYTES + more for more in (-1, 0, 1, 2**22 + 17))])
def test_content_of_any_size_is_what_is_read(tmp_path, direct, size):
    store, content = open_store(None, home=tmp_path), os.urandom(size)

    store.write("a/b", content)

    assert store.read("a/b") == content
    assert sum(direct) == (size // 4096 * 4096 if size >= DIRECT_BYTES else 0)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache")
def test_content_that_begins_where_a_page_does_is_written_from_where_it_is(tmp_path, direct):
    store, content = open_store(None, home=tmp_path), mmap.mmap(-1, 2**23 + 17)
    content[:] = os.urandom(len(content))

    store.write("a/b", memoryview(content))

    assert store.read("a/b") == content[:]
    assert direct == [2**23]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache")
@pytest.mark.parametrize("refused", [0, 1])
def test_a_file_system_that_refuses_such_writes_gets_the_others(tmp_path, direct, monkeypatch, refused):
    store, content = open_store(None, home=tmp_path), os.urandom(2**23 + 5)
    pwrite = os.pwrite

    def refuse(descriptor, data, offset):
        if len(direct) == refused:
            raise OSError(errno.EINVAL, "Invalid argument")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    store.write("a/b", content)

    assert len(direct) == refused
    assert store.read("a/b") == content


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux writes past its cache")
def test_a_disk_that_is_full_in_the_middle_leaves_nothing(tmp_path, direct, monkeypatch):
    store = open_store(None, home=tmp_path)
    pwrite = os.pwrite

    def full(descriptor, data, offset):
        if direct:
            raise OSError(errno.ENOSPC, "No space left on device")
        return pwrite(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        store.write("a/b", os.urandom(2**23))

    assert direct
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("create", [True, False])
def test_the_file_of_a_writer_that_was_killed_is_no_object_and_is_found(tmp_path, create):
    script = f"""
        import os, signal
        from pathlib import Path
        from durabert.store import local
        local.os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)
        local._make_directories = lambda root, directory: directory.mkdir(parents=True)
        local.put_file(Path({str(tmp_path / "store")!r}), "a/b", b"half", create={create})
    """
    killed = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False)
    assert killed.returncode == -9

    store = open_store(None, home=tmp_path)
    assert list(store.list("a")) == []
    assert [path.parent.name for path, _, _ in unfinished_files(tmp_path / "store")] == ["a"]
    store.create("a/b", b"whole")
    assert store.read("a/b") == b"whole"


def test_a_server_that_ignores_conditions_is_found_out_and_still_keeps_what_is_there(monkeypatch):
    import obstore
    from obstore.store import MemoryStore

    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, path, data, **_mode: put(store, path, data))
    store = ObjectStore("s3://b", MemoryStore())

    store.create("a", b"1")
    with pytest.raises(ObjectExists):
        store.create("a", b"2")

    assert not store.is_conditional()
    assert store.read("a") == b"1"
    assert list(store.list("probe")) == []


def test_a_store_without_obstore_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    for name in [name for name in sys.modules if name.startswith("obstore.")]:
        monkeypatch.setitem(sys.modules, name, None)

    with pytest.raises(DependencyMissing, match=r"durabert\[worker\]"):
        open_store(None, home=tmp_path)
