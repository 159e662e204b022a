"""``durabert replay``."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from durabert.cli.output import print_json
from durabert.client import Client
from durabert.client.replaying import ReplayReport, read_history, replay
from durabert.errors import DataInvalid, DataNotFound

if TYPE_CHECKING:
    from temporalio.client import WorkflowHistory


def run(name: str, *, save: Path | None, profile: str | None, as_json: bool) -> int:
    """Replay a run of the server, or a file; return 1 if the code differs from the history."""
    path = Path(name)
    if save is not None and not save.parent.is_dir():
        raise DataNotFound(f"there is no directory {str(save.parent)!r} to save the history in")
    history = read_history(path) if _is_file(path) else None
    report = asyncio.run(_replay(history, name, save, profile))
    if as_json:
        print_json([report.model_dump()])
    elif report.same:
        typer.echo(f"{report.workflow_id}: {report.events} events replayed, every decision is the same.")
    else:
        typer.echo(f"{report.workflow_id}: {report.workflow_type} differs: {report.difference}")
    return 0 if report.same else 1


def _is_file(path: Path) -> bool:
    # What looks like a path is one, so that a file that is missing is told as such.
    return path.suffix == ".json" or len(path.parts) > 1 or os.path.isfile(path)  # noqa: PTH113 raises nothing


async def _replay(
    history: WorkflowHistory | None, name: str, save: Path | None, profile: str | None
) -> ReplayReport:
    if history is None:
        async with Client.connect(profile=profile, worker=False) as client:
            history = await client.history(name)
    if save is not None:
        try:
            save.write_text(history.to_json(), encoding="utf-8")
        except OSError as error:
            raise DataInvalid(f"{str(save)!r} cannot be written: {error.strerror}") from None
    return await replay(history)
