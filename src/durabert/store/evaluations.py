"""Evaluations in a store: their files as blobs, and one manifest each, created last, under its run.

What an evaluation is decides its id: the same run, model, rows and options are computed once. A manifest that
cannot be read, or one of whose files is missing or damaged, counts as none; who computes anew replaces it.

Layout::

    runs/<run>/evaluations/<id>.json      what was evaluated, the result, digests of the files
    blobs/sha256/..                       predictions.parquet, worst.parquet, report.json
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from durabert.errors import ArtifactDamaged
from durabert.faults import reach
from durabert.specs import EvaluationReport, EvaluationResult, checked_run
from durabert.store.blobs import Blobs, blob_path
from durabert.store.objects import ObjectExists, ObjectMissing, ObjectStore

FORMAT: Final = 1
DIRECTORY: Final = "evaluations"
PREDICTIONS: Final = "predictions.parquet"
WORST: Final = "worst.parquet"
REPORT: Final = "report.json"
_ID: Final = re.compile(r"[0-9a-f]{64}")
_DIGEST: Final = _ID


@dataclass(frozen=True)
class StoredEvaluation:
    """An evaluation, as the store has it."""

    identity: Mapping[str, Any]
    """What was evaluated, and how."""
    result: EvaluationResult
    files: Mapping[str, str]
    """Digest of each file by its name."""

    @property
    def id(self) -> str:
        """Digest of the identity."""
        return self.result.evaluation


class EvaluationStore:
    """The evaluations of a store."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._blobs = Blobs(objects)

    def find(self, run: str, evaluation: str) -> StoredEvaluation | None:
        """Return an evaluation whose files are all there and undamaged; None if there is none such."""
        try:
            stored = self.stored(run, evaluation)
            if stored is None:
                return None
            for digest in stored.files.values():
                self._blobs.get(digest)
        except ArtifactDamaged:
            return None
        return stored

    def stored(self, run: str, evaluation: str) -> StoredEvaluation | None:
        """Return an evaluation as its manifest tells it, None if there is no manifest.

        Raises:
            ArtifactDamaged: the manifest cannot be believed.
        """
        try:
            data = self._objects.read(manifest_path(run, evaluation))
        except ObjectMissing:
            return None
        return _parsed(run, evaluation, data)

    def ids(self, run: str) -> list[str]:
        """Return the ids of the evaluations of a run."""
        prefix = f"runs/{checked_run(run)}/{DIRECTORY}"
        names = (info.path.rpartition("/")[2].removesuffix(".json") for info in self._objects.list(prefix))
        return sorted(name for name in names if _ID.fullmatch(name))

    def of_run(self, run: str) -> list[StoredEvaluation]:
        """Return the evaluations of a run that can be read, in the order of their ids."""
        found = []
        for evaluation in self.ids(run):
            try:
                stored = self.stored(run, evaluation)
            except ArtifactDamaged:
                continue
            if stored is not None:
                found.append(stored)
        return found

    def read(self, stored: StoredEvaluation, name: str) -> bytes:
        """Return a file of an evaluation, verified.

        Raises:
            ArtifactDamaged: it is missing, or another one.
        """
        return self._blobs.get(stored.files[name])

    def report(self, stored: StoredEvaluation) -> EvaluationReport:
        """Return the report of an evaluation.

        Raises:
            ArtifactDamaged: it is missing, or cannot be read.
        """
        try:
            return EvaluationReport.model_validate_json(self.read(stored, REPORT), extra="ignore")
        except (ValidationError, KeyError):
            raise ArtifactDamaged(
                f"the report of evaluation {stored.id[:12]} of run {stored.result.run!r} cannot be read"
            ) from None

    def commit(
        self, identity: Mapping[str, Any], result: EvaluationResult, files: Mapping[str, bytes]
    ) -> StoredEvaluation:
        """Store the files, and last the manifest: the one commit point; return what is there then.

        Who computed the same and was faster stays; a damaged one is replaced.
        """
        digests = {name: self._put(data) for name, data in sorted(files.items())}
        document = _document(identity, result, digests)
        path = manifest_path(result.run, result.evaluation)
        reach("evaluation.commit", result.run)
        try:
            self._objects.create(path, document)
        except ObjectExists:
            there = self.find(result.run, result.evaluation)
            if there is not None:
                return there
            self._objects.write(path, document)
        reach("evaluation.committed", result.run)
        return StoredEvaluation(identity, result, digests)

    def _put(self, data: bytes) -> str:
        digest = self._blobs.put(data)
        try:
            self._blobs.get(digest)
        except ArtifactDamaged:
            # One of the right size was there, with other content.
            self._objects.write(blob_path(digest), data)
        return digest


def identity_digest(identity: Mapping[str, Any]) -> str:
    """Return the id of the evaluation that this describes."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def manifest_path(run: str, evaluation: str) -> str:
    """Return where the manifest of an evaluation is in a store."""
    return f"runs/{checked_run(run)}/{DIRECTORY}/{evaluation}.json"


def _document(identity: Mapping[str, Any], result: EvaluationResult, files: Mapping[str, str]) -> bytes:
    fields = {
        "format": FORMAT,
        "identity": dict(identity),
        "result": result.model_dump(mode="json"),
        "files": dict(files),
    }
    return json.dumps(fields, sort_keys=True, indent=1, ensure_ascii=False).encode()


def _parsed(run: str, evaluation: str, data: bytes) -> StoredEvaluation:
    try:
        fields: dict[str, Any] = json.loads(data)
        stored = StoredEvaluation(
            identity=fields["identity"],
            result=EvaluationResult.model_validate(fields["result"], extra="ignore"),
            files={name: fields["files"][name] for name in (PREDICTIONS, WORST, REPORT)},
        )
        if identity_digest(stored.identity) != evaluation or stored.id != evaluation:
            raise ValueError("it is another one's")
        if not all(_DIGEST.fullmatch(digest) for digest in stored.files.values()):
            raise ValueError("a digest is none")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ValidationError) as error:
        raise ArtifactDamaged(
            f"the manifest of evaluation {evaluation[:12]} of run {run!r} cannot be read: {error!s:.120}"
        ) from None
    return stored
