"""Experiments as they are recorded: what the server says of their runs, and what the store has of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Final

from durabert.errors import DependencyMissing, RunNotFound
from durabert.specs import CheckpointRef, ErrorInfo, FineTuneConfig, checked_run
from durabert.specs.base import RUN_SEPARATOR

if TYPE_CHECKING:
    from durabert.activities.run_record import Pieces, RunRecord
    from durabert.client.client import Client
    from durabert.client.views import ExperimentView
    from durabert.store.objects import ObjectStore

UNKNOWN: Final = "unknown"
"""Status of a run that the server has forgotten and the store has no result of."""


@dataclass(frozen=True)
class RecordedRun:
    """One run: how it is, and its durable record."""

    run: str
    status: str
    """As the server says, also when every process of the run died."""
    config: FineTuneConfig
    record: RunRecord
    parent: CheckpointRef | None = None
    error: ErrorInfo | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.status in {"completed", "failed", "cancelled", UNKNOWN}


@dataclass(frozen=True)
class RecordedExperiment:
    """An experiment, or one run of it."""

    name: str
    status: str
    data: str
    runs: Sequence[RecordedRun]
    started: datetime | None = None
    ended: datetime | None = None


async def recorded(
    client: Client,
    objects: ObjectStore,
    name: str,
    *,
    pieces: Pieces | None = None,
    on_run: Callable[[int, int], None] = lambda _done, _all: None,
) -> RecordedExperiment:
    """Return what is so of an experiment or of one run.

    Args:
        client: whose server says how the runs are.
        objects: the store that has their curves.
        name: an experiment or a run.
        pieces: pieces of curves that were read before; new ones are added.
        on_run: called with the number of runs that were read, and of all.

    Raises:
        RunNotFound: neither the server nor the store has it.
        DependencyMissing: what reads the store is not installed.
        StoreUnavailable: the store does not answer.
    """
    try:
        view = await client.status(name)
    except RunNotFound:
        # A server forgets what ended long ago; the store does not.
        return await asyncio.to_thread(_from_store, objects, name, pieces, on_run)
    return await asyncio.to_thread(recorded_view, view, objects, name, pieces=pieces, on_run=on_run)


def recorded_view(
    view: ExperimentView,
    objects: ObjectStore,
    name: str,
    *,
    pieces: Pieces | None = None,
    on_run: Callable[[int, int], None] = lambda _done, _all: None,
) -> RecordedExperiment:
    """Return what the store has of an experiment, or of one run of it, that the server told of."""
    chosen = [run for run in view.runs if name in (run.run, view.name)]
    runs = []
    for number, run in enumerate(chosen):
        on_run(number, len(chosen))
        record = _record(objects, run.run, pieces)
        if record.result is None and run.result is not None:
            # A worker with another store than this machine's.
            record = replace(record, result=run.result, epochs=run.result.history)
        runs.append(RecordedRun(run.run, run.status, run.config, record, run.parent, run.error))
    status = chosen[0].status if len(chosen) == 1 else view.status
    return RecordedExperiment(name, status, view.data, runs, view.started, view.ended)


def _from_store(
    objects: ObjectStore, name: str, pieces: Pieces | None, on_run: Callable[[int, int], None]
) -> RecordedExperiment:
    names = _stored_names(objects, name)
    runs: list[RecordedRun] = []
    data = UNKNOWN
    for number, run in enumerate(names):
        on_run(number, len(names))
        record = _record(objects, run, pieces)
        told = record.environment
        config = record.result.config if record.result else _config(told.get("config"))
        data = (told.get("data") or {}).get("source", data)
        parent = told.get("parent")
        runs.append(
            RecordedRun(
                run,
                "completed" if record.result else UNKNOWN,
                config,
                record,
                parent=None if parent is None else CheckpointRef.model_validate(parent, extra="ignore"),
            )
        )
    if not any(run.record.known for run in runs):
        raise RunNotFound(name)
    statuses = {run.status for run in runs}
    return RecordedExperiment(name, statuses.pop() if len(statuses) == 1 else "partial", data, runs)


def _stored_names(objects: ObjectStore, name: str) -> list[str]:
    """Return the runs of that name, or of the experiment of that name."""
    found = {info.path.split("/")[1] for info in objects.list("runs")}
    of_experiment = sorted(run for run in found if run.partition(RUN_SEPARATOR)[0] == checked_run(name))
    return [name] if name in found else of_experiment


def _config(told: object) -> FineTuneConfig:
    return FineTuneConfig.model_validate(told or {}, extra="ignore")


def _record(objects: ObjectStore, run: str, pieces: Pieces | None) -> RunRecord:
    try:
        from durabert.activities.run_record import read_record
    except ImportError as error:
        raise DependencyMissing(f"{error.name}, which reads curves,", extra="report") from None
    return read_record(objects, run, pieces=pieces)
