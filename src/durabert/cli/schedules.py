"""What the commands of ``durabert schedule`` do: from options to a schedule, and how it looks."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, get_args

from rich import box
from rich.table import Table

from durabert.cli.follow import follow_experiment
from durabert.cli.output import print_json, put, say
from durabert.cli.train import announce_start, assigned
from durabert.client import Client
from durabert.client.identity import who
from durabert.errors import SpecInvalid
from durabert.specs.registry import ApprovalPolicy, ModelRef
from durabert.specs.retraining import (
    SHORTEST_INTERVAL,
    Overlap,
    RetrainingPromotion,
    RetrainingRequest,
    RetrainingResult,
    RetrainingTiming,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from durabert.client.views import FiringView, ScheduleView
    from durabert.specs import ExperimentSpec

INTERVAL: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)\s*([smhdw])")
UNITS: Final = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
BACKFILL_OVERLAPS: Final = ("buffer_all", *get_args(Overlap))
SHOWN_TIMES: Final = 3


def timing_from_options(
    *, cron: str | None, every: str | None, time_zone: str, overlap: str, catch_up: str
) -> RetrainingTiming:
    """Say when it fires.

    Raises:
        SpecInvalid: an interval is none or too short, or there are both or neither of cron and interval.
    """
    if overlap not in get_args(Overlap):
        raise SpecInvalid(f"--overlap is {overlap!r}, but should be {' or '.join(get_args(Overlap))}")
    if every is not None and time_zone != "UTC":
        raise SpecInvalid(f"--time-zone is {time_zone!r}, but --every has none; give --cron")
    return RetrainingTiming.parse(
        {
            "cron": cron,
            "every_seconds": None if every is None else _seconds("--every", every, least=SHORTEST_INTERVAL),
            "time_zone": time_zone,
            "overlap": overlap,
            "catch_up_seconds": _seconds("--catch-up", catch_up, least=10),
        }
    )


def promotion_from_options(
    promote_to: str | None, *, min_metrics: list[str] | None, require_approval: bool
) -> RetrainingPromotion | None:
    """Say what becomes of each model.

    Raises:
        SpecInvalid: the target is no ``NAME@ALIAS``, or there is none, but gates or approval.
    """
    if promote_to is None:
        if require_approval or min_metrics:
            option = "--require-approval" if require_approval else "--min-metric"
            raise SpecInvalid(f"{option} is given, but only --promote-to NAME@ALIAS promotes")
        return None
    target = ModelRef.parse_text(promote_to)
    if target.alias is None:
        raise SpecInvalid(
            f"--promote-to is {promote_to!r}, but versions number themselves; name an alias, such as "
            f"{target.name}@champion"
        )
    return RetrainingPromotion.parse(
        {
            "name": target.name,
            "alias": target.alias,
            "min_metrics": assigned(min_metrics, option="--min-metric"),
            "approval": ApprovalPolicy() if require_approval else None,
        }
    )


def create(
    spec: ExperimentSpec,
    timing: RetrainingTiming,
    promotion: RetrainingPromotion | None,
    *,
    profile: str | None,
    as_json: bool,
) -> None:
    """Create a schedule and say when it fires."""
    request = RetrainingRequest.parse(
        {
            "experiment": spec,
            "spec_sha256": spec.digest(),
            "promotion": promotion,
            "started_by": who(),
        }
    )
    view, embedded = asyncio.run(_create(request, timing, profile))
    if embedded:
        say(
            "A schedule of the embedded engine fires only while the engine is up, as with 'durabert up'; "
            f"what it misses is made up for within {_interval(timing.catch_up_seconds)}."
        )
    if as_json:
        print_json([view.model_dump(mode="json")])
        return
    put(f"{view.name} fires {_when(view)}, next at {_time(view.next[0])}")


def list_all(*, profile: str | None, as_json: bool) -> None:
    """List all schedules."""
    views: list[ScheduleView] = asyncio.run(_asked(profile, lambda client: client.schedules.all()))
    if as_json:
        print_json(view.model_dump(mode="json") for view in views)
    elif not views:
        say("There are no schedules yet; make one: durabert schedule create NAME DATA --cron '0 3 * * 1'")
    else:
        put(_schedules_table(views))


def show(name: str, *, profile: str | None, as_json: bool) -> None:
    """Show one."""
    view = asyncio.run(_asked(profile, lambda client: client.schedules.view(name)))
    if as_json:
        print_json([view.model_dump(mode="json")])
        return
    put(_facts(view))
    if view.firings:
        put(_firings_table(view.firings))
        put(_said(view.firings[-1]))


def pause(name: str, *, reason: str | None, profile: str | None, as_json: bool) -> None:
    """Let it fire no more."""
    _steer(name, lambda client: client.schedules.pause(name, note=reason), profile, as_json)
    say(f"{name} is paused; durabert schedule resume {name} lets it fire again.")


def resume(name: str, *, profile: str | None, as_json: bool) -> None:
    """Let it fire again."""
    _steer(name, lambda client: client.schedules.resume(name), profile, as_json)
    say(f"{name} fires again.")


def trigger(name: str, *, follow: bool, profile: str | None, as_json: bool) -> int:
    """Let it fire now and, if wanted, follow it; return the exit code."""
    return asyncio.run(_trigger(name, follow=follow, profile=profile, as_json=as_json))


def backfill(name: str, *, first: str, last: str, overlap: str, profile: str | None, as_json: bool) -> None:
    """Let it fire for every time of a range."""
    if overlap not in BACKFILL_OVERLAPS:
        raise SpecInvalid(f"--overlap is {overlap!r}, but should be {' or '.join(BACKFILL_OVERLAPS)}")
    begin, end = _instant("--from", first), _instant("--to", last)

    async def filled(client: Client) -> tuple[list[datetime], bool]:
        times = await client.schedules.backfill(name, first=begin, last=end, overlap=overlap)
        return times, client.engine is not None

    times, embedded = asyncio.run(_asked(profile, filled))
    if as_json:
        print_json({"schedule": name, "fires_for": one.isoformat()} for one in times)
        return
    put(f"{name} fires for {len(times)} times, {_time(times[0])} to {_time(times[-1])}")
    while_up = ", while the engine is up ('durabert up' keeps it up)" if embedded else ""
    say(f"They go on{while_up}; durabert schedule show {name} tells what becomes of them.")


def delete(name: str, *, profile: str | None, as_json: bool) -> None:
    """End it."""
    asyncio.run(_asked(profile, lambda client: client.schedules.delete(name)))
    if as_json:
        print_json([{"schedule": name, "deleted": True}])
    say(f"{name} fires no more; its runs and models stay, and what goes on goes on.")


async def _create(
    request: RetrainingRequest, timing: RetrainingTiming, profile: str | None
) -> tuple[ScheduleView, bool]:
    async with Client.connect(profile=profile, worker=False, on_starting=announce_start) as client:
        return await client.schedules.create(request, timing), client.engine is not None


async def _asked(profile: str | None, ask: Callable[[Client], Awaitable[Any]]) -> Any:
    async with Client.connect(profile=profile, worker=False, on_starting=announce_start) as client:
        return await ask(client)


def _steer(name: str, ask: Callable[[Client], Awaitable[None]], profile: str | None, as_json: bool) -> None:
    async def steered(client: Client) -> ScheduleView:
        await ask(client)
        return await client.schedules.view(name)

    view = asyncio.run(_asked(profile, steered))
    if as_json:
        print_json([view.model_dump(mode="json")])


async def _trigger(name: str, *, follow: bool, profile: str | None, as_json: bool) -> int:
    async with Client.connect(profile=profile, worker=follow, on_starting=announce_start) as client:
        firing = await client.schedules.trigger(name)
        if not follow:
            while_up = (
                " It goes on while the engine is up ('durabert up' keeps it up)." if client.engine else ""
            )
            say(f"{name} has fired; durabert schedule show {name} tells what becomes of it.{while_up}")
            if as_json:
                print_json([(await firing.view()).model_dump(mode="json")])
            return 0
        say(f"{name} has fired; looking at the data ...")
        run = await firing.training()
        if run is not None and await follow_experiment(client, run) is None:
            return 130
        result = await firing.result()
    if as_json:
        print_json([result.model_dump(mode="json")])
    else:
        _print(result)
    return 0


def _print(result: RetrainingResult) -> None:
    if result.standings:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("evaluation set", "rows", "metric", "new", "interval", "champion"):
            table.add_column(column)
        for one in result.standings:
            interval = f"{one.interval[0]:.4f} to {one.interval[1]:.4f}"
            champion = "" if one.champion is None else f"{one.champion:.4f}"
            table.add_row(one.name, str(one.rows), one.metric, f"{one.value:.4f}", interval, champion)
        put(table)
    put(f"{result.status}: {result.reason}")


def _schedules_table(views: list[ScheduleView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("schedule", "fires", "data", "promotes to", "next", "last firing"):
        table.add_column(column, overflow="fold")
    for view in views:
        after = "paused" if view.paused else _time(view.next[0]) if view.next else ""
        last = f"{view.firings[-1].status} {_time(view.firings[-1].started)}" if view.firings else ""
        table.add_row(view.name, _when(view), view.data, view.promote_to or "", after, last)
    return table


def _facts(view: ScheduleView) -> Table:
    promotes = view.promote_to or "nothing"
    facts = {
        "schedule": view.name,
        "state": "paused" + (f": {view.note}" if view.note else "") if view.paused else "fires",
        "fires": _when(view),
        "next": ", ".join(_time(one) for one in view.next[:SHOWN_TIMES]),
        "data": view.data,
        "model": view.model,
        "promotes to": promotes + (", with approval" if view.require_approval else ""),
        "overlap": view.timing.overlap,
        "catch-up": _interval(view.timing.catch_up_seconds),
        "fired": f"{view.num_fired}, {view.num_waiting} wait, {view.num_overlapping} dropped for overlap, "
        f"{view.num_missed} missed",
        "created by": view.started_by,
    }
    table = Table(box=None, show_header=False)
    for fact, value in facts.items():
        table.add_row(fact, value)
    return table


def _firings_table(firings: list[FiringView]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("started", "status", "run", "metric", "version"):
        table.add_column(column, overflow="fold")
    for one in firings:
        result = one.result
        standing = result.standings[0] if result and result.standings else None
        metric = f"{standing.metric} {standing.value:.4f}" if standing else ""
        version = "" if result is None or result.version is None else str(result.version)
        status = f"{one.status}, {one.phase}" if one.phase else one.status
        table.add_row(_time(one.started), status, one.run or "", metric, version)
    return table


def _said(firing: FiringView) -> str:
    if firing.result is not None:
        return f"last: {firing.result.reason}"
    return f"last: {firing.error.message}" if firing.error else "last: it goes on"


def _when(view: ScheduleView) -> str:
    timing = view.timing
    if timing.cron is not None:
        return f"{timing.cron} {timing.time_zone}"
    assert timing.every_seconds is not None
    return f"every {_interval(timing.every_seconds)}"


def _time(when: datetime) -> str:
    return when.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _interval(seconds: float) -> str:
    unit = next((unit for unit in "wdhm" if seconds % UNITS[unit] == 0), "s")
    return f"{seconds / UNITS[unit]:g}{unit}"


def _seconds(option: str, text: str, *, least: float) -> float:
    match = INTERVAL.fullmatch(text.strip())
    if match is None:
        raise SpecInvalid(
            f"{option} is {text!r:.80}, but should be a number and a unit, m, h, d or w, such as 6h"
        )
    seconds = float(match[1]) * UNITS[match[2]]
    if seconds < least:
        raise SpecInvalid(f"{option} is {text!r}, but should be at least {_interval(least)}")
    return seconds


def _instant(option: str, text: str) -> datetime:
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise SpecInvalid(
            f"{option} is {text!r:.80}, but should be a date or a time, such as 2026-01-31T03:00"
        ) from None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when
