"""Finished runs in a store: the files of the model, and one object, created last, that names them."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from durabert.errors import ArtifactDamaged
from durabert.faults import reach
from durabert.specs import FineTuneResult, checked_run
from durabert.store.blobs import Blobs
from durabert.store.objects import PATH, ObjectExists, ObjectMissing, ObjectStore
from durabert.store.runs import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore

FORMAT: Final = 1


@dataclass(frozen=True)
class StoredResult:
    """A finished run, as the store has it."""

    result: FineTuneResult
    files: Mapping[str, str]
    """Digest of each file of the model directory, by its name in there."""
    sha256: str
    """Digest of the object that says all this."""


class ResultStore:
    """The finished runs of a store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._blobs = Blobs(objects)

    def result(self, run: str) -> StoredResult | None:
        """Return the result of a finished run, or None if there is none.

        Raises:
            ArtifactDamaged: it cannot be read.
        """
        try:
            data = self._objects.read(_path(run))
        except ObjectMissing:
            return None
        return _parsed(run, data)

    def upload(self, directory: Path) -> dict[str, str]:
        """Write the files of a model directory, and return their digests by name."""
        files = {}
        for path in sorted(path for path in directory.rglob("*") if path.is_file()):
            reach("result.file")
            files[path.relative_to(directory).as_posix()] = self._blobs.put(_content(path))
        return files

    def fetch_files(self, stored: StoredResult, directory: Path) -> None:
        """Write the model directory of a finished run.

        Raises:
            ArtifactDamaged: a file is missing or not what was written.
        """
        for name, digest in stored.files.items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._blobs.fetch(digest, target)

    def publish(self, result: FineTuneResult, files: Mapping[str, str]) -> None:
        """Create the object that makes a run finished: the one commit point.

        Raises:
            RunExists: another one has been published under this name.
        """
        reach("result.commit")
        try:
            self._objects.create(_path(result.run), document(result, files))
        except ObjectExists:
            raise RunExists(result.run) from None
        reach("result.committed")

    def fetch(self, stored: StoredResult, home: Path) -> None:
        """Make a finished run of the store one of this home's runs, unless it is there.

        Raises:
            ArtifactDamaged: a file is missing or not what was written; nothing is left.
        """
        runs = RunStore(home)
        run = stored.result.run
        with runs.staging(run) as staging:
            self.fetch_files(stored, staging / MODEL_DIRECTORY)
            local = stored.result.model_copy(update={"directory": str(runs.directory(run))})
            (staging / RESULT_FILE).write_text(local.model_dump_json(indent=2))
            try:
                runs.publish(staging, run)
            except RunExists:
                # Somebody on this machine was faster.
                return


def document(result: FineTuneResult, files: Mapping[str, str]) -> bytes:
    """Return what the object of a finished run holds."""
    fields = {"format": FORMAT, "result": result.model_dump(mode="json"), "files": dict(files)}
    return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _content(path: Path) -> memoryview:
    """Return what a file holds, without reading it into memory."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            # The kernel maps no empty file.
            return memoryview(b"")
        # Counts as memory that may be written to, which goes to a disk without a copy in between.
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))


def _path(run: str) -> str:
    return f"runs/{checked_run(run)}/{RESULT_FILE}"


def _parsed(run: str, data: bytes) -> StoredResult:
    try:
        fields: dict[str, Any] = json.loads(data)
        result = FineTuneResult.model_validate(fields["result"], extra="ignore")
        files = {_inside(name): str(digest) for name, digest in fields["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise ArtifactDamaged(f"the result of run {run!r} cannot be read: {error!s:.150}") from None
    return StoredResult(result, files, hashlib.sha256(data).hexdigest())


def _inside(name: str) -> str:
    # A name from a store becomes a path on this machine.
    if not PATH.fullmatch(name):
        raise ValueError(f"{name!r:.80} is no name of a file in a model directory")
    return name
