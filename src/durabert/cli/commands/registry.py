"""``durabert promote``, ``approve``, ``reject`` and ``registry``: parsing only."""

from __future__ import annotations

from typing import Annotated

import typer

from durabert.cli.options import Json, Profile

app = typer.Typer()

Promotion = Annotated[str, typer.Argument(help="The alias that it is to: NAME@ALIAS.")]
Reason = Annotated[str, typer.Option(help="Why; kept in the registry.")]


@app.command()
def promote(
    run: Annotated[str, typer.Argument(help="The run whose model is promoted.")],
    to: Annotated[str, typer.Option(metavar="NAME@ALIAS", help="The alias that is to name it.")],
    min_metrics: Annotated[
        list[str] | None,
        typer.Option("--min-metric", metavar="METRIC=VALUE", help="Refuse a lower validation metric."),
    ] = None,
    ignore_champion: Annotated[
        bool, typer.Option("--ignore-champion", help="Also if it is worse than what the alias names now.")
    ] = False,
    require_approval: Annotated[
        bool, typer.Option("--require-approval", help="Wait until somebody approves.")
    ] = False,
    remind_hours: Annotated[str | None, typer.Option(help="Hours between reminders; default: 24.")] = None,
    expire_hours: Annotated[
        str | None, typer.Option(help="Hours until it ends undecided; default: 168.")
    ] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Let an alias of the registry name the model of a finished run, if the gates let it pass."""
    from durabert.cli import promote as command

    request = command.request_from_options(
        run, to=to, min_metrics=min_metrics, ignore_champion=ignore_champion,
        require_approval=require_approval,
        hours={"remind_after_seconds": remind_hours, "expire_after_seconds": expire_hours},
    )  # fmt: skip
    raise typer.Exit(command.run(request, profile=profile, as_json=json))


@app.command()
def approve(
    promotion: Promotion,
    reason: Reason,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Approve the promotion that waits for it."""
    from durabert.cli import promote as command

    raise typer.Exit(command.decide(promotion, approved=True, reason=reason, profile=profile, as_json=json))


@app.command()
def reject(
    promotion: Promotion,
    reason: Reason,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """End the promotion that waits for approval."""
    from durabert.cli import promote as command

    raise typer.Exit(command.decide(promotion, approved=False, reason=reason, profile=profile, as_json=json))


@app.command()
def registry(
    name: Annotated[str | None, typer.Argument(help="A model; default: all of them.")] = None,
    waiting: Annotated[
        bool, typer.Option("--open", help="List the promotions that wait for a decision; asks the server.")
    ] = False,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """List models, versions and aliases, from the store, or promotions that wait."""
    from durabert.cli import promote as command

    if waiting:
        command.open_ones(name, profile=profile, as_json=json)
    else:
        command.listing(name, as_json=json)
