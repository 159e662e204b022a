"""What the server knows of experiments and their runs, found by name."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import WorkflowExecutionDescription, WorkflowFailureError, WorkflowHandle
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.running import ended
from durabert.client.status import experiment_view, is_experiment
from durabert.client.sweeps import find_trial
from durabert.client.views import ExperimentView, RunView
from durabert.contract import PATTERNS
from durabert.errors import RunNotFound, RunNotUsable
from durabert.specs import FineTuneResult, checked_run
from durabert.specs.base import RUN_SEPARATOR

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine

POLL_INTERVAL: Final = timedelta(seconds=0.5)
"""How often a watched experiment is described; heartbeats reach the server once a second at most."""
CALM_POLL_INTERVAL: Final = timedelta(seconds=5)
"""How often it is while it changes more seldom: a description takes some milliseconds of a processor, and
models train on the same ones."""
CALM_AFTER: Final = timedelta(seconds=6)
"""Longest time between two changes that follow each other quickly."""


async def find_experiment(
    temporal: TemporalClient, name: str
) -> tuple[WorkflowHandle[Any, Any], WorkflowExecutionDescription]:
    """Return the workflow of an experiment, or of the experiment of a run, and what the server says of it.

    Raises:
        RunNotFound: there is none of that name.
    """
    checked_run(name)
    for candidate in dict.fromkeys([name, name.partition(RUN_SEPARATOR)[0]]):
        handle = temporal.get_workflow_handle(candidate)
        try:
            description = await handle.describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            continue
        if is_experiment(description):
            return handle, description
    raise RunNotFound(name)


async def experiment_status(temporal: TemporalClient, name: str) -> ExperimentView:
    """Return what is so of an experiment, or of the experiment of a run.

    Raises:
        RunNotFound: there is none of that name.
    """
    handle, description = await find_experiment(temporal, name)
    return _with_run(experiment_view(description, await handle.fetch_history()), name)


async def run_status(temporal: TemporalClient, run: str) -> RunView:
    """Return what is so of one run.

    Raises:
        RunNotFound: there is none of that name.
        RunNotUsable: the name is an experiment of several runs.
    """
    view = await experiment_status(temporal, run)
    found = [candidate for candidate in view.runs if candidate.run == run]
    if found:
        return found[0]
    if run == view.name:
        names = ", ".join(candidate.run for candidate in view.runs)
        raise RunNotUsable(f"{run!r} is an experiment of {len(view.runs)} runs; name one of {names}")
    raise RunNotFound(run)


async def watched(
    temporal: TemporalClient, name: str, *, engine: Engine | None
) -> AsyncIterator[ExperimentView]:
    """Yield the state of an experiment, again and again, until it has ended; the last one is final.

    Raises:
        RunNotFound: there is none of that name.
    """
    handle, description = await find_experiment(temporal, name)
    history = await handle.fetch_history()
    pace = Pace()
    async with _end(handle) as end:
        while True:
            view = _with_run(experiment_view(description, history), name)
            yield view
            if view.ended is not None:
                return
            seconds = pace.seconds((description.history_length, [run.progress for run in view.runs]))
            if end.done():
                await asyncio.sleep(POLL_INTERVAL.total_seconds())
            else:
                await asyncio.wait([end], timeout=seconds)
            try:
                description = await handle.describe()
                if description.history_length != len(history.events):
                    history = await handle.fetch_history()
            except RPCError:
                if engine is None:
                    raise
                # The engine's host was killed; started again, it has its runs on disk.
                await asyncio.to_thread(engine.revive)


class Pace:
    """How long to wait before something is looked at again: shortly, while it changes.

    Args:
        clock: gives seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: object = None
        self._changed = clock()
        self._is_calm = False

    def seconds(self, seen: object) -> float:
        """Return the seconds to wait, given what it looks like now."""
        quiet = self._clock() - self._changed
        if seen != self._seen:
            self._seen = seen
            self._changed += quiet
            self._is_calm = quiet >= CALM_AFTER.total_seconds()
        elif quiet >= CALM_AFTER.total_seconds():
            self._is_calm = True
        return (CALM_POLL_INTERVAL if self._is_calm else POLL_INTERVAL).total_seconds()


@contextlib.asynccontextmanager
async def _end(handle: WorkflowHandle[Any, Any]) -> AsyncIterator[asyncio.Task[None]]:
    """Yield a task that is done when a workflow has ended, or the server can no longer tell."""

    async def come() -> None:
        with contextlib.suppress(WorkflowFailureError, RPCError):
            await handle.result()

    task = asyncio.create_task(come())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def ended_experiment(temporal: TemporalClient, name: str, *, engine: Engine | None) -> ExperimentView:
    """Wait until an experiment has ended and return its final state, whatever it is."""
    handle, _ = await find_experiment(temporal, name)
    with contextlib.suppress(WorkflowFailureError):
        # How it ended stands in the view.
        await ended(handle, engine)
    return await experiment_status(temporal, name)


async def all_experiments(temporal: TemporalClient) -> list[ExperimentView]:
    """Return every experiment that the server knows, the newest first."""
    query = f"WorkflowType IN ({', '.join(repr(kind) for kind in PATTERNS.values())})"
    # A name that was used again after a failure is listed once an execution.
    names = dict.fromkeys([found.id async for found in temporal.list_workflows(query)])
    views = []
    for name in names:
        # What another client has started with an argument that is no experiment has failed at once.
        with contextlib.suppress(ApplicationError):
            views.append(await experiment_status(temporal, name))
    return views


async def require_model(
    temporal: TemporalClient, run: str, *, engine: Engine | None
) -> FineTuneResult | None:
    """Return the result of a finished run; none if the server has it not, but a worker or the store may.

    Raises:
        RunNotFound: there is no such run.
        RunNotUsable: it has no model.
    """
    try:
        view = await run_status(temporal, run)
    except RunNotFound:
        trial = await find_trial(temporal, run)
        if trial is not None:
            if trial.status != "completed":
                raise RunNotUsable(f"trial {run!r} has no model, it is {trial.status}") from None
            return None
        # The worker may have it all the same: a run can outlive the server's memory of it.
        if engine is None:
            return None
        raise
    if view.result is not None:
        return view.result
    if view.status == "failed":
        reason = f": {view.error.message}" if view.error else ""
        raise RunNotUsable(f"run {run!r} has no model, it failed{reason}")
    raise RunNotUsable(f"run {run!r} has no model, it is {view.status}")


def _with_run(view: ExperimentView, name: str) -> ExperimentView:
    if name != view.name and all(run.run != name for run in view.runs):
        raise RunNotFound(name)
    return view
