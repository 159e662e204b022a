"""``durabert promote``, ``approve``, ``reject`` and ``registry``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from durabert.cli.output import print_json, put, say
from durabert.cli.train import announce_start, assigned, given
from durabert.client import Client
from durabert.client.identity import who
from durabert.client.naming import registry as opened_registry
from durabert.client.naming import resolved
from durabert.client.promotions import open_promotions
from durabert.errors import SpecInvalid
from durabert.specs import checked_name, checked_run
from durabert.specs.registry import (
    AliasMove,
    ApprovalPolicy,
    GateResult,
    ModelRef,
    PromotionRequest,
    PromotionResult,
    PromotionState,
    RegistryVersion,
)

if TYPE_CHECKING:
    from durabert.store.registry import Registry

SECONDS_OF_AN_HOUR = 3600


def request_from_options(
    run: str,
    *,
    to: str,
    min_metrics: list[str] | None,
    ignore_champion: bool,
    require_approval: bool,
    hours: dict[str, str | None],
) -> PromotionRequest:
    """Build a request from options.

    Raises:
        UserError: the target is no ``NAME@ALIAS``, a least value is no number, or a time no number of hours.
    """
    target = ModelRef.parse_text(to)
    if target.alias is None:
        raise SpecInvalid(
            f"--to is {to!r}, but versions number themselves; name an alias, such as {target.name}@champion"
        )
    approval = {name: _seconds(name, text) for name, text in given(hours).items()}
    if approval and not require_approval:
        raise SpecInvalid(f"{_option(next(iter(approval)))} is given, but only --require-approval waits")
    least = assigned(min_metrics, option="--min-metric")
    fields: dict[str, Any] = {
        "run": checked_run(resolved(run, tell=say)),
        "name": target.name,
        "alias": target.alias,
        "min_metrics": {name: _number(name, value) for name, value in least.items()},
        "beat_champion": not ignore_champion,
        "approval": ApprovalPolicy.parse(approval) if require_approval else None,
        "requested_by": who(),
    }
    return PromotionRequest.parse(fields)


def run(request: PromotionRequest, *, profile: str | None, as_json: bool) -> int:
    """Promote until it has ended or waits for a person, print, and return the exit code."""
    settled = asyncio.run(_promote(request, profile))
    if isinstance(settled, PromotionResult):
        return _print(settled, as_json=as_json)
    if as_json:
        print_json([settled.model_dump(mode="json")])
        return 0
    _print_gates(settled.gates)
    put(
        f"waits for a decision until {settled.expires}: durabert approve {request.target()} --reason TEXT, "
        f"or durabert reject {request.target()} --reason TEXT"
    )
    return 0


def decide(target: str, *, approved: bool, reason: str, profile: str | None, as_json: bool) -> int:
    """Approve or reject an open promotion, print what has become of it, and return the exit code."""
    ref = ModelRef.parse_text(target.removeprefix("promote:"))
    result = asyncio.run(_decide(ref, approved, reason, profile))
    if as_json:
        print_json([result.model_dump(mode="json")])
    else:
        put(_said(result))
    return 0


def listing(name: str | None, *, as_json: bool) -> None:
    """List versions and aliases of all models, or of one with its history."""
    registry = opened_registry()
    names = registry.names() if name is None else [checked_name(name)]
    if name is not None and name not in registry.names():
        registry.find(ModelRef(name=name, version=1))
    if as_json:
        print_json(_document(registry, one) for one in names)
        return
    if not names:
        say("The registry is empty; durabert promote RUN --to NAME@ALIAS begins it")
    for one in names:
        put(_versions(registry.versions(one), registry.aliases(one)))
    if name is not None:
        put(_history(registry.moves(name)))


def open_ones(name: str | None, *, profile: str | None, as_json: bool) -> None:
    """List the promotions that wait for a decision."""
    states = [
        state
        for state in asyncio.run(_open(profile))
        if state.phase == "waiting" and name in {None, state.request.name}
    ]
    if as_json:
        print_json(state.model_dump(mode="json") for state in states)
    elif not states:
        say("No promotion waits for a decision.")
    else:
        put(_waiting(states))


async def _open(profile: str | None) -> list[PromotionState]:
    async with Client.connect(profile=profile, on_starting=announce_start) as client:
        return await open_promotions(client.temporal)


async def _promote(request: PromotionRequest, profile: str | None) -> PromotionState | PromotionResult:
    async with Client.connect(profile=profile, on_starting=announce_start) as client:
        promotion = await client.start_promotion(request)
        say(f"Looking at the gates of {request.run} for {request.target()} ...")
        return await promotion.settled()


async def _decide(ref: ModelRef, approved: bool, reason: str, profile: str | None) -> PromotionResult:
    async with Client.connect(profile=profile, on_starting=announce_start) as client:
        return await (await client.promotion(ref)).decide(approved=approved, reason=reason)


def _print(result: PromotionResult, *, as_json: bool) -> int:
    if as_json:
        print_json([result.model_dump(mode="json")])
    else:
        _print_gates(result.gates)
        put(_said(result))
    return 0 if result.status == "promoted" else 1


def _said(result: PromotionResult) -> str:
    target = f"{result.name}@{result.alias}"
    if result.status == "promoted":
        before = "" if result.before is None else f", before it was version {result.before}"
        return f"{target} is version {result.version}, run {result.run}{before}"
    by = f" by {result.decision.by}: {result.decision.reason}" if result.decision else ""
    return f"{result.run} is not {target}: {result.status}{by}"


def _print_gates(gates: list[GateResult]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("gate", "", "figures"):
        table.add_column(column, overflow="fold")
    for gate in gates:
        table.add_row(gate.gate, "passed" if gate.passed else "refused", gate.detail)
    put(table)


def _versions(versions: list[RegistryVersion], aliases: dict[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("model", "aliases", "run", "validation", "weights", "since"):
        table.add_column(column, overflow="fold")
    for one in versions:
        named = ", ".join(sorted(alias for alias, version in aliases.items() if version == one.version))
        score = f"{one.metric} {one.metrics[one.metric]:.4f}"
        table.add_row(f"{one.name}@{one.version}", named, one.run, score, one.model_sha256[:12], one.created)
    return table


def _waiting(states: list[PromotionState]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("to", "run", "asked for by", "waits since", "expires", "reminders"):
        table.add_column(column, overflow="fold")
    for one in states:
        asked, times = one.request, (one.waiting_since or "", one.expires or "", str(one.reminders))
        table.add_row(asked.target(), asked.run, asked.requested_by, *times)
    return table


def _history(moves: list[AliasMove]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("when", "alias", "version", "asked for by", "approved by", "reason"):
        table.add_column(column, overflow="fold")
    for move in moves:
        decision = (move.decision.by, move.decision.reason) if move.decision else ("", "")
        table.add_row(move.at, move.alias, str(move.version), move.by, *decision)
    return table


def _document(registry: Registry, name: str) -> dict[str, Any]:
    return {
        "name": name,
        "aliases": registry.aliases(name),
        "versions": [version.model_dump(mode="json") for version in registry.versions(name)],
        "moves": [move.model_dump(mode="json") for move in registry.moves(name)],
    }


def _seconds(name: str, hours: str) -> float:
    try:
        return float(hours) * SECONDS_OF_AN_HOUR
    except ValueError:
        raise SpecInvalid(f"{_option(name)} is {hours!r}, but should be a number of hours above 0") from None


def _number(metric: str, value: str | None) -> float:
    try:
        return float(value or "none")
    except ValueError:
        raise SpecInvalid(f"--min-metric {metric} is {value or 'none'!r}, but should be a number") from None


def _option(field: str) -> str:
    return f"--{field.partition('_')[0]}-hours"
