"""What a run is by the content of its inputs, and what was trained on the same before. No Temporal here."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from durabert.activities.jobs import fetch_run
from durabert.bert.card import versions
from durabert.bert.data import TrainingData
from durabert.bert.environment import CODE_SHA256, base_model_sha256, hardware
from durabert.bert.model import resolve_model
from durabert.errors import ArtifactDamaged
from durabert.specs import FineTuneRequest, FineTuneResult
from durabert.specs.lineage import Lineage
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.inputs import InputIndex
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore, StoredResult
from durabert.store.runs import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore

SAME_BITS: Final = {"name", "model", "num_processes"}
"""Fields of a configuration that do not say what is computed; the model counts by its content."""
NO_MATTER: Final = {"durabert", "python"}
"""Versions that compute nothing; the digest of the code stands for the first."""


@dataclass(frozen=True)
class Inputs:
    """What goes into a run."""

    data: TrainingData
    base_model: Path
    """Its directory."""
    lineage: Lineage

    @classmethod
    def of(cls, request: FineTuneRequest, data: TrainingData) -> Inputs:
        """Look the base model up, and digest all that a training reads.

        Raises:
            UserError: there is no such base model, or it cannot be used.
        """
        base_model = resolve_model(request.config.model)
        return cls(data, base_model, _lineage(request, data, base_model_sha256(base_model)))


def _lineage(request: FineTuneRequest, data: TrainingData, base: str) -> Lineage:
    read: dict[str, Any] = {
        "config": request.config.model_dump(mode="json", exclude=SAME_BITS),
        "data": data.sha256,
        "columns": [*data.text_columns, data.label_column],
        "snapshot": request.snapshot,
        "base_model": base,
        "code": CODE_SHA256,
        "versions": {name: text for name, text in versions().items() if name not in NO_MATTER},
        "checkpoints": request.checkpoints is not None,
        "parent": None if request.start_from is None else request.start_from.model_dump(mode="json"),
    }
    return Lineage(
        inputs_sha256=hashlib.sha256(json.dumps(read, sort_keys=True).encode()).hexdigest(),
        base_model_sha256=base,
        code_sha256=CODE_SHA256,
        hardware=hardware(),
        started_by=request.started_by,
        reproduces=request.reproduces,
    )


def linked(
    objects: ObjectStore,
    request: FineTuneRequest,
    lineage: Lineage,
    home: Path,
    staging: Path,
    *,
    attempt: int,
) -> FineTuneResult | None:
    """Publish a run that was trained before, on the same inputs, under the name of this one.

    Nothing is computed; every file is read and compared with its digest. None: there is no such run, it is
    not whole any more, this one has begun to train already, or was told to train.

    Args:
        objects: the store.
        request: what the workflow asked for.
        lineage: what the run is made of.
        home: the worker's home directory.
        staging: the attempt's own directory, in which the run is put together.
        attempt: number of the attempt, from 1.
    """
    began = time.perf_counter()
    index = InputIndex(objects)
    # A checkpoint of another run is named by its step, or is the newest: the same name may be another state.
    if not request.reuse or request.start_from is not None or _has_begun(objects, request):
        return None
    run = index.run_of(lineage.inputs_sha256)
    if run is None or run == request.run:
        return None
    try:
        stored = ResultStore(objects).result(run)
        if stored is None:
            raise ArtifactDamaged(f"run {run!r} has no result")
        ResultStore(objects).fetch_files(stored, staging / MODEL_DIRECTORY)
    except ArtifactDamaged:
        # Whoever trains in its place becomes the one to link to.
        index.forget(lineage.inputs_sha256)
        return None
    result = _under_the_name_of(request, stored, lineage, home).model_copy(
        update={"attempts": attempt, "seconds": time.perf_counter() - began}
    )
    return _published(objects, result, stored, home, staging)


def trained_as(objects: ObjectStore, run: str) -> str:
    """Return the run that has the checkpoints of a run: itself, or the one that it is linked to."""
    stored = ResultStore(objects).result(run)
    return run if stored is None else stored.result.reused_from or run


def remember(objects: ObjectStore, result: FineTuneResult) -> None:
    """Note a run that was trained, so that another one can be linked to it."""
    if result.lineage is not None and result.reused_from is None and result.parent is None:
        InputIndex(objects).remember(result.lineage.inputs_sha256, result.run)


def _has_begun(objects: ObjectStore, request: FineTuneRequest) -> bool:
    if request.checkpoints is None:
        return False
    return RunCheckpoints(objects, request.run).journal.read().next_number > 1


def _under_the_name_of(
    request: FineTuneRequest, stored: StoredResult, lineage: Lineage, home: Path
) -> FineTuneResult:
    original = stored.result
    trained_on = original.lineage.hardware if original.lineage is not None else {}
    return original.model_copy(
        update={
            "run": request.run,
            "experiment": request.experiment,
            "directory": str(RunStore(home).directory(request.run)),
            "model": request.config.model,
            "config": request.config,
            "snapshot": request.snapshot,
            "attempt_log": [],
            "reused_from": original.run,
            "lineage": lineage.model_copy(update={"hardware": trained_on}),
        }
    )


def _published(
    objects: ObjectStore, result: FineTuneResult, stored: StoredResult, home: Path, staging: Path
) -> FineTuneResult | None:
    (staging / RESULT_FILE).write_text(result.model_dump_json(indent=2))
    try:
        ResultStore(objects).publish(result, stored.files)
        RunStore(home).publish(staging, result.run)
    except RunExists:
        # An earlier attempt, thought dead, was faster.
        return fetch_run(objects, result.run, home)
    return result
