"""Exported models that predict: made once for a home directory, behind the gate, and kept in its cache."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import torch

from durabert.activities.dataset_jobs import snapshot_directory
from durabert.bert.card import versions
from durabert.bert.data import TrainingData, load_training_data
from durabert.bert.exporting import ExportFacts, export_onnx, load_exported
from durabert.bert.onnx_export import onnx_versions, require_onnx
from durabert.bert.predict import Predictor
from durabert.bert.progress import Reporter
from durabert.errors import ArtifactDamaged, RunNotUsable
from durabert.specs import DataSpec, FineTuneResult, InferenceRequest, OnnxFormat
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import ObjectStore
from durabert.store.runs import RunStore

FORMAT: Final = 1
"""Counted up when ``export_onnx`` writes other files for the same model."""
KEPT: Final = timedelta(days=30)
"""Models that nobody has used for so long are removed."""


def load_predictor(
    request: InferenceRequest, run: FineTuneResult, objects: ObjectStore, home: Path, reporter: Reporter
) -> Predictor:
    """Load the model of a finished run into the engine that a request names.

    Args:
        request: names engine, device and precision.
        run: is in the home directory.
        objects: the store, for the rows that an export is tried on.
        home: the worker's home directory.
        reporter: told how far it is.

    Raises:
        UserError: this machine has no such device, or the model cannot be exported.
        ExportRefused: the exported model predicts otherwise than the trained one.
    """
    if request.engine == "torch":
        directory = RunStore(home).model_directory(run.run)
        return Predictor.load(directory, precision=request.precision, device=request.device)
    return load_exported(exported_model(run, request.engine, None, objects, home, reporter))


def exported_model(
    run: FineTuneResult,
    format: OnnxFormat,  # noqa: A002 - the name that it has everywhere
    data: DataSpec | None,
    objects: ObjectStore,
    home: Path,
    reporter: Reporter,
) -> Path:
    """Return the directory of a run's model as ONNX, made behind the gate unless it was made before.

    Args:
        run: is in the home directory.
        format: ``onnx`` or ``onnx-int8``.
        data: what the run was trained on, if it has no snapshot.
        objects: the store.
        home: the worker's home directory.
        reporter: told how far it is.

    Raises:
        DependencyMissing: the libraries are not installed.
        ExportRefused: the exported model predicts otherwise than the trained one.
        ModelInvalid: a model of this type cannot be exported.
        RunNotUsable: the run has no snapshot, and no data were given.
    """
    require_onnx()
    cache = home / "cache" / "engines"
    entry = cache / _key(run, format)
    with _alone(cache):
        known = ExportFacts.read(entry)
        rows = None
        if known is None or data is not None:
            rows = _validation_data(run, data, objects, home, reporter)
        if known is None or (rows is not None and known.parity and known.parity.data_sha256 != rows.sha256):
            assert rows is not None
            with RunStore(home).staging("export") as directory:
                made = directory / "model"
                made.mkdir()
                export_onnx(
                    RunStore(home).model_directory(run.run),
                    made,
                    run=run.run,
                    format=format,
                    data=rows,
                    metric=run.metric,
                    reporter=reporter,
                )
                shutil.rmtree(entry, ignore_errors=True)
                made.rename(entry)
        os.utime(entry)
        _sweep(cache)
    return entry


def _key(run: FineTuneResult, format: OnnxFormat) -> str:  # noqa: A002
    decides = {
        "format": [FORMAT, format],
        "metric": run.metric,
        "model": run.model_sha256,
        "versions": {**versions(), **onnx_versions()},
        # The products of 8 bits round otherwise on another kind of processor.
        "processor": torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def _validation_data(
    run: FineTuneResult, given: DataSpec | None, objects: ObjectStore, home: Path, reporter: Reporter
) -> TrainingData:
    reporter.phase("loading data")
    spec, snapshot = _source(run, given, objects)
    data = load_training_data(
        spec,
        task=run.config.task,
        max_train_rows=run.config.max_train_rows,
        max_eval_rows=run.config.max_eval_rows,
        seed=run.config.seed,
        snapshot=snapshot_directory(spec, snapshot, objects, home, reporter),
    )
    if given is None and data.sha256 != run.data_sha256:
        raise ArtifactDamaged(
            f"the snapshot of run {run.run!r} gives rows with the digest {data.sha256[:12]}, not those with "
            f"{run.data_sha256[:12]} that it was trained on"
        )
    return data


def _source(run: FineTuneResult, given: DataSpec | None, objects: ObjectStore) -> tuple[DataSpec, str | None]:
    if given is not None:
        text, *more = run.text_columns
        columns = {"text": given.text or text, "text_pair": given.text_pair or (more[0] if more else None)}
        return given.model_copy(update=columns), None
    for entry in RunCheckpoints(objects, run.run).journal.read().of_kind("started"):
        told = entry.body["environment"]
        if run.snapshot is not None and told["snapshot"] == run.snapshot:
            return DataSpec.model_validate(told["data"], extra="ignore"), run.snapshot
    raise RunNotUsable(
        f"run {run.run!r} has no snapshot of its data, on which an export is tried; "
        f"give the data: durabert export {run.run} --data DATA"
    )


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Hold the cache: two who want the same model must not make it twice."""
    cache.mkdir(parents=True, exist_ok=True)
    lock = os.open(cache, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _sweep(cache: Path) -> None:
    oldest = time.time() - KEPT.total_seconds()
    for entry in cache.iterdir():
        if entry.stat().st_mtime < oldest:
            shutil.rmtree(entry, ignore_errors=True)
