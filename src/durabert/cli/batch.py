"""``durabert predict RUN --input FILE --output DIRECTORY``: an input of any size, as durable shards."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from durabert.cli.output import print_json, put, say
from durabert.cli.train import announce_start, given
from durabert.cli.waiting import SHOW_INTERVAL, until_detached, with_progress
from durabert.client import Client
from durabert.client.batches import RunningBatch
from durabert.client.locating import located_batch
from durabert.client.naming import resolved
from durabert.connection import explicit_profile
from durabert.errors import SpecInvalid
from durabert.specs import BatchInferenceRequest, BatchInferenceResult, BatchProgress
from durabert.specs.batch import BATCH_PREFIX
from durabert.specs.shards import is_directory

NAME: Final = re.compile(rf"{BATCH_PREFIX}[A-Za-z0-9._-]+:[0-9a-f]{{12}}")
"""Ids of batches; whatever else begins like one is no name at all."""


def is_batch(name: str) -> bool:
    """Return whether a name is that of a batch, and not of a run or an experiment."""
    return NAME.fullmatch(name) is not None


def wants_batch(output: str | None, cut: dict[str, str | None]) -> bool:
    """Return whether predictions are to go to a directory.

    Args:
        output: what ``--output`` says.
        cut: options that only a batch has.

    Raises:
        SpecInvalid: one of those options is given, and the output is a file or none.
    """
    if output is not None and (is_directory(output) or Path(output).is_dir()):
        return True
    for option, value in given(cut).items():
        raise SpecInvalid(f"{option} is {value!r}, but only an --output that is a directory has shards")
    return False


def request_from_options(
    run: str,
    texts: list[str] | None,
    input_file: Path | None,
    output: str,
    *,
    columns: dict[str, str | None],
    options: dict[str, str | None],
    engine: str,
    profile: str | None,
) -> BatchInferenceRequest:
    """Build a request from options.

    Raises:
        UserError: there is no input file, or texts beside it, a value is out of range, or the output cannot
            be written.
    """
    if input_file is None:
        raise SpecInvalid(f"output is {output!r}, but only predictions of an --input file go to a directory")
    if texts:
        raise SpecInvalid("give texts or an input file, not both")
    if engine != "torch":
        raise SpecInvalid(f"engine is {engine!r}, but should be torch where predictions go to a directory")
    directory = output if is_directory(output) else f"{output}/"
    fields: dict[str, Any] = {
        "run": resolved(run, tell=say),
        "input": {"path": str(input_file), **given(columns)},
        "output": directory,
        **given(options),
    }
    return located_batch(BatchInferenceRequest.parse(fields), here=explicit_profile(profile) is None)


def run(request: BatchInferenceRequest, *, profile: str | None, as_json: bool) -> int:
    """Predict, print, and return the exit code."""
    return _print(asyncio.run(_run(request, profile)), as_json=as_json)


def watch(name: str, *, profile: str | None, as_json: bool) -> int:
    """Follow a batch to its end and return the exit code."""
    return _print(asyncio.run(_watch(name, profile)), as_json=as_json)


def cancel(name: str, *, profile: str | None) -> None:
    """Cancel a batch and wait until no process of it is left."""
    asyncio.run(_cancel(name, profile))
    _tell_cancelled(name)


async def _run(request: BatchInferenceRequest, profile: str | None) -> BatchInferenceResult | None:
    async with Client.connect(profile=profile, on_starting=announce_start) as client:
        batch = await client.start_batch(request)
        if batch.joined:
            say(f"{batch.name} is running; joined it, nothing is predicted twice.")
        return await _follow(client, batch)


async def _watch(name: str, profile: str | None) -> BatchInferenceResult | None:
    async with Client.connect(profile=profile) as client:
        return await _follow(client, await client.batch(name))


async def _cancel(name: str, profile: str | None) -> None:
    async with Client.connect(profile=profile) as client:
        await (await client.batch(name)).cancel()


async def _follow(client: Client, batch: RunningBatch) -> BatchInferenceResult | None:
    """Show progress until a batch has ended; None if the user detached or cancelled with Ctrl-C."""

    async def cancel() -> None:
        await batch.cancel()
        _tell_cancelled(batch.name)

    ending = with_progress(batch.result(), _show(batch))
    return await until_detached(client, batch.name, ending, cancel=cancel)


async def _show(batch: RunningBatch) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[state]}", markup=False),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("planning", total=None, state="")
        while True:
            progress = await batch.progress()
            if progress is not None and progress.rows:
                bar.update(
                    task,
                    description=progress.phase,
                    completed=progress.rows_done,
                    total=progress.rows,
                    state=_state(progress),
                )
            await asyncio.sleep(SHOW_INTERVAL.total_seconds())


def _tell_cancelled(name: str) -> None:
    say(f"{name} is cancelled; no process of it is left, and what it has committed stays.")


def _state(progress: BatchProgress) -> str:
    parts = [
        f"{progress.rows_done:,} of {progress.rows:,} rows",
        f"{progress.shards_done} of {progress.shards} shards",
    ]
    if progress.rows_per_second is not None:
        parts.append(f"{progress.rows_per_second:.0f} rows/s")
    if progress.eta_seconds is not None:
        minutes, seconds = divmod(round(progress.eta_seconds), 60)
        parts.append(f"ETA {minutes // 60}:{minutes % 60:02}:{seconds:02}")
    return "  ".join(parts)


def _print(result: BatchInferenceResult | None, *, as_json: bool) -> int:
    if result is None:
        return 130
    if result.reused:
        say(f"{result.output} holds these predictions already; nothing is predicted twice.")
    if as_json:
        print_json([result.model_dump(mode="json")])
        return 0
    counts = ", ".join(f"{label} {count}" for label, count in result.label_counts.items())
    speed = "" if result.reused else f" in {result.seconds:.1f} s ({result.rows_per_second:.0f} rows/s)"
    put(f"{result.predicted} of {result.rows} rows predicted{speed}: {counts}")
    for notice in result.notices:
        put(f"note: {notice}", style="yellow")
    put(f"{result.output}")
    return 0
