"""``durabert track``: a tracker gets what is durably known of runs."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import os
import re
import time
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from durabert.cli.output import print_json, put, say
from durabert.cli.reading import reading_bar
from durabert.client import Client
from durabert.client.recorded import recorded, recorded_view
from durabert.engine import home_directory
from durabert.errors import OutputInUse, SpecInvalid, StoreUnavailable
from durabert.specs import checked_run
from durabert.store.objects import open_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from durabert.activities.run_record import Pieces
    from durabert.client.recorded import RecordedExperiment
    from durabert.store.objects import ObjectStore
    from durabert.trackers.feed import Tracker

TARGETS: Final = {
    "tensorboard": re.compile(r".+"),
    "mlflow": re.compile(r".+"),
    "wandb": re.compile(r"([^/]+/)?[^/]+|"),
}
"""Kinds of trackers, and what their targets look like."""
FOLLOW_INTERVAL: Final = timedelta(seconds=5)
"""How often a run that goes on is looked at; checkpoints are a second apart at least."""


def run(name: str, *, to: str, follow: bool, profile: str | None, as_json: bool) -> int:
    """Sync, again and again if the runs are to be followed, and return the exit code."""
    kind, target = parsed(to)
    checked_run(name)
    with _alone(name, to):
        tracker = _tracker(kind, target)
        try:
            added = asyncio.run(_sync(name, tracker, follow=follow, profile=profile))
        except KeyboardInterrupt:
            say("Stopped following; asked again, it adds only what is missing.")
            return 130
        finally:
            tracker.close()
    if as_json:
        print_json({"run": run, "to": to, **fields} for run, fields in added.items())
        return 0
    for run_name, fields in added.items():
        put(f"{run_name}  {fields['status']}  {fields['added']:,} values added")
    return 0


def parsed(to: str) -> tuple[str, str]:
    """Return the kind of tracker and its target.

    Raises:
        SpecInvalid: there is no such kind, or it has no such target.
    """
    kind, separator, target = to.partition(":")
    fits = kind in TARGETS and TARGETS[kind].fullmatch(target) is not None
    if not fits or bool(separator) != bool(target):
        raise SpecInvalid(
            f"--to is {to!r}, but should be tensorboard:DIRECTORY, mlflow:URI, wandb, "
            "wandb:PROJECT or wandb:ENTITY/PROJECT"
        )
    return kind, target


def _tracker(kind: str, target: str) -> Tracker:
    if kind == "tensorboard":
        from durabert.trackers.tensorboard import TensorBoard

        return TensorBoard(Path(target).expanduser().absolute())
    if kind == "wandb":
        from durabert.trackers.wandb import Wandb

        return Wandb(target)
    from durabert.trackers.mlflow import MLflow

    return MLflow(target)


async def _sync(
    name: str, tracker: Tracker, *, follow: bool, profile: str | None
) -> dict[str, dict[str, str | int]]:
    home = home_directory()
    objects = open_store(None, home=home)
    added: dict[str, dict[str, str | int]] = {}
    # Who follows lets the runs go on, as 'durabert watch' does.
    async with Client.connect(profile=profile, worker=follow) as client:
        with reading_bar() as show:
            found = await recorded(client, objects, name, on_run=show)
        await asyncio.to_thread(_add, tracker, found, added)
        if follow and not all(one.ended for one in found.runs):
            await _follow(client, objects, name, tracker, added)
    return added


async def _follow(
    client: Client, objects: ObjectStore, name: str, tracker: Tracker, added: dict[str, dict[str, str | int]]
) -> None:
    pieces: Pieces = {}
    due = time.monotonic() + FOLLOW_INTERVAL.total_seconds()
    trouble = None
    async for view in client.watch(name):
        over = all(run.ended for run in view.runs if name in (run.run, view.name))
        if not over and time.monotonic() < due:
            continue
        due = time.monotonic() + FOLLOW_INTERVAL.total_seconds()
        try:
            found = await asyncio.to_thread(recorded_view, view, objects, name, pieces=pieces)
            await asyncio.to_thread(_add, tracker, found, added)
        except StoreUnavailable as error:
            if over:
                raise
            if trouble != str(error):
                trouble = str(error)
                say(f"durabert: {trouble}; it is asked again every {FOLLOW_INTERVAL.total_seconds():.0f} s")
        if over:
            return


def _add(tracker: Tracker, found: RecordedExperiment, added: dict[str, dict[str, str | int]]) -> None:
    from durabert.trackers.feed import feed_of

    experiment = found.name.partition(".")[0]
    for one in found.runs:
        new = tracker.sync(feed_of(one, experiment))
        before = added.get(one.run, {"added": 0})["added"]
        added[one.run] = {"status": one.status, "added": int(before) + new}


@contextmanager
def _alone(name: str, to: str) -> Iterator[None]:
    """See to it that no other process of this home writes the same runs to the same place.

    Raises:
        OutputInUse: one does.
    """
    directory = home_directory() / "trackers"
    directory.mkdir(parents=True, exist_ok=True)
    experiment = name.partition(".")[0]
    lock = directory / f"{hashlib.sha256(f'{experiment} {to}'.encode()).hexdigest()[:32]}.lock"
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise OutputInUse(f"{to!r} is written to by another 'durabert track' of {experiment!r}") from None
    finally:
        os.close(descriptor)
