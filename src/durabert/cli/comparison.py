"""``durabert compare``: runs side by side, from the store alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pydantic import Field
from rich import box
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from rich.table import Table

from durabert.cli.output import print_json, put, say
from durabert.client.naming import resolved
from durabert.engine import home_directory
from durabert.specs import Wire

if TYPE_CHECKING:
    from durabert.activities.comparison import Comparison, OnRows, Side
    from durabert.bert.comparison import Mean, MetricDifference


class CompareOptions(Wire):
    """How to compare."""

    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """Probability of an interval."""
    resamples: int = Field(default=1000, ge=100, le=100_000)
    """Samples of the paired bootstrap."""


def run(names: list[str], *, options: CompareOptions, as_json: bool) -> None:
    """Compare the sides with the first of them, and print what was found."""
    from durabert.activities.comparison import compare
    from durabert.store.objects import open_store

    objects = open_store(None, home=home_directory())
    names = [resolved(name, tell=say) for name in names]
    with _spinner() as tick:
        found = compare(
            objects, names, confidence=options.confidence, num_samples=options.resamples, on_sample=tick
        )
    if as_json:
        print_json(_document(one) for one in found)
        return
    for one in found:
        _print(one)


@contextmanager
def _spinner() -> Iterator[Callable[[], None]]:
    columns = (SpinnerColumn(), TextColumn("comparing, {task.completed:.0f} samples"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("comparing", total=None)
        yield lambda: bar.advance(task)


def _document(comparison: Comparison) -> dict[str, Any]:
    first, second = comparison.first, comparison.second
    return {
        "first": _side(first),
        "second": _side(second),
        "metric": comparison.metric,
        "configuration": comparison.configuration,
        "evaluations": [
            {
                **asdict(rows),
                "metrics": [
                    {**asdict(one), "sentence": one.sentence(first.name, second.name)} for one in rows.metrics
                ],
            }
            for rows in comparison.evaluations
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    return {"name": side.name, "runs": [run.run for run in side.runs]}


def _print(comparison: Comparison) -> None:
    first, second = comparison.first, comparison.second
    put(f"{second.name} ({_runs(second)}) beside {first.name} ({_runs(first)})")
    if comparison.configuration:
        put(_configuration_table(comparison))
    else:
        put("no field of the configuration differs")
    for rows in comparison.evaluations:
        put(f"on {rows.data} {rows.split}, {rows.rows:,} rows, snapshot {rows.snapshot[:12]}:")
        put(_metrics_table(comparison, rows))
        for one in rows.metrics:
            if one.metric == comparison.metric:
                put(f"  {one.sentence(first.name, second.name)}")
        if rows.mcnemar is not None:
            put(
                f"  right alone: {first.name} {rows.mcnemar.first_alone}, {second.name} "
                f"{rows.mcnemar.second_alone} rows; McNemar's exact test p = {rows.mcnemar.p_value:.4f}"
            )


def _runs(side: Side) -> str:
    return "1 run" if len(side.runs) == 1 else f"{len(side.runs)} runs"


def _configuration_table(comparison: Comparison) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("field", comparison.first.name, comparison.second.name):
        table.add_column(column, overflow="fold")
    for field, values in comparison.configuration.items():
        table.add_row(field, *map(_value, values))
    return table


def _value(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _metrics_table(comparison: Comparison, rows: OnRows) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    names = (comparison.first.name, comparison.second.name)
    for column in (*names, "difference", "interval", "p, rows", "p, seeds", "verdict"):
        table.add_column(column, justify="left" if column == "verdict" else "right")
    for one in rows.metrics:
        table.add_row(*_cells(one))
    return table


def _cells(one: MetricDifference) -> list[str]:
    return [
        one.metric, _mean(one.first), _mean(one.second), f"{one.difference:+.4f}",
        f"{one.interval[0]:+.4f} to {one.interval[1]:+.4f}", f"{one.p_value:.4f}",
        "" if one.seed_p_value is None else f"{one.seed_p_value:.4f}",
        "inside the noise" if one.verdict == "noise" else one.verdict,
    ]  # fmt: skip


def _mean(mean: Mean) -> str:
    return f"{mean.mean:.4f}" if mean.deviation is None else f"{mean.mean:.4f} ± {mean.deviation:.4f}"
