"""The contract of an object store, as a class of tests to derive from."""

from __future__ import annotations

import hashlib
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from durabert.errors import ArtifactDamaged
from durabert.store.blobs import Blobs, blob_path
from durabert.store.objects import PATH, ObjectExists, ObjectMissing, ObjectStore

NUM_WRITERS = 8
MEBIBYTE = 2**20
_NO_PATHS = st.one_of(
    st.sampled_from(["", "/", "/a", "a/", "a//b", ".", "..", "a/..", "../a", ".a", "a/.b", "a\n"]),
    st.text(max_size=30),
).filter(lambda path: PATH.fullmatch(path) is None)


class StoreContract:
    """Derive from it, override ``make_store``, and run it with pytest and hypothesis.

    The store may hold other objects; each test works below a directory of its own.
    """

    def make_store(self) -> ObjectStore:
        """Return the store to test, the same one at each call within a test."""
        raise NotImplementedError

    @pytest.fixture
    def objects(self) -> ObjectStore:
        """The store."""
        return self.make_store()

    @pytest.fixture
    def directory(self) -> str:
        """A directory that no other test uses."""
        return f"contract/{secrets.token_hex(8)}"

    def test_check_leaves_nothing(self, objects: ObjectStore) -> None:
        before = {info.path for info in objects.list("probe")}

        objects.check()

        assert {info.path for info in objects.list("probe")} <= before

    @pytest.mark.parametrize("size", [0, 1, 32 * MEBIBYTE])
    def test_what_is_written_is_read(self, objects: ObjectStore, directory: str, size: int) -> None:
        data = (b"durabert" * (size // 8 + 1))[:size]

        objects.write(f"{directory}/object", data)

        assert objects.read(f"{directory}/object") == data
        info = objects.info(f"{directory}/object")
        assert info is not None
        assert (info.path, info.size) == (f"{directory}/object", size)

    @pytest.mark.parametrize("size", [16, 2 * MEBIBYTE])
    def test_memory_that_was_written_may_be_used_again(
        self, objects: ObjectStore, directory: str, size: int
    ) -> None:
        memory = bytearray(b"1" * size)

        objects.write(f"{directory}/object", memoryview(memory))
        memory[:] = b"2" * size

        assert objects.read(f"{directory}/object") == b"1" * size

    def test_write_takes_the_place_of_what_was_there(self, objects: ObjectStore, directory: str) -> None:
        objects.write(f"{directory}/object", b"longer than the new one")
        objects.write(f"{directory}/object", b"new")

        assert objects.read(f"{directory}/object") == b"new"

    def test_create_leaves_what_is_there(self, objects: ObjectStore, directory: str) -> None:
        objects.create(f"{directory}/object", b"first")
        with pytest.raises(ObjectExists):
            objects.create(f"{directory}/object", b"second")

        assert objects.read(f"{directory}/object") == b"first"

    def test_creating_the_same_again_is_the_answer_that_was_lost(
        self, objects: ObjectStore, directory: str
    ) -> None:
        objects.create(f"{directory}/object", b"same")
        objects.create(f"{directory}/object", b"same")

        assert objects.read(f"{directory}/object") == b"same"

    def test_of_those_who_create_at_once_one_wins(self, objects: ObjectStore, directory: str) -> None:
        if not objects.is_conditional():
            pytest.skip("the store knows no conditional writes")
        barrier = threading.Barrier(NUM_WRITERS)

        def create(number: int) -> int | None:
            barrier.wait()
            try:
                objects.create(f"{directory}/object", b"%d" % number)
            except ObjectExists:
                return None
            return number

        with ThreadPoolExecutor(NUM_WRITERS) as writers:
            won = [number for number in writers.map(create, range(NUM_WRITERS)) if number is not None]

        assert len(won) == 1
        assert objects.read(f"{directory}/object") == b"%d" % won[0]

    def test_what_is_missing_is_said_to_be(self, objects: ObjectStore, directory: str) -> None:
        with pytest.raises(ObjectMissing):
            objects.read(f"{directory}/object")
        assert objects.info(f"{directory}/object") is None
        assert list(objects.list(directory)) == []
        objects.delete([f"{directory}/object"])

    def test_list_tells_what_is_below_a_directory(self, objects: ObjectStore, directory: str) -> None:
        paths = {f"{directory}/{name}" for name in ("a", "b/c", "b/d/e", "_-@=.x")}
        for path in paths | {f"{directory}b/other"}:
            objects.write(path, b"12345")

        assert {info.path for info in objects.list(directory)} == paths
        assert {info.size for info in objects.list(directory)} == {5}
        assert {info.path for info in objects.list(f"{directory}/b")} == {
            f"{directory}/b/c",
            f"{directory}/b/d/e",
        }

    def test_list_without_a_directory_tells_all(self, objects: ObjectStore, directory: str) -> None:
        objects.write(f"{directory}/object", b"data")

        assert f"{directory}/object" in {info.path for info in objects.list()}

    def test_a_part_of_an_object_is_read_alone(self, objects: ObjectStore, directory: str) -> None:
        objects.write(f"{directory}/object", b"0123456789")

        assert objects.read_range(f"{directory}/object", 3, 4) == b"3456"
        assert objects.read_range(f"{directory}/object", 8, 4) == b"89"
        assert objects.read_range(f"{directory}/object", 0, 0) == b""
        with pytest.raises(ObjectMissing):
            objects.read_range(f"{directory}/missing", 0, 1)

    def test_what_is_deleted_is_gone_and_nothing_else(self, objects: ObjectStore, directory: str) -> None:
        for name in ("a", "ab", "a.b"):
            objects.write(f"{directory}/{name}", b"data")

        objects.delete([f"{directory}/a"])

        assert {info.path for info in objects.list(directory)} == {f"{directory}/ab", f"{directory}/a.b"}

    def test_other_paths_are_refused(self, objects: ObjectStore) -> None:
        @settings(max_examples=100, deadline=None)
        @given(_NO_PATHS)
        def is_refused(path: str) -> None:
            for refused in (objects.read, objects.info, lambda path: list(objects.list(path))):
                with pytest.raises(ArtifactDamaged):
                    refused(path)
            for written in (objects.write, objects.create):
                with pytest.raises(ArtifactDamaged):
                    written(path, b"data")
            with pytest.raises(ArtifactDamaged):
                objects.delete([path])

        is_refused()

    def test_blobs_are_named_by_their_digest(self, objects: ObjectStore) -> None:
        data = secrets.token_bytes(1000)

        digest = Blobs(objects).put(data)

        assert digest == hashlib.sha256(data).hexdigest()
        assert Blobs(objects).put(data) == digest
        assert Blobs(objects).get(digest) == data

    def test_a_blob_is_fetched_in_pieces(self, objects: ObjectStore, tmp_path: Path) -> None:
        data = secrets.token_bytes(16 * MEBIBYTE)

        Blobs(objects).fetch(Blobs(objects).put(data), tmp_path / "blob")

        assert (tmp_path / "blob").read_bytes() == data

    def test_a_blob_that_is_damaged_is_named(self, objects: ObjectStore, tmp_path: Path) -> None:
        data = secrets.token_bytes(1000)
        digest = Blobs(objects).put(data)

        def is_refused(message: str) -> None:
            with pytest.raises(ArtifactDamaged, match=message):
                Blobs(objects).get(digest)
            with pytest.raises(ArtifactDamaged, match=message):
                Blobs(objects).fetch(digest, tmp_path / "blob")
            assert not (tmp_path / "blob").exists()

        objects.write(blob_path(digest), b"something else")
        is_refused(f"{digest} .*has the digest {hashlib.sha256(b'something else').hexdigest()}")
        objects.delete([blob_path(digest)])
        is_refused(f"{digest} is missing")

    def test_a_blob_that_was_cut_off_is_written_again(self, objects: ObjectStore) -> None:
        data = secrets.token_bytes(1000)
        digest = Blobs(objects).put(data)
        objects.write(blob_path(digest), data[:500])

        Blobs(objects).put(data)

        assert Blobs(objects).get(digest) == data
