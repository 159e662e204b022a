"""``durabert replay``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from durabert.cli.render import print_json
from durabert.client import Client
from durabert.client.replaying import ReplayReport, read_history, replay

if TYPE_CHECKING:
    from temporalio.client import WorkflowHistory


def run(name: str, *, save: Path | None, profile: str | None, as_json: bool) -> int:
    """Replay a run of the server, or a file; return 1 if the code differs from the history."""
    path = Path(name)
    report = asyncio.run(_replay(read_history(path) if path.is_file() else None, name, save, profile))
    if as_json:
        print_json([report.model_dump()])
    elif report.same:
        typer.echo(f"{report.workflow_id}: {report.events} events replayed, every decision is the same.")
    else:
        typer.echo(f"{report.workflow_id}: {report.workflow_type} differs: {report.difference}")
    return 0 if report.same else 1


async def _replay(
    history: WorkflowHistory | None, name: str, save: Path | None, profile: str | None
) -> ReplayReport:
    if history is None:
        async with Client.connect(profile=profile, worker=False) as client:
            history = await client.history(name)
    if save is not None:
        save.write_text(history.to_json(), encoding="utf-8")
    return await replay(history)
