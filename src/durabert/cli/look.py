"""``durabert runs``, ``show``, ``watch`` and ``cancel``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from durabert.cli import batch, sweep
from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.output import print_json, put, say
from durabert.cli.render import (
    errors,
    print_details,
    print_experiment,
    print_outcome,
    runs_table,
)
from durabert.client import Client, SweepView
from durabert.client.naming import resolved

if TYPE_CHECKING:
    from durabert.client import ExperimentView


def runs(*, profile: str | None, as_json: bool) -> None:
    """List all runs; to people also the sweeps, whose trials ``show`` lists."""
    views, sweeps = asyncio.run(_experiments(profile))
    found = [run for view in views for run in view.runs]
    if as_json:
        print_json(run.as_json() for run in found)
        return
    if found:
        put(runs_table(found))
    for name, status in sweeps.items():
        put(f"sweep {name}: {status}; durabert show {name}")
    if not found and not sweeps:
        say("There are no runs yet; start one: durabert train DATA, or durabert demo")


def show(name: str, *, profile: str | None, as_json: bool) -> None:
    """Show an experiment, one run of it, or a sweep."""
    name = resolved(name, tell=say)
    view = asyncio.run(_status(name, profile))
    if isinstance(view, SweepView):
        sweep.show(view, as_json=as_json)
        return
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
    """Follow an experiment, a sweep or a batch to its end and return the exit code."""
    if batch.is_batch(name):
        return batch.watch(name, profile=profile, as_json=as_json)
    return asyncio.run(_watch(name, profile, as_json=as_json))


def cancel(name: str, *, profile: str | None, as_json: bool) -> None:
    """Cancel an experiment, a run, a sweep or a batch and wait until no process of it is left."""
    if batch.is_batch(name):
        batch.cancel(name, profile=profile)
        return
    view = asyncio.run(_cancel(name, profile))
    if isinstance(view, SweepView):
        if as_json:
            sweep.show(view, as_json=True)
        else:
            say(f"{name} is {view.status}; no process of it is left, and trials keep their checkpoints.")
        return
    chosen = [run for run in view.runs if name in (run.run, view.name)]
    if as_json:
        print_json(run.as_json() for run in chosen)
        return
    for run in chosen:
        say(f"{run.run} is {run.status}; no process of it is left.")


async def _experiments(profile: str | None) -> tuple[list[ExperimentView], dict[str, str]]:
    async with Client.connect(profile=profile, worker=False) as client:
        return await client.experiments(), await client.sweeps()


async def _status(name: str, profile: str | None) -> ExperimentView | SweepView:
    async with Client.connect(profile=profile, worker=False) as client:
        found = await client.sweep(name)
        return await client.status(name) if found is None else await found.view()


async def _watch(name: str, profile: str | None, *, as_json: bool) -> int:
    async with Client.connect(profile=profile) as client:
        found = await client.sweep(name)
        if found is not None:
            return await sweep.follow_to_end(client, found, as_json=as_json)
        view = await follow_experiment(client, name)
    if view is None:
        return 130
    print_outcome(view, as_json=as_json)
    return exit_code(view)


async def _cancel(name: str, profile: str | None) -> ExperimentView | SweepView:
    async with Client.connect(profile=profile) as client:
        found = await client.sweep(name)
        if found is None:
            return await client.cancel(name)
        await found.cancel()
        return await found.view()
