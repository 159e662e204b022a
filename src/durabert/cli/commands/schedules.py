"""``durabert schedule``: parsing only; ``durabert.cli.schedules`` works."""

from __future__ import annotations

from typing import Annotated

import typer

from durabert.cli import options
from durabert.cli.options import Json, Profile

app = typer.Typer(
    help="Retrain on a schedule: create, list, show, pause, resume, trigger, backfill, delete.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]
OVERLAP = "While one goes on: skip, buffer_one, allow_all or cancel_other."


@app.command()
def create(
    name: Name,
    data: options.TrainingSource = None,
    cron: Annotated[str | None, typer.Option(help="When: a cron expression, such as '0 3 * * 1'.")] = None,
    every: Annotated[
        str | None, typer.Option(metavar="INTERVAL", help="When: 30m, 6h, 2d or 1w, from midnight UTC on.")
    ] = None,
    time_zone: Annotated[str, typer.Option(help="Time zone of the cron expression.")] = "UTC",
    overlap: Annotated[str, typer.Option(help=OVERLAP)] = "skip",
    catch_up: Annotated[
        str, typer.Option(metavar="INTERVAL", help="Make up for firings that were missed so long ago.")
    ] = "1w",
    promote_to: Annotated[
        str | None, typer.Option(metavar="NAME@ALIAS", help="The alias that is to name each new model.")
    ] = None,
    min_metrics: Annotated[
        list[str] | None,
        typer.Option("--min-metric", metavar="METRIC=VALUE", help="Refuse a lower validation metric."),
    ] = None,
    require_approval: Annotated[
        bool, typer.Option("--require-approval", help="Ask for approval in place of promoting.")
    ] = False,
    config: options.ConfigFile = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    max_length: options.MaxLength = None,
    device: options.DeviceOption = None,
    seed: options.Seed = None,
    assignments: options.Assignments = None,
    text: options.TextColumn = None,
    text_pair: options.TextPairColumn = None,
    label: options.LabelColumn = None,
    validation: options.ValidationFile = None,
    test: options.TestFile = None,
    data_assignments: options.DataAssignments = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval-data", help="Evaluate on this, the champion as well; repeat for several."),
    ] = None,
    slice_by: options.SliceBy = None,
    checkpoint_every: options.CheckpointEvery = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Create a schedule that retrains when the data have changed, by cron or interval."""
    from durabert.cli import schedules as command
    from durabert.cli.train import Evaluation, assigned, given, spec_from_options
    from durabert.specs.retraining import checked_schedule

    timing = command.timing_from_options(
        cron=cron, every=every, time_zone=time_zone, overlap=overlap, catch_up=catch_up
    )
    promotion = command.promotion_from_options(
        promote_to, min_metrics=min_metrics, require_approval=require_approval
    )
    fields = {
        "model": model, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "max_length": max_length, "device": device, "seed": seed,
    }  # fmt: skip
    columns = {"text": text, "text_pair": text_pair, "label": label, "validation": validation, "test": test}
    spec = spec_from_options(
        data,
        name=checked_schedule(name),
        config=config,
        fields=given(fields) | assigned(assignments, option="--set"),
        data_fields=given(columns) | assigned(data_assignments, option="--data"),
        runs=[],
        in_order=False,
        checkpoint_every=checkpoint_every,
        evaluation=Evaluation(data=eval_data or [], slice_by=slice_by or []),
        profile=profile,
    )
    command.create(spec, timing, promotion, profile=profile, as_json=json)


@app.command("list")
def list_all(profile: Profile = None, json: Json = False) -> None:
    """List all schedules, when they fire next and what became of the last firing."""
    from durabert.cli import schedules as command

    command.list_all(profile=profile, as_json=json)


@app.command()
def show(name: Name, profile: Profile = None, json: Json = False) -> None:
    """Show a schedule, its next times and its last firings."""
    from durabert.cli import schedules as command

    command.show(name, profile=profile, as_json=json)


@app.command()
def pause(
    name: Name,
    reason: Annotated[str | None, typer.Option(help="Why; kept as the note of the schedule.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Let it fire no more; what goes on goes on."""
    from durabert.cli import schedules as command

    command.pause(name, reason=reason, profile=profile, as_json=json)


@app.command()
def resume(name: Name, profile: Profile = None, json: Json = False) -> None:
    """Let it fire again."""
    from durabert.cli import schedules as command

    command.resume(name, profile=profile, as_json=json)


@app.command()
def trigger(
    name: Name,
    follow: options.Follow = True,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Let it fire now, also while it is paused."""
    from durabert.cli import schedules as command

    raise typer.Exit(command.trigger(name, follow=follow, profile=profile, as_json=json))


@app.command()
def backfill(
    name: Name,
    first: Annotated[str, typer.Option("--from", metavar="TIME", help="Begin, such as 2026-01-31T03:00.")],
    last: Annotated[str, typer.Option("--to", metavar="TIME", help="End; UTC, unless it says otherwise.")],
    overlap: Annotated[
        str, typer.Option(help="buffer_all, one after the other; or a policy of create.")
    ] = "buffer_all",
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Let it fire for every time of a range in the past."""
    from durabert.cli import schedules as command

    command.backfill(name, first=first, last=last, overlap=overlap, profile=profile, as_json=json)


@app.command()
def delete(name: Name, profile: Profile = None, json: Json = False) -> None:
    """End a schedule; runs, models and what goes on stay."""
    from durabert.cli import schedules as command

    command.delete(name, profile=profile, as_json=json)
