"""The audit of a run: its history and the store held against each other, and the store against itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from durabert.activities.certificate import certify, data_of
from durabert.bert.environment import CODE_SHA256, base_model_sha256
from durabert.bert.model import resolve_model
from durabert.errors import ArtifactDamaged, RunNotFound, SnapshotNotFound, UserError
from durabert.specs import FineTuneResult, Progress
from durabert.specs.audit import Finding, HistoryRecord
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore

OF_A_COPY = {"directory"}
"""Fields of a result that differ from machine to machine."""


def audited(
    objects: ObjectStore,
    home: Path,
    run: str,
    record: HistoryRecord | None,
    *,
    report: Callable[[Progress], None],
) -> Iterator[Finding]:
    """Check what was run on what.

    Args:
        objects: the store.
        home: where data is put that has to be read.
        run: full name of the run.
        record: what the server's history says of it; none: it has none, or not any more.
        report: gets the progress.

    Raises:
        RunNotFound: neither the server nor the store knows such a run.
    """
    yield from _of_history(run, record)
    try:
        yield from certify(objects, home, run, replay_steps=None, report=report)
    except RunNotFound:
        if record is None:
            raise
        lost = record.result is not None
        said = "has nothing of it" + ("" if lost else f", and it is {record.status}")
        yield Finding(subject="store", state="damaged" if lost else "gone", detail=f"{objects.url} {said}")
        return
    stored = stored_result(objects, run)
    if stored is None:
        yield from _without_result(record)
        return
    if record is not None:
        yield from _of_record(record, stored)
    environment = environment_of(objects, stored.reused_from or run)
    yield from _of_environment(environment, stored)
    yield _of_data(objects, home, stored, environment, record)
    yield from _of_lineage(stored)


def stored_result(objects: ObjectStore, run: str) -> FineTuneResult | None:
    """Return the result of a run in the store; None: there is none that can be read."""
    try:
        stored = ResultStore(objects).result(run)
    except ArtifactDamaged:
        return None
    return None if stored is None else stored.result


def environment_of(objects: ObjectStore, run: str) -> dict[str, Any]:
    """Return what the last attempt of a run wrote down of itself; empty: it makes no checkpoints."""
    starts = RunCheckpoints(objects, run).journal.read().of_kind("started")
    return dict(starts[-1].body["environment"]) if starts else {}


def _of_history(run: str, record: HistoryRecord | None) -> Iterator[Finding]:
    if record is None:
        yield _gone(
            "history", f"the server has none of {run!r}, or not any more: the store alone is looked at"
        )
        return
    same = f"{record.num_events} events replayed, every decision is the same"
    yield _finding(
        "history", record.replays, same, f"the code of today decides otherwise: {record.difference}"
    )


def _without_result(record: HistoryRecord | None) -> Iterator[Finding]:
    if record is not None and record.result is not None:
        yield Finding(subject="result", state="damaged", detail="the history has one, the store has not")
        return
    status = "not told, its history is gone" if record is None else record.status
    yield _gone("result", f"there is none; how the run ended is {status}")


def _of_record(record: HistoryRecord, stored: FineTuneResult) -> Iterator[Finding]:
    if record.result is not None:
        field = _difference(record.result, stored)
        yield _finding(
            "result in the history", field is None, "the same as in the store", f"its {field} is another"
        )
    if record.request is not None:
        asked = record.request
        same = (asked.config, asked.snapshot) == (stored.config, stored.snapshot)
        yield _finding(
            "request in the history", same, "configuration and snapshot are those of the result",
            "its configuration or its snapshot is not that of the result",
        )  # fmt: skip
    if record.snapshot is not None:
        yield _finding(
            "snapshot in the history", record.snapshot == stored.snapshot, record.snapshot[:12],
            f"it is {record.snapshot[:12]}, that of the result {str(stored.snapshot)[:12]}",
        )  # fmt: skip


def _difference(one: FineTuneResult, other: FineTuneResult) -> str | None:
    ours, theirs = (result.model_dump(mode="json", exclude=OF_A_COPY) for result in (one, other))
    return next((field for field in ours if ours[field] != theirs[field]), None)


def _of_environment(environment: Mapping[str, Any], stored: FineTuneResult) -> Iterator[Finding]:
    if not environment:
        return
    fields = {"data_sha256": stored.data_sha256, "snapshot": stored.snapshot}
    if stored.reused_from is None:
        fields["config"] = stored.config.model_dump(mode="json")  # type: ignore[assignment]  # compared alone
    other = next((name for name, value in fields.items() if environment.get(name) != value), None)
    yield _finding(
        "start in the journal", other is None, "data and configuration are those of the result",
        f"its {other} is not that of the result",
    )  # fmt: skip


def _of_data(
    objects: ObjectStore,
    home: Path,
    stored: FineTuneResult,
    environment: Mapping[str, Any],
    record: HistoryRecord | None,
) -> Finding:
    data = environment.get("data")
    if data is None and record is not None and record.request is not None:
        data = record.request.data.model_dump(mode="json")
    if stored.snapshot is None or data is None:
        return _gone("data", "it was trained without a snapshot, so its rows are not in the store")
    told = {"data": data, "snapshot": stored.snapshot}
    try:
        found = data_of(objects, home, stored.config, told).sha256
    except (ArtifactDamaged, SnapshotNotFound) as error:
        return Finding(subject="data", state="damaged", detail=str(error))
    return _finding(
        "data", found == stored.data_sha256, f"{found[:12]}, the rows that the snapshot gives",
        f"the snapshot gives {found[:12]}, not {stored.data_sha256[:12]}",
    )  # fmt: skip


def _of_lineage(stored: FineTuneResult) -> Iterator[Finding]:
    lineage = stored.lineage
    if lineage is None:
        yield _gone("lineage", "an older version trained it and wrote none down")
        return
    try:
        here = base_model_sha256(resolve_model(stored.model))
    except UserError as error:
        yield _gone("base model", f"it is not on this machine: {error}")
    else:
        yield _seen(
            "base model", here == lineage.base_model_sha256, here[:12], f"{stored.model} is another here"
        )
    yield _seen(
        "code", lineage.code_sha256 == CODE_SHA256, lineage.code_sha256[:12],
        "durabert.bert is another here than the one that trained",
    )  # fmt: skip


def _finding(subject: str, holds: bool, detail: str, otherwise: str) -> Finding:
    return Finding(
        subject=subject, state="ok" if holds else "different", detail=detail if holds else otherwise
    )


def _seen(subject: str, here: bool, detail: str, otherwise: str) -> Finding:
    # What this machine has now says nothing against what another one had then.
    return Finding(subject=subject, state="ok" if here else "gone", detail=detail if here else otherwise)


def _gone(subject: str, detail: str) -> Finding:
    return Finding(subject=subject, state="gone", detail=detail)
