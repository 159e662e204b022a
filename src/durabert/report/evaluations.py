"""Evaluations in a report: metrics with intervals, confusion matrix, reliability, slices, worst errors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from durabert.report.curves import rounded
from durabert.report.facts import Cell, best_first, number

if TYPE_CHECKING:
    from durabert.activities.run_record import EvaluationRecord
    from durabert.client.recorded import RecordedExperiment

SHOWN: Final = 12
"""Evaluations whose details are shown, those of the best runs; the table has all."""
LINES: Final = 6
"""Evaluations in the reliability diagram."""
LARGEST_MATRIX: Final = 25
"""Labels; a larger matrix is shown by its most frequent confusions."""
CONFUSIONS: Final = 25
LONGEST: Final = 600
"""Characters of a text that are shown."""
SORTED_BY: Final = 40
"""Characters of a text that it is sorted by."""


def evaluation_head(experiment: RecordedExperiment) -> list[str]:
    """Return the columns of the table of evaluations."""
    return ["run", "data", "split", "rows", *_metrics(experiment), "calibration error", "wrong rows"]


def evaluation_rows(experiment: RecordedExperiment) -> list[list[Cell]]:
    """Return the rows of that table."""
    metrics = _metrics(experiment)
    return [_row(one, metrics) for run in experiment.runs for one in run.record.evaluations]


def evaluation_details(experiment: RecordedExperiment, metric: str | None) -> list[dict[str, Any]]:
    """Return what is shown of the evaluations of the best runs, one by one."""
    ranked = [experiment.runs[number] for number in best_first(experiment, metric)]
    chosen = [one for run in ranked for one in run.record.evaluations][:SHOWN]
    return [_details(one) for one in chosen]


def reliability(experiment: RecordedExperiment, ranked: Sequence[int]) -> list[dict[str, Any]]:
    """Return the bins of the reliability diagram, those of the best runs."""
    chosen = [one for number in ranked for one in experiment.runs[number].record.evaluations][:LINES]
    return [
        {
            "of": _title(one),
            "confidence": rounded(part.confidence),
            "accuracy": rounded(part.accuracy),
            "rows": part.rows,
        }
        for one in chosen
        for part in one.report.reliability
        if part.rows and part.confidence is not None and part.accuracy is not None
    ]


def _metrics(experiment: RecordedExperiment) -> list[str]:
    found = (name for run in experiment.runs for one in run.record.evaluations for name in one.result.metrics)
    return list(dict.fromkeys(found))


def _row(one: EvaluationRecord, metrics: Sequence[str]) -> list[Cell]:
    told = one.result
    return [
        Cell(told.run, told.run),
        Cell(told.data, told.data),
        Cell(told.split, told.split),
        number(told.rows, 0),
        *(_with_interval(told.metrics, told.intervals, name) for name in metrics),
        number(told.calibration_error, 4),
        number(told.errors, 0),
    ]


def _with_interval(
    metrics: Mapping[str, float], intervals: Mapping[str, tuple[float, float]], name: str
) -> Cell:
    if name not in metrics:
        return Cell("")
    text = f"{metrics[name]:.4f}"
    if name in intervals:
        low, high = intervals[name]
        text += f" ({low:.3f} to {high:.3f})"
    return Cell(text, metrics[name])


def _title(one: EvaluationRecord) -> str:
    return f"{one.result.run} on {one.result.data} {one.result.split}"


def _details(one: EvaluationRecord) -> dict[str, Any]:
    report = one.report
    small = report.confusion is not None and len(report.labels) <= LARGEST_MATRIX
    return {
        "title": _title(one),
        "labels": report.labels,
        "confusion": list(_matrix(one)) if small else [],
        "tables": [table for table in _tables(one, small=small) if table["rows"]],
    }


def _matrix(one: EvaluationRecord) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    for label, counts in zip(one.report.labels, one.report.confusion or [], strict=True):
        total = sum(counts) or 1
        yield label, [(count, round(100 * count / total)) for count in counts]


def _tables(one: EvaluationRecord, *, small: bool) -> Iterator[dict[str, Any]]:
    report = one.report
    if report.confusion is not None and not small:
        rows = [
            [Cell(truth, truth), Cell(predicted, predicted), number(count, 0)]
            for count, truth, predicted in _confusions(report.labels, report.confusion)
        ]
        yield _table("Most frequent confusions", ["true label", "predicted label", "rows"], rows)
    rows = [
        [
            Cell(scores.label, scores.label),
            *(number(value, 4) for value in (scores.precision, scores.recall, scores.f1)),
            number(scores.support, 0),
        ]
        for scores in report.per_class
    ]
    yield _table("Labels", ["label", "precision", "recall", "F1", "rows"], rows)
    names = list(dict.fromkeys(name for part in report.slices for name in part.metrics))
    rows = [
        [Cell(part.column, part.column), Cell(part.value, part.value), number(part.rows, 0)]
        + [_with_interval(part.metrics, part.intervals, name) for name in names]
        for part in report.slices
    ]
    yield _table("Slices", ["column", "value", "rows", *names], rows)
    yield _table("Worst errors", *_worst(one.worst))


def _confusions(labels: Sequence[str], matrix: Sequence[Sequence[int]]) -> list[tuple[int, str, str]]:
    found = [
        (count, labels[row], labels[column])
        for row, counts in enumerate(matrix)
        for column, count in enumerate(counts)
        if row != column and count
    ]
    return sorted(found, key=lambda one: -one[0])[:CONFUSIONS]


def _worst(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Cell]]]:
    pairs = any("text_pair" in row for row in rows)
    head = ["row", "true", "predicted", "loss", "text", *(["second text"] if pairs else [])]
    cells = [
        [
            number(row["row"], 0),
            _label(row["truth"]),
            _label(row["predicted"]),
            number(row["loss"], 3),
            *(
                Cell(str(row[name])[:LONGEST], str(row[name])[:SORTED_BY])
                for name in ("text", *(["text_pair"] if pairs else []))
            ),
        ]
        for row in rows
    ]
    return head, cells


def _label(value: Any) -> Cell:
    if isinstance(value, float):
        return number(value, 4)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return Cell(text or "none", text)


def _table(title: str, head: Sequence[str], rows: list[list[Cell]]) -> dict[str, Any]:
    return {"title": title, "head": head, "rows": rows}
