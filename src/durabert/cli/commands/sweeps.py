"""``durabert sweep`` and ``adjust``: parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from durabert.cli import options
from durabert.cli.options import Json, Profile

app = typer.Typer()


@app.command()
def sweep(
    data: options.TrainingSource = None,
    *,
    space: Annotated[Path, typer.Option(help="Search space in TOML; options override the rest of it.")],
    name: Annotated[str | None, typer.Option(help="Name of the sweep; default: from data and spec.")] = None,
    algorithm: Annotated[str | None, typer.Option(help="tpe, random or grid.")] = None,
    trials: Annotated[str | None, typer.Option(help="Trials; default: 20, of a grid all points.")] = None,
    stopping: Annotated[str | None, typer.Option(help="none, asha or median.")] = None,
    min_epochs: Annotated[str | None, typer.Option(help="Epochs of every trial.")] = None,
    reduction_factor: Annotated[
        str | None, typer.Option(help="One of so many goes on from a rung of asha to the next.")
    ] = None,
    concurrency: Annotated[str | None, typer.Option(help="Trials at once; default: 4.")] = None,
    search_seed: Annotated[str | None, typer.Option(help="Seed of the choice of configurations.")] = None,
    final_seeds: Annotated[
        str | None, typer.Option(help="Trainings of the best configuration at the end, each with a seed.")
    ] = None,
    budget_epochs: Annotated[str | None, typer.Option(help="Epochs of all trials at most.")] = None,
    budget_seconds: Annotated[str | None, typer.Option(help="Begin nothing after so many seconds.")] = None,
    metric: Annotated[str | None, typer.Option(help="Validation metric to search for.")] = None,
    model: options.Model = None,
    epochs: Annotated[str | None, typer.Option(help="Epochs of a whole training.")] = None,
    device: options.DeviceOption = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field that all trials share."),
    ] = None,
    data_assignments: Annotated[
        list[str] | None, typer.Option("--data", metavar="FIELD=VALUE", help="Any field of the data.")
    ] = None,
    follow: options.Follow = True,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Search over configurations: start a sweep, or join it if it is there already."""
    from durabert.cli import sweep as command
    from durabert.cli.train import assigned, given

    shared = {"best_metric": metric, "model": model, "epochs": epochs, "device": device}
    spec = command.spec_from_options(
        data,
        space=space,
        options={
            "name": name, "algorithm": algorithm, "trials": trials, "stopping": stopping,
            "min_epochs": min_epochs, "reduction_factor": reduction_factor, "concurrency": concurrency,
            "seed": search_seed, "final_seeds": final_seeds, "budget_epochs": budget_epochs,
            "budget_seconds": budget_seconds,
        },
        fields=given(shared) | assigned(assignments, option="--set"),
        data_fields=assigned(data_assignments, option="--data"),
        profile=profile,
    )  # fmt: skip
    raise typer.Exit(command.run(spec, follow=follow, profile=profile, as_json=json))


@app.command()
def adjust(
    name: Annotated[str, typer.Argument(help="A sweep that is running.")],
    add_trials: Annotated[str | None, typer.Option(help="Trials to train besides.")] = None,
    concurrency: Annotated[str | None, typer.Option(help="Trials to train at once.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Add trials to a sweep that is running, or change how many are trained at once."""
    from durabert.cli import sweep as command

    fields = {"add_trials": add_trials, "concurrency": concurrency}
    command.adjust(name, fields, profile=profile, as_json=json)
