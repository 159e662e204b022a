"""``durabert sweep``: from a search space to trials, and how a sweep is followed and steered."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from durabert.cli.board import state_bars
from durabert.cli.output import print_json, say
from durabert.cli.sweep_table import print_sweep, trial_score
from durabert.cli.train import announce_start, given, name_by_content, toml_document
from durabert.cli.waiting import SHOW_INTERVAL, how_to_go_on, until_detached
from durabert.client import Client, SweepView
from durabert.client.locating import located_sweep
from durabert.client.sweeps import RunningSweep
from durabert.connection import explicit_profile
from durabert.errors import RunNotFound, SpecInvalid
from durabert.specs import SweepSpec, TrialRecord, sweep_from_toml
from durabert.specs.base import Wire


class Change(Wire):
    """What ``durabert adjust`` changes."""

    add_trials: int | None = None
    """Trials to train besides."""
    concurrency: int | None = None
    """Trials to train at once."""


def spec_from_options(
    data: str | None,
    *,
    space: Path,
    options: dict[str, Any],
    fields: dict[str, Any],
    data_fields: dict[str, Any],
    profile: str | None,
) -> SweepSpec:
    """Build a sweep from its TOML file and options; options win.

    Raises:
        SpecInvalid: a field is unknown or out of range, or there is no data.
    """
    document = toml_document(space)
    if not (data or document.get("data") or data_fields.get("source")):
        raise SpecInvalid("no data was given; name a file, a directory or a hub id: durabert sweep DATA")
    document |= given(options)
    spec = sweep_from_toml(
        {"name": "unnamed", **document}, data=data_fields | given({"source": data}), config=fields
    )
    spec = located_sweep(spec, here=explicit_profile(profile) is None)
    if "name" in document:
        return spec
    return spec.model_copy(update={"name": name_by_content(spec.data.source, spec.digest())})


def run(spec: SweepSpec, *, follow: bool, profile: str | None, as_json: bool) -> int:
    """Start or join a sweep and, if wanted, follow it; return the exit code."""
    return asyncio.run(_run(spec, follow=follow, profile=profile, as_json=as_json))


def adjust(name: str, fields: dict[str, str | None], *, profile: str | None, as_json: bool) -> None:
    """Add trials, or change how many are trained at once."""
    change = Change.parse(given(fields))
    if change == Change():
        raise SpecInvalid("nothing was given to change; use --add-trials or --concurrency")
    asyncio.run(_adjust(name, change, profile, as_json=as_json))


async def follow_to_end(client: Client, sweep: RunningSweep, *, as_json: bool) -> int:
    """Show progress until a sweep has ended, print what it came to, and return the exit code."""
    view = await _follow(client, sweep)
    if view is None:
        return 130
    show(view, as_json=as_json)
    # A sweep that failed raises what it failed with.
    await sweep.result()
    return 0


def show(view: SweepView, *, as_json: bool) -> None:
    """Print the trials of a sweep, the best first."""
    if as_json:
        print_json([view.model_dump(mode="json")])
    else:
        print_sweep(view)


async def _run(spec: SweepSpec, *, follow: bool, profile: str | None, as_json: bool) -> int:
    async with Client.connect(profile=profile, worker=follow, on_starting=announce_start) as client:
        sweep = await client.start_sweep(spec)
        if sweep.joined:
            say(f"Sweep {spec.name!r} is there with the same spec; joined it, nothing is trained twice.")
        if not follow:
            say(f"Started {spec.name!r}. {how_to_go_on(client, spec.name)}")
            return 0
        return await follow_to_end(client, sweep, as_json=as_json)


async def _adjust(name: str, change: Change, profile: str | None, *, as_json: bool) -> None:
    async with Client.connect(profile=profile) as client:
        sweep = await client.sweep(name)
        if sweep is None:
            raise RunNotFound(name)
        if change.add_trials is not None:
            control = await sweep.add_trials(change.add_trials)
        if change.concurrency is not None:
            control = await sweep.set_concurrency(change.concurrency)
    if as_json:
        print_json([control.model_dump()])
    else:
        say(f"{name}: {control.trials} trials in all, {control.concurrency} at once.")


async def _follow(client: Client, sweep: RunningSweep) -> SweepView | None:
    """Show progress until a sweep has ended; None if the user detached or cancelled with Ctrl-C."""

    async def cancel() -> None:
        await sweep.cancel()
        say(f"{sweep.name} is cancelled; no process of it is left, and trials keep their checkpoints.")

    return await until_detached(client, sweep.name, _watch(sweep), cancel=cancel)


async def _watch(sweep: RunningSweep) -> SweepView:
    board = _Board()
    ending = asyncio.create_task(_ended(sweep))
    try:
        while not ending.done():
            board.show(await sweep.view())
            await asyncio.wait({ending}, timeout=SHOW_INTERVAL.total_seconds())
        view = await sweep.view()
        board.show(view)
        return view
    finally:
        ending.cancel()
        board.close()


async def _ended(sweep: RunningSweep) -> None:
    # Waits also where the engine is killed; how it ended stands in the view.
    await asyncio.gather(sweep.result(), return_exceptions=True)


class _Board:
    """A bar for all trials; where there is no terminal, one line a change."""

    def __init__(self) -> None:
        self._bar = state_bars(transient=True)
        self._live = self._bar.console.is_terminal
        self._said: dict[int, str] = {}
        self._task = self._bar.add_task("preparing", total=None, state="")
        if self._live:
            self._bar.start()

    def show(self, view: SweepView) -> None:
        if not self._live:
            for trial in view.trials:
                self._say(view, trial)
            return
        ended = sum(trial.status != "running" for trial in view.trials)
        total = view.control.trials if view.control else len(view.trials)
        self._bar.update(
            self._task,
            description=view.phase,
            completed=ended,
            total=total or None,
            state=_state(view, ended, total),
        )

    def close(self) -> None:
        if self._live:
            self._bar.stop()

    def _say(self, view: SweepView, trial: TrialRecord) -> None:
        line = f"{view.name}.{trial.number}: {_milestone(view, trial)}"
        if self._said.get(trial.number) != line:
            self._said[trial.number] = line
            say(line)


def _state(view: SweepView, ended: int, total: int) -> str:
    parts = [f"{ended} of {total} trials", f"{len(view.trials) - ended} running"]
    if view.status == "paused":
        parts.append("paused")
    best = next((trial for trial in view.trials if trial.number == view.best), None)
    if best is not None:
        parts.append(f"best {view.metric} {trial_score(view, best)} ({view.name}.{best.number})")
    return "  ".join(parts)


def _milestone(view: SweepView, trial: TrialRecord) -> str:
    if trial.error:
        return f"{trial.status}  {trial.error.message}"
    if not trial.values:
        return trial.status
    return f"{trial.status}  epoch {trial.epochs}  {view.metric} {trial_score(view, trial)}"
