"""``durabert worker``, ``up``, ``chaos`` and ``doctor``: parsing, and a worker's head start."""

from __future__ import annotations

from typing import Annotated

import typer

from durabert.cli.options import Json, Profile

app = typer.Typer()


@app.command()
def worker(
    train_queue: Annotated[str | None, typer.Option(help="Task queue for training.")] = None,
    inference_queue: Annotated[str | None, typer.Option(help="Task queue for inference.")] = None,
    slots: Annotated[str | None, typer.Option(help="Runs at once; default: one a GPU, else one.")] = None,
    drain_seconds: Annotated[str, typer.Option(help="Time for running work to finish on SIGTERM.")] = "10",
    profile: Profile = None,
) -> None:
    """Run a worker until SIGTERM; give one queue option to host only that queue."""
    from durabert.warming import require_training_parts, warm_up

    require_training_parts()
    warm_up()
    # Only then, as it imports Temporal's SDK.
    from durabert.cli import operate

    limits = operate.WorkerLimits.parse({"slots": slots, "drain_seconds": drain_seconds})
    operate.worker(train_queue, inference_queue, limits=limits, profile=profile)


@app.command()
def up(
    port: Annotated[
        str | None, typer.Option(help="Port of the Temporal server; default: a free one.")
    ] = None,
    ui_port: Annotated[str | None, typer.Option(help="Port of Temporal Web; default: a free one.")] = None,
) -> None:
    """Keep the embedded engine and a worker up until Ctrl-C."""
    from durabert.cli import operate

    operate.up(operate.Ports.parse({"port": port, "ui_port": ui_port}))


@app.command()
def chaos(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Names of faults; default: all.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Six of them, without waits for time-outs.")] = False,
    model: Annotated[str, typer.Option(help="minilm, a directory, or a hub id.")] = "minilm",
    list_all: Annotated[bool, typer.Option("--list", help="List the faults and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Train under injected faults, on an engine of its own, and compare with an undisturbed run."""
    from durabert.cli import chaos as command

    raise typer.Exit(command.run(scenarios or [], short=short, model=model, list_all=list_all, as_json=json))


@app.command()
def doctor(profile: Profile = None, json: Json = False) -> None:
    """Check versions, engine, queues, devices, disk and models, and say what to do."""
    from durabert.cli import operate

    raise typer.Exit(operate.doctor(profile=profile, as_json=json))
