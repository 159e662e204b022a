"""``durabert runs``, ``show``, ``watch`` and ``cancel``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from durabert.cli import batch
from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.render import (
    errors,
    print_details,
    print_experiment,
    print_json,
    print_outcome,
    put,
    runs_table,
    say,
)
from durabert.client import Client
from durabert.client.naming import resolved

if TYPE_CHECKING:
    from durabert.client import ExperimentView


def runs(*, profile: str | None, as_json: bool) -> None:
    """List all runs."""
    found = [run for view in asyncio.run(_experiments(profile)) for run in view.runs]
    if as_json:
        print_json(run.as_json() for run in found)
    elif found:
        put(runs_table(found))
    else:
        say("There are no runs yet; start one: durabert train DATA, or durabert demo")


def show(name: str, *, profile: str | None, as_json: bool) -> None:
    """Show an experiment or one run of it."""
    name = resolved(name, tell=say)
    view = asyncio.run(_status(name, profile))
    chosen = [run for run in view.runs if name in (run.run, view.name)]
    if as_json:
        print_json(run.as_json() for run in chosen)
    elif len(chosen) == 1:
        print_details(chosen[0])
    else:
        print_experiment(view)
        for sentence in errors(view):
            put(sentence)


def watch(name: str, *, profile: str | None, as_json: bool) -> int:
    """Follow an experiment or a batch to its end and return the exit code."""
    if batch.is_batch(name):
        return batch.watch(name, profile=profile, as_json=as_json)
    view = asyncio.run(_watch(name, profile))
    if view is None:
        return 130
    print_outcome(view, as_json=as_json)
    return exit_code(view)


def cancel(name: str, *, profile: str | None, as_json: bool) -> None:
    """Cancel an experiment, a run or a batch and wait until no process of it is left."""
    if batch.is_batch(name):
        batch.cancel(name, profile=profile)
        return
    view = asyncio.run(_cancel(name, profile))
    chosen = [run for run in view.runs if name in (run.run, view.name)]
    if as_json:
        print_json(run.as_json() for run in chosen)
        return
    for run in chosen:
        say(f"{run.run} is {run.status}; no process of it is left.")


async def _experiments(profile: str | None) -> list[ExperimentView]:
    async with Client.connect(profile=profile, worker=False) as client:
        return await client.experiments()


async def _status(name: str, profile: str | None) -> ExperimentView:
    async with Client.connect(profile=profile, worker=False) as client:
        return await client.status(name)


async def _watch(name: str, profile: str | None) -> ExperimentView | None:
    async with Client.connect(profile=profile) as client:
        return await follow_experiment(client, name)


async def _cancel(name: str, profile: str | None) -> ExperimentView:
    async with Client.connect(profile=profile) as client:
        return await client.cancel(name)
