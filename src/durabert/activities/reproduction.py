"""A run that was done again: what to ask for, and where the two differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from durabert.activities.audit import environment_of, stored_result
from durabert.activities.run_record import curve
from durabert.bert.card import versions
from durabert.bert.curve import Point
from durabert.bert.environment import CODE_SHA256, hardware
from durabert.errors import ArtifactDamaged, RunNotFound, RunNotUsable
from durabert.specs import CheckpointRef, DataSpec, ExperimentSpec, FineTuneResult
from durabert.specs.audit import Finding, HistoryRecord
from durabert.specs.data import SNAPSHOT_PREFIX
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import ObjectStore

COMPARED: Final = ("step", "epoch", "loss", "learning_rate", "examples", "tokens")
"""Of a point of a curve: all but the time."""


def original(
    objects: ObjectStore, run: str, record: HistoryRecord | None
) -> tuple[FineTuneResult, dict[str, Any]]:
    """Return the result of a run, and what it was asked for: ``data`` and ``parent``.

    Raises:
        RunNotFound: neither the server nor the store knows it.
        RunNotUsable: it has no result to compare with, or nobody knows any more what it was trained on.
    """
    result = stored_result(objects, run)
    if result is None and record is not None:
        result = record.result
    if result is None:
        if record is None:
            raise RunNotFound(run)
        raise RunNotUsable(f"run {run!r} has no result to compare with, it is {record.status}")
    asked = environment_of(objects, result.reused_from or run)
    if not asked and record is not None and record.request is not None:
        asked = {"data": record.request.data.model_dump(mode="json"), "parent": None}
    if not asked:
        raise RunNotUsable(
            f"run {run!r} was trained without a snapshot and its history is gone: nobody knows on what"
        )
    return result, asked


def again(result: FineTuneResult, asked: dict[str, Any], *, name: str) -> ExperimentSpec:
    """Return the experiment that does a run again, on its snapshot where it has one."""
    data = DataSpec.model_validate(asked["data"], extra="ignore")
    if result.snapshot is not None:
        told = {"source": f"{SNAPSHOT_PREFIX}{result.snapshot}", "validation": None, "test": None}
        data = data.model_copy(update=told)
    parent = asked.get("parent")
    return ExperimentSpec(
        name=name,
        data=data,
        runs=(result.config.model_copy(update={"name": None}),),
        start_from=None if parent is None else CheckpointRef.model_validate(parent),
        reproduces=result.run,
    )


def differences_here(result: FineTuneResult) -> list[str]:
    """Return what of this machine is not what the run was trained with, a few words each."""
    here = versions()
    found = [
        f"{name} {here.get(name, 'is missing')}, not {version}"
        for name, version in result.versions.items()
        if here.get(name) != version
    ]
    if result.lineage is not None:
        machine = hardware()
        found += [
            f"{name} {machine.get(name)}, not {value}"
            for name, value in result.lineage.hardware.items()
            if machine.get(name) != value
        ]
        found += ["other sources of durabert.bert"] if result.lineage.code_sha256 != CODE_SHA256 else []
    return found


def compared(objects: ObjectStore, first: FineTuneResult, second: FineTuneResult) -> Iterator[Finding]:
    """Yield whether weights, metrics, state and curve of two runs are the same, to the last bit."""
    yield _same("data", first.data_sha256, second.data_sha256)
    bases = [None if one.lineage is None else one.lineage.base_model_sha256 for one in (first, second)]
    yield _same("base model", bases[0], bases[1])
    yield _same("weights", first.model_sha256, second.model_sha256)
    yield _same("state", first.state_sha256, second.state_sha256)
    yield _metrics("metrics", first.metrics, second.metrics)
    yield _metrics("test metrics", first.test_metrics, second.test_metrics)
    yield _curves(objects, first.reused_from or first.run, second.run)


def _same(subject: str, one: str | None, other: str | None) -> Finding:
    if one is None or other is None:
        return Finding(subject=subject, state="gone", detail="not both runs have a digest of it")
    if one != other:
        return Finding(subject=subject, state="different", detail=f"{one[:12]}, again {other[:12]}")
    return Finding(subject=subject, state="ok", detail=one[:12])


def _metrics(subject: str, one: dict[str, float] | None, other: dict[str, float] | None) -> Finding:
    if one is None and other is None:
        return Finding(subject=subject, state="ok", detail="neither has any")
    ours, theirs = one or {}, other or {}
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            detail = f"{name} {ours.get(name)!r}, again {theirs.get(name)!r}"
            return Finding(subject=subject, state="different", detail=detail)
    return Finding(subject=subject, state="ok", detail=", ".join(f"{name} {ours[name]:.4f}" for name in ours))


def _curves(objects: ObjectStore, first: str, second: str) -> Finding:
    try:
        points = [_points(objects, run) for run in (first, second)]
    except ArtifactDamaged as error:
        return Finding(subject="curve", state="gone", detail=str(error))
    if not all(points):
        return Finding(subject="curve", state="gone", detail="not both runs have one in the store")
    for ours, theirs in zip(*points, strict=False):
        for field in COMPARED:
            one, other = getattr(ours, field), getattr(theirs, field)
            if one != other:
                detail = f"{field} of step {ours.step} is {one!r}, again {other!r}"
                return Finding(subject="curve", state="different", detail=detail)
    if len(points[0]) != len(points[1]):
        detail = f"{len(points[0])} steps, again {len(points[1])}"
        return Finding(subject="curve", state="different", detail=detail)
    return Finding(subject="curve", state="ok", detail=f"{len(points[0])} steps, equal to the last bit")


def _points(objects: ObjectStore, run: str) -> list[Point]:
    checkpoints = RunCheckpoints(objects, run)
    record = checkpoints.journal.read()
    kept = checkpoints.kept(record)
    return curve(checkpoints, record, kept[-1]) if kept else []
