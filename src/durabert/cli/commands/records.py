"""``durabert replay``, ``verify``, ``audit``, ``reproduce``, ``report`` and ``track``: parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from durabert.cli.options import Json, Profile

app = typer.Typer()


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="An experiment, or a file with a history in JSON.")],
    save: Annotated[Path | None, typer.Option(help="Also write the history to this file.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Replay the workflow code against a recorded history, without touching anything outside."""
    from durabert.cli import replay as command

    raise typer.Exit(command.run(run, save=save, profile=profile, as_json=json))


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="The run to check.")],
    replay_steps: Annotated[
        str | None, typer.Option(help="Also derive up to so many steps anew and compare.")
    ] = None,
    json: Json = False,
) -> None:
    """Check every digest of a run and the chain that binds them; needs the store and no server."""
    from durabert.cli import verify as command

    raise typer.Exit(command.run(run, replay_steps=replay_steps, as_json=json))


@app.command()
def audit(
    run: Annotated[str, typer.Argument(help="The run to audit.")],
    output: Annotated[Path | None, typer.Option(help="Write the report to this Markdown file.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Prove from Temporal's history and the store what was run on what; needs both."""
    from durabert.cli import audit as command

    raise typer.Exit(command.run(run, output=output, profile=profile, as_json=json))


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="The run to do again.")],
    name: Annotated[str | None, typer.Option(help="Name of the new run; default: RUN-again.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Train again from the recorded inputs, and compare weights, metrics and curve."""
    from durabert.cli import reproduce as command

    raise typer.Exit(command.run(run, new_name=name, profile=profile, as_json=json))


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write; default: NAME.html.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Write one HTML file with curves, runs, attempts and lineage; it needs no network."""
    from durabert.cli import report as command

    command.run(name, output=output, profile=profile, as_json=json)


@app.command()
def track(
    name: Annotated[str, typer.Argument(help="An experiment or a run.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="KIND:TARGET", help="tensorboard:DIRECTORY, mlflow:URI, wandb or wandb:PROJECT."
        ),
    ],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the runs have ended.")] = False,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Add to a tracker what it lacks of a run: no gap and no double point, whatever happened."""
    from durabert.cli import track as command

    raise typer.Exit(command.run(name, to=to, follow=follow, profile=profile, as_json=json))
