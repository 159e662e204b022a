"""The checkpoints of a run in a store: a set of files, and one entry of the journal that names them.

A checkpoint is whole, or it is not there. What the files hold is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from durabert.errors import ArtifactDamaged, CheckpointNotUsable
from durabert.faults import reach
from durabert.specs.durability import CURVE_FILE
from durabert.store.journal import Entry, Journal, Record
from durabert.store.objects import ObjectMissing, ObjectStore


@dataclass(frozen=True)
class FileRef:
    """A file of a checkpoint."""

    name: str
    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint."""

    number: int
    """Of its entry in the journal."""
    ordinal: int
    """Which checkpoint of the run it is, from 1."""
    step: int
    attempt: int
    base: int | None
    """Entry of the checkpoint that it continues; none: the beginning."""
    best_epoch: int | None
    state_sha256: str
    """Digest of the names and digests of its files, the curve excepted."""
    files: tuple[FileRef, ...]
    identity: str
    """Digest of what the run is: configuration, data, parent."""

    @classmethod
    def of(cls, entry: Entry) -> Checkpoint:
        """Read a ``checkpoint`` entry.

        Raises:
            ArtifactDamaged: it lacks a field, or a digest is none.
        """
        body = entry.body
        try:
            files = tuple(
                FileRef(str(ref["name"]), _sha256(ref["sha256"]), int(ref["size"])) for ref in body["files"]
            )
            return cls(
                number=entry.number,
                ordinal=int(body["ordinal"]),
                step=int(body["step"]),
                attempt=entry.attempt,
                base=body["base"],
                best_epoch=body["best_epoch"],
                state_sha256=body["state_sha256"],
                files=files,
                identity=body["identity"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactDamaged(f"entry {entry.number} is no checkpoint: {error!r:.100}") from None


@dataclass(frozen=True)
class PassedOver:
    """A checkpoint that was to be gone on from and could not."""

    step: int
    number: int
    reason: str

    def __str__(self) -> str:
        return f"the checkpoint of step {self.step} was passed over: {self.reason}"


class RunCheckpoints:
    """The journal and the checkpoint files of one run."""

    def __init__(self, objects: ObjectStore, run: str) -> None:
        self.run = run
        self.journal = Journal(objects, run)
        self._objects = objects
        self._directory = f"runs/{run}/files"

    def kept(self, record: Record) -> list[Checkpoint]:
        """Return the checkpoints whose files are kept, in order."""
        dropped: set[int] = set()
        for entry in record.of_kind("checkpoint", "resumed"):
            dropped.update(entry.body["dropped"])
        return [Checkpoint.of(entry) for entry in record.of_kind("checkpoint") if entry.number not in dropped]

    def line(self, record: Record, last: Checkpoint) -> list[Checkpoint]:
        """Return the checkpoints that ``last`` goes back to, in order, it included: one for each stretch."""
        known = {entry.number: Checkpoint.of(entry) for entry in record.of_kind("checkpoint")}
        line = [last]
        while (base := line[-1].base) is not None:
            if base not in known:
                raise ArtifactDamaged(
                    f"entry {base} of run {self.run!r}, a checkpoint, is missing or damaged"
                )
            line.append(known[base])
        return line[::-1]

    def environment(self, checkpoint: Checkpoint, record: Record | None = None) -> dict[str, Any]:
        """Return what the attempt that made a checkpoint wrote down of itself.

        Raises:
            ArtifactDamaged: that entry of the journal is missing or damaged.
        """
        for entry in (record or self.journal.read()).of_kind("started"):
            if entry.attempt == checkpoint.attempt:
                return dict(entry.body["environment"])
        raise ArtifactDamaged(f"the start of attempt {checkpoint.attempt} of run {self.run!r} is missing")

    def read(self, checkpoint: Checkpoint, *, names: Iterable[str] | None = None) -> dict[str, bytes]:
        """Return the files of a checkpoint, verified.

        Raises:
            ArtifactDamaged: one is missing, or not what was written.
        """
        wanted = None if names is None else set(names)
        return {
            ref.name: self._verified(ref)
            for ref in checkpoint.files
            if (ref.name != CURVE_FILE if wanted is None else ref.name in wanted)
        }

    def newest(
        self, record: Record, *, identity: str | None = None
    ) -> tuple[Checkpoint | None, dict[str, bytes], list[PassedOver]]:
        """Return the newest checkpoint that verifies, its files, and those that were passed over for it."""
        passed: list[PassedOver] = []
        for checkpoint in reversed(self.kept(record)):
            if identity is not None and checkpoint.identity != identity:
                break
            try:
                return checkpoint, self.read(checkpoint), passed
            except ArtifactDamaged as error:
                passed.append(PassedOver(checkpoint.step, checkpoint.number, str(error)))
        return None, {}, passed

    def at(self, step: int | None) -> tuple[Checkpoint, dict[str, bytes]]:
        """Return the checkpoint of a step, or the newest one, and its files.

        Raises:
            CheckpointNotUsable: there is none.
        """
        record = self.journal.read()
        kept = self.kept(record)
        if not kept:
            raise CheckpointNotUsable(f"run {self.run!r} has no checkpoint in the store {self._objects.url}")
        if step is None:
            found, files, passed = self.newest(record)
            if found is None:
                raise CheckpointNotUsable(f"run {self.run!r} has no whole checkpoint; {passed[0]}")
            return found, files
        at_step = [checkpoint for checkpoint in kept if checkpoint.step == step]
        if not at_step:
            steps = ", ".join(str(checkpoint.step) for checkpoint in kept)
            raise CheckpointNotUsable(
                f"run {self.run!r} keeps no checkpoint of step {step}; it keeps those of {steps}"
            )
        return at_step[-1], self.read(at_step[-1])

    def write(self, name: str, data: bytes | memoryview, *, held: set[str]) -> FileRef:
        """Write a file unless it is there already, and return what an entry says of it."""
        digest = hashlib.sha256(data).hexdigest()
        if digest not in held:
            reach("checkpoint.file")
            self._objects.write(f"{self._directory}/{digest}", data)
            reach("checkpoint.file written")
            held.add(digest)
        return FileRef(name, digest, len(data))

    def delete(self, digests: Iterable[str]) -> None:
        """Delete files that no entry keeps."""
        for digest in sorted(digests):
            reach("checkpoint.delete")
            self._objects.delete([f"{self._directory}/{digest}"])

    def _verified(self, ref: FileRef) -> bytes:
        try:
            data = self._objects.read(f"{self._directory}/{ref.sha256}")
        except ObjectMissing:
            raise ArtifactDamaged(f"its file {ref.name} is missing") from None
        if hashlib.sha256(data).hexdigest() != ref.sha256:
            raise ArtifactDamaged(f"its file {ref.name} has another digest than when it was written")
        return data


def state_sha256(refs: Iterable[FileRef]) -> str:
    """Return the digest of a state: of the names and digests of its files, the curve excepted."""
    lines = sorted(f"{ref.name} {ref.sha256}\n" for ref in refs if ref.name != CURVE_FILE)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _sha256(value: Any) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise ValueError(f"{value!r:.80} is no SHA-256")
    return value
