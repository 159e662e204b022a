"""``durabert pause`` and ``resume``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from durabert.cli import sweep
from durabert.cli.follow import exit_code, follow_experiment
from durabert.cli.output import print_json, say
from durabert.cli.render import print_outcome
from durabert.cli.train import announce_start
from durabert.cli.waiting import how_to_go_on
from durabert.client import Client, SweepView
from durabert.errors import SpecInvalid

if TYPE_CHECKING:
    from durabert.client import ExperimentView, RunView


def pause(name: str, *, profile: str | None, as_json: bool) -> None:
    """Pause an experiment or a run and wait until no process of it is left."""
    view = asyncio.run(_pause(name, profile))
    if isinstance(view, SweepView):
        _tell_paused(view, as_json=as_json)
        return
    chosen = [run for run in view.runs if name in (run.run, view.name)]
    if as_json:
        print_json(run.as_json() for run in chosen)
        return
    for run in chosen:
        if run.status == "paused":
            say(
                f"{run.run} is paused{_place(run)}, its device is free; "
                f"durabert resume {run.run} lets it go on."
            )
        else:
            say(f"{run.run} is {run.status}.")


def resume(name: str, *, queue: str | None, follow: bool, profile: str | None, as_json: bool) -> int:
    """Let a run go on and, if wanted, follow it; return the exit code."""
    return asyncio.run(_resume(name, queue, follow=follow, profile=profile, as_json=as_json))


def _place(run: RunView) -> str:
    if run.progress is None or not run.progress.steps:
        return ""
    return f" at step {run.progress.step} of {run.progress.steps}"


def _tell_paused(view: SweepView, *, as_json: bool) -> None:
    if as_json:
        sweep.show(view, as_json=True)
        return
    running = sum(trial.status == "running" for trial in view.trials)
    say(
        f"{view.name} is paused: no training is begun, {running} go on to their end; "
        f"durabert resume {view.name} lets it go on."
    )


async def _pause(name: str, profile: str | None) -> ExperimentView | SweepView:
    async with Client.connect(profile=profile) as client:
        found = await client.sweep(name)
        if found is None:
            return await client.pause(name)
        await found.set_paused(True)
        return await found.view()


async def _resume(name: str, queue: str | None, *, follow: bool, profile: str | None, as_json: bool) -> int:
    async with Client.connect(profile=profile, worker=follow, on_starting=announce_start) as client:
        found = await client.sweep(name)
        if found is not None and queue is not None:
            raise SpecInvalid(f"queue is {queue!r}, but a sweep stays on its own")
        resumed = await (client.resume(name, queue=queue) if found is None else client.resume_sweep(found))
        match resumed.how:
            case "running":
                say(f"{name!r} is running; there was nothing to resume.")
            case "unpaused":
                say(f"{name!r} goes on.")
            case "moved":
                say(f"{name!r} waits for a worker of {queue!r} now.")
            case "restarted":
                say(f"{resumed.name!r} goes on from its newest checkpoints, or from the start without.")
        if not follow:
            say(how_to_go_on(client, resumed.name))
            return 0
        if found is not None:
            return await sweep.follow_to_end(client, found, as_json=as_json)
        view = await follow_experiment(client, resumed.name)
        if view is None:
            return 130
    print_outcome(view, as_json=as_json)
    return exit_code(view)
