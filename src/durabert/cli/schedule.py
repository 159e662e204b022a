"""``durabert schedule``: parsing only; ``durabert.cli.schedules`` works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Retrain on a schedule: create, list, show, pause, resume, trigger, backfill, delete.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(help="Name of the schedule.")]
Profile = Annotated[
    str | None, typer.Option("--profile", help="Temporal connection profile; default: the embedded engine.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of text.")]
OVERLAP = "While one goes on: skip, buffer_one, allow_all or cancel_other."


@app.command()
def create(
    name: Name,
    data: Annotated[
        str | None, typer.Argument(help="File, directory with train/validation/test files, or hub id.")
    ] = None,
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
    config: Annotated[Path | None, typer.Option(help="Experiment in TOML; options override it.")] = None,
    model: Annotated[str | None, typer.Option(help="minilm, a directory, or a hub id.")] = None,
    epochs: Annotated[str | None, typer.Option(help="Passes over the training rows.")] = None,
    batch_size: Annotated[str | None, typer.Option(help="Examples per optimizer step.")] = None,
    learning_rate: Annotated[str | None, typer.Option("--learning-rate", "--lr", help="Peak rate.")] = None,
    max_length: Annotated[str | None, typer.Option(help="Longest input in tokens.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")] = None,
    seed: Annotated[str | None, typer.Option(help="Seed of head, order and dropout.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a configuration."),
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text column.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Second text column of a pair task.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    validation: Annotated[str | None, typer.Option(help="File with validation rows.")] = None,
    test: Annotated[str | None, typer.Option(help="File with test rows.")] = None,
    data_assignments: Annotated[
        list[str] | None, typer.Option("--data", metavar="FIELD=VALUE", help="Any other field of the data.")
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option("--eval-data", help="Evaluate on this, the champion as well; repeat for several."),
    ] = None,
    slice_by: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Column to slice evaluations by.")
    ] = None,
    checkpoint_every: Annotated[
        str | None, typer.Option(help="Steps between checkpoints; default: by their cost, at most 60 s.")
    ] = None,
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
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show progress until it ends.")] = True,
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
