"""``durabert chaos``: a small training under injected faults, held against an undisturbed one."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from durabert.chaos import SCENARIOS, Bench, chosen, disturbed, undisturbed
from durabert.cli.board import Board
from durabert.cli.output import print_json, put, say
from durabert.client.locating import located_model
from durabert.specs import FineTuneConfig
from durabert.warming import require_training_parts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from durabert.chaos import Row, Scenario


def run(scenarios: Sequence[str], *, short: bool, model: str, list_all: bool, as_json: bool) -> int:
    """Print a table, and return 1 if a run did not end as promised."""
    if list_all:
        _list(as_json=as_json)
        return 0
    wanted = chosen(scenarios, short=short)
    config = FineTuneConfig(
        model=located_model(model, here=True), epochs=2, batch_size=8, max_length=32, learning_rate=1e-4
    )
    require_training_parts()
    rows = asyncio.run(_rows(wanted, config))
    if as_json:
        print_json({**asdict(row), "passed": row.passed} for row in rows)
    else:
        put(_table(rows))
    return 0 if all(row.passed for row in rows) else 1


async def _rows(scenarios: Sequence[Scenario], config: FineTuneConfig) -> list[Row]:
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="durabert-chaos-") as directory:
        async with Bench.open(Path(directory), config) as bench:
            say("Training undisturbed ...")
            with _board() as board:
                reference = await undisturbed(bench, board.show)
            for number, scenario in enumerate(scenarios, start=1):
                say(f"{number} of {len(scenarios)}  {scenario.name}: {scenario.fault} ...")
                with _board() as board:
                    row = await disturbed(bench, scenario, reference, board.show)
                rows.append(row)
                say(f"{number} of {len(scenarios)}  {row.scenario}: {row.status}, digest {row.digest}")
    return rows


def _board() -> Board:
    # The workers are those of the scenarios, not the engine's.
    return Board(engine=None, transient=True)


def _table(rows: Sequence[Row]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("fault", "struck", "run", "attempts", "steps lost", "trains again in", "digest"):
        table.add_column(column, justify="left" if column in {"fault", "run", "digest"} else "right")
    for row in rows:
        lost = "" if row.steps_lost is None else str(row.steps_lost)
        seconds = "" if row.recovered_seconds is None else f"{row.recovered_seconds:.1f} s"
        table.add_row(row.fault, str(row.struck), row.status, str(row.attempts), lost, seconds, row.digest)
    return table


def _list(*, as_json: bool) -> None:
    if as_json:
        print_json({"scenario": one.name, "fault": one.fault, "slow": one.slow} for one in SCENARIOS)
        return
    for one in SCENARIOS:
        put(f"{one.name:16} {one.fault}{' (waits for a time-out)' if one.slow else ''}")
