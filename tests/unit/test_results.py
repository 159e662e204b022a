"""The files of a model on their way into a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from durabert.store.blobs import Blobs
from durabert.store.local import DIRECT_BYTES
from durabert.store.objects import open_store
from durabert.store.results import ResultStore


@pytest.mark.parametrize("url", [None, "memory://"], ids=["directory", "memory"])
def test_files_of_any_size_are_stored_as_they_were_and_stay_so(url: str | None, tmp_path: Path):
    sizes = (0, 1, 4096, DIRECT_BYTES - 1, DIRECT_BYTES, 3 * DIRECT_BYTES + 5)
    contents = {f"part/{size}": os.urandom(size) for size in sizes}
    (tmp_path / "model" / "part").mkdir(parents=True)
    for name, content in contents.items():
        (tmp_path / "model" / name).write_bytes(content)
    objects = open_store(url, home=tmp_path)

    digests = ResultStore(objects).upload(tmp_path / "model")
    for name in contents:
        with (tmp_path / "model" / name).open("r+b") as file:
            file.write(b"x")

    assert {name: Blobs(objects).get(digest) for name, digest in digests.items()} == contents
