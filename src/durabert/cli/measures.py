"""How evaluations look in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from rich import box
from rich.table import Table

from durabert.cli.output import put, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from durabert.client import RunView
    from durabert.specs import EvaluationReport, EvaluationResult, SliceScores

SHOWN_CLASSES: Final = 30
SHOWN_SLICES: Final = 30
SHOWN_WORST: Final = 5


def print_evaluation(
    result: EvaluationResult, report: EvaluationReport | None, worst: Sequence[dict[str, Any]]
) -> None:
    """Print the metrics of one evaluation and, where the store is at hand, its report."""
    if result.reused:
        say("It was evaluated so before; nothing was computed.")
    put(_metrics_table(result))
    if report is not None:
        _print_report(result, report)
    for number, error in enumerate(worst[:SHOWN_WORST]):
        if number == 0:
            put(f"worst errors, {min(len(worst), SHOWN_WORST)} of {result.errors or len(worst)}:")
        text = error["text"] if "text_pair" not in error else f"{error['text']} | {error['text_pair']}"
        mistaken = f"{_shown(error['truth'])} taken for {_shown(error['predicted'])}"
        put(f"  {mistaken}, loss {error['loss']:.3f}: {text}")
    for notice in result.notices:
        put(f"note: {notice}", style="yellow")
    put(
        f"{result.run} on {result.data} {result.split}: {result.rows:,} rows, "
        f"evaluation {result.evaluation[:12]}"
    )


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return (", ".join(value) or "-") if isinstance(value, list) else str(value)


def _metrics_table(result: EvaluationResult) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column(f"{result.confidence:.0%} interval")
    for name, value in result.metrics.items():
        table.add_row(name, f"{value:.4f}", _interval(result.intervals[name]))
    if result.calibration_error is not None:
        table.add_row("calibration error", f"{result.calibration_error:.4f}", "")
    return table


def _print_report(result: EvaluationResult, report: EvaluationReport) -> None:
    if report.per_class:
        put(_classes_table(report))
    for column in dict.fromkeys(one.column for one in report.slices):
        slices = [one for one in report.slices if one.column == column]
        put(_slices_table(column, slices[:SHOWN_SLICES], result.metric))


def _classes_table(report: EvaluationReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("label")
    for column in ("precision", "recall", "f1", "support"):
        table.add_column(column, justify="right")
    predicted_as = report.confusion is not None and len(report.labels) <= 10
    for label in report.labels if predicted_as else []:
        table.add_column(f"as {label}", justify="right")
    for number, one in enumerate(report.per_class[:SHOWN_CLASSES]):
        counts = report.confusion[number] if report.confusion is not None and predicted_as else []
        scores = (f"{one.precision:.4f}", f"{one.recall:.4f}", f"{one.f1:.4f}", str(one.support))
        table.add_row(one.label, *scores, *map(str, counts))
    return table


def _slices_table(column: str, slices: Sequence[SliceScores], metric: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(column, overflow="fold")
    table.add_column("rows", justify="right")
    table.add_column(metric, justify="right")
    table.add_column("interval")
    for one in slices:
        value = one.value or "(none)"
        table.add_row(value, str(one.rows), f"{one.metrics[metric]:.4f}", _interval(one.intervals[metric]))
    return table


def _interval(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def evaluations_table(runs: Iterable[RunView]) -> Table | None:
    """Return the table of the evaluations of an experiment that have ended, None if there are none."""
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("run", "evaluation set", "rows", "metric", "value", "interval", "calibration", "id"):
        table.add_column(column, justify="right" if column in {"rows", "value", "calibration"} else "left")
    for run in runs:
        for one in run.evaluations:
            if one.result is None:
                table.add_row(run.run, one.name, "", one.status, "", one.error.message if one.error else "")
                continue
            result = one.result
            table.add_row(
                run.run, f"{one.name}: {result.data} {result.split}", str(result.rows), result.metric,
                f"{result.metrics[result.metric]:.4f}", _interval(result.intervals[result.metric]),
                "" if result.calibration_error is None else f"{result.calibration_error:.4f}",
                result.evaluation[:12],
            )  # fmt: skip
    return table if table.row_count else None
