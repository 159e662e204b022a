"""The certificate of a run: from the store alone, without the server, whether all is what it says it is."""

from __future__ import annotations

import hashlib
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from durabert.activities.run_record import curve
from durabert.bert.data import load_training_data
from durabert.bert.rerun import rerun
from durabert.bert.snapshots import check_content
from durabert.bert.weights import stored_sha256
from durabert.errors import ArtifactDamaged, CheckpointNotUsable, DurabertError, RunNotFound
from durabert.specs import DataSpec, FineTuneConfig, FineTuneResult, Progress
from durabert.specs.audit import Finding
from durabert.store.checkpoints import Checkpoint, FileRef, RunCheckpoints, state_sha256
from durabert.store.journal import Record
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore, StoredResult, document
from durabert.store.snapshots import SnapshotStore


def certify(
    objects: ObjectStore,
    home: Path,
    run: str,
    *,
    replay_steps: int | None,
    report: Callable[[Progress], None],
) -> Iterator[Finding]:
    """Check every digest of a run and the chain that binds them, and re-derive some steps.

    Args:
        objects: the store.
        home: where data is put for the steps.
        run: full name of the run.
        replay_steps: make up to so many steps from a checkpoint and compare; none: do not.
        report: gets the progress of those steps.

    Raises:
        RunNotFound: the store knows no such run.
        CheckpointNotUsable: no checkpoint is followed by another one within so many steps.
    """
    checkpoints = RunCheckpoints(objects, run)
    record = checkpoints.journal.read()
    yield from _of_journal(record)
    stored = None
    try:
        stored = ResultStore(objects).result(run)
    except ArtifactDamaged as error:
        yield _found("result", "damaged", str(error))
    if stored is None and record.next_number == 1:
        raise RunNotFound(run)
    if stored is not None:
        yield from _of_result(objects, record, stored)
        yield from _of_source(objects, home, stored.result, replay_steps, report)
    if not record.of_kind("checkpoint"):
        return
    yield from _of_checkpoints(checkpoints, record)
    yield from _of_snapshot(objects, home, checkpoints, record)
    if replay_steps is not None:
        yield from _of_steps(objects, home, checkpoints, record, replay_steps, report)


def _found(subject: str, state: Literal["ok", "damaged", "different"], detail: str) -> Finding:
    return Finding(subject=subject, state=state, detail=detail)


def _of_journal(record: Record) -> Iterator[Finding]:
    if record.entries or record.damages:
        yield _found("journal", "ok", f"{len(record.entries)} entries, each bound to the one before")
    for damage in record.damages:
        yield _found(f"journal entry {damage.number}", "damaged", damage.reason)


def _of_result(objects: ObjectStore, record: Record, stored: StoredResult) -> Iterator[Finding]:
    told = record.of_kind("result")
    digest = hashlib.sha256(document(stored.result, stored.files)).hexdigest()
    if told and told[-1].body["result_sha256"] != digest:
        yield _found(
            "result", "different", f"the journal says {told[-1].body['result_sha256']}, not {digest}"
        )
    else:
        yield _found(
            "result", "ok", f"{stored.result.metric} {stored.result.metrics[stored.result.metric]:.4f}"
        )
    with tempfile.TemporaryDirectory() as directory:
        yield _of_model(objects, stored, Path(directory))


def _of_source(
    objects: ObjectStore,
    home: Path,
    result: FineTuneResult,
    replay_steps: int | None,
    report: Callable[[Progress], None],
) -> Iterator[Finding]:
    """Check the run that a linked one was trained as."""
    source = result.reused_from
    if source is None:
        return
    try:
        for finding in certify(objects, home, source, replay_steps=replay_steps, report=report):
            yield finding.model_copy(update={"subject": f"{source}: {finding.subject}"})
        original = ResultStore(objects).result(source)
    except (RunNotFound, ArtifactDamaged) as error:
        yield _found(f"link to {source}", "damaged", str(error))
        return
    inputs = original and original.result.lineage and original.result.lineage.inputs_sha256
    same = original is not None and original.result.model_sha256 == result.model_sha256
    if same and result.lineage is not None and inputs == result.lineage.inputs_sha256:
        yield _found(f"link to {source}", "ok", "the same inputs and weights")
    else:
        yield _found(f"link to {source}", "different", "it has other inputs or weights")


def _of_model(objects: ObjectStore, stored: StoredResult, directory: Path) -> Finding:
    try:
        ResultStore(objects).fetch_files(stored, directory)
        found = stored_sha256(directory)
    except DurabertError as error:
        return _found("model", "damaged", str(error))
    if found != stored.result.model_sha256:
        return _found("model", "different", f"its weights have {found}, not {stored.result.model_sha256}")
    return _found("model", "ok", f"{len(stored.files)} files, weights {found[:12]}")


def _of_checkpoints(checkpoints: RunCheckpoints, record: Record) -> Iterator[Finding]:
    for checkpoint in checkpoints.kept(record):
        subject = f"checkpoint of step {checkpoint.step}"
        try:
            files = checkpoints.read(checkpoint)
        except ArtifactDamaged as error:
            yield _found(subject, "damaged", str(error))
            continue
        if state_sha256(checkpoint.files) != checkpoint.state_sha256:
            yield _found(subject, "different", "its files are not those of its state's digest")
        else:
            yield _found(subject, "ok", f"{len(files)} files, state {checkpoint.state_sha256[:12]}")
    yield _of_curve(checkpoints, record)


def _of_curve(checkpoints: RunCheckpoints, record: Record) -> Finding:
    last = checkpoints.kept(record)[-1]
    try:
        points = curve(checkpoints, record, last)
    except ArtifactDamaged as error:
        return _found("curve", "damaged", str(error))
    steps = [point.step for point in points]
    first = steps[0] if steps else 1
    if steps != list(range(first, last.step + 1)):
        return _found("curve", "different", f"its {len(steps)} points are not the steps to {last.step}")
    return _found("curve", "ok", f"{len(steps)} points, no gap and none twice")


def _of_snapshot(
    objects: ObjectStore, home: Path, checkpoints: RunCheckpoints, record: Record
) -> Iterator[Finding]:
    snapshot = checkpoints.environment(checkpoints.kept(record)[-1], record)["snapshot"]
    if snapshot is None:
        return
    snapshots = SnapshotStore(objects, home / "cache")
    try:
        snapshots.verify(snapshot)
        check_content(snapshots.fetch(snapshot))
    except ArtifactDamaged as error:
        yield _found("snapshot", "damaged", str(error))
    else:
        yield _found("snapshot", "ok", f"{snapshot[:12]}, as its rows say")


def _of_steps(
    objects: ObjectStore,
    home: Path,
    checkpoints: RunCheckpoints,
    record: Record,
    num_steps: int,
    report: Callable[[Progress], None],
) -> Iterator[Finding]:
    kept = checkpoints.kept(record)
    line = checkpoints.line(record, kept[-1])
    told = checkpoints.environment(line[-1], record)
    beginning = told["parent"] is None and line[0].base is None
    start, ahead = _start(checkpoints.run, kept, line, num_steps, beginning=beginning)
    first = 0 if start is None else start.step
    points = {point.step: point.loss for point in curve(checkpoints, record, kept[-1])}
    config = _alone(FineTuneConfig.model_validate(told["config"], extra="ignore"), told)
    data = data_of(objects, home, config, told)
    moments = rerun(
        config,
        data,
        None if start is None else checkpoints.read(start),
        num_steps=ahead[-1].step - first,
        num_threads=told["num_threads"],
        report=report,
    )
    wanted = {checkpoint.step: checkpoint for checkpoint in ahead}
    found: dict[int, set[str]] = {step: set() for step in wanted}
    losses, different = 0, []
    for moment in moments:
        if moment.loss is not None:
            losses += 1
            if not _same_float(points.get(moment.step), moment.loss):
                different.append(f"step {moment.step}: {moment.loss!r}, not {points.get(moment.step)!r}")
        if moment.step in wanted:
            found[moment.step].add(_state_of(moment.state()))
    yield (
        _found("losses derived anew", "different", different[0])
        if different
        else _found("losses derived anew", "ok", f"{losses} steps from step {first}, equal to the last bit")
    )
    for step, checkpoint in wanted.items():
        same = checkpoint.state_sha256 in found[step]
        detail = f"{checkpoint.state_sha256[:12]}, derived from step {first}"
        yield _found(f"state of step {step}", "ok" if same else "different", detail)


def _start(
    run: str, kept: Sequence[Checkpoint], line: Sequence[Checkpoint], num_steps: int, *, beginning: bool
) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """Return a kept checkpoint, or None for the beginning, and those that follow it within so many steps."""
    whole = {checkpoint.number for checkpoint in kept}
    gaps = []
    for checkpoint in reversed(line):
        if checkpoint.number not in whole:
            continue
        later = [one for one in line if one.step > checkpoint.step]
        ahead = [one for one in later if one.step <= checkpoint.step + num_steps]
        if ahead:
            return checkpoint, ahead
        gaps += [later[0].step - checkpoint.step] if later else []
    if beginning:
        gaps.append(line[0].step)
        ahead = [one for one in line if one.step <= num_steps]
        if ahead:
            return None, ahead
    raise CheckpointNotUsable(
        f"no checkpoint of run {run!r} is followed by another one within {num_steps} steps"
        + (f"; give --replay-steps {min(gaps)} or more" if gaps else ": only one is kept")
    )


def _alone(config: FineTuneConfig, told: dict[str, Any]) -> FineTuneConfig:
    # One process that computes the pieces in turn comes to the bits of several that share them.
    pieces = max(config.gradient_accumulation, told.get("num_processes", 1))
    return config.model_copy(update={"gradient_accumulation": pieces, "num_processes": 1})


def data_of(objects: ObjectStore, home: Path, config: FineTuneConfig, told: Mapping[str, Any]) -> Any:
    """Return the rows of a run, as ``data`` and ``snapshot`` of its environment say."""
    snapshot = told["snapshot"]
    return load_training_data(
        DataSpec.model_validate(told["data"], extra="ignore"),
        task=config.task,
        max_train_rows=config.max_train_rows,
        max_eval_rows=config.max_eval_rows,
        seed=config.seed,
        snapshot=None if snapshot is None else SnapshotStore(objects, home / "cache").fetch(snapshot),
    )


def _state_of(files: Iterator[tuple[str, memoryview]]) -> str:
    return state_sha256(FileRef(name, hashlib.sha256(data).hexdigest(), len(data)) for name, data in files)


def _same_float(one: float | None, other: float) -> bool:
    return one is not None and (one == other or (math.isnan(one) and math.isnan(other)))
