"""``durabert runs``, ``show``, ``watch``, ``cancel``, ``pause`` and ``resume``: parsing only."""

from __future__ import annotations

from typing import Annotated

import typer

from durabert.cli import options
from durabert.cli.options import Json, Profile

app = typer.Typer()

Name = Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")]


@app.command()
def runs(profile: Profile = None, json: Json = False) -> None:
    """List all runs, the newest experiment first."""
    from durabert.cli import look

    look.runs(profile=profile, as_json=json)


@app.command()
def show(
    name: Name,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show everything about an experiment or a run."""
    from durabert.cli import look

    look.show(name, profile=profile, as_json=json)


@app.command()
def watch(
    name: Name,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Follow an experiment until it ends; with the embedded engine this also lets it go on."""
    from durabert.cli import look

    raise typer.Exit(look.watch(name, profile=profile, as_json=json))


@app.command()
def cancel(
    name: Name,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Cancel; returns when no process is left."""
    from durabert.cli import look

    look.cancel(name, profile=profile, as_json=json)


@app.command()
def pause(
    name: Name,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Free the device and keep the run open; returns when no process is left."""
    from durabert.cli import steer

    steer.pause(name, profile=profile, as_json=json)


@app.command()
def resume(
    name: Name,
    queue: Annotated[str | None, typer.Option(help="Task queue to go on on.")] = None,
    follow: options.Follow = True,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Go on with a paused, cancelled or failed run, from its newest checkpoint."""
    from durabert.cli import steer

    raise typer.Exit(steer.resume(name, queue=queue, follow=follow, profile=profile, as_json=json))
