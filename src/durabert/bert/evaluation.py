"""What is said of a model's predictions on labelled rows: metrics, intervals, report, worst errors.

Shape letters: N rows, C classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from durabert.bert.bootstrap import Interval, percentile_interval, sampled_scores
from durabert.bert.calibration import calibration_of
from durabert.bert.evaluation_data import EvaluationRows
from durabert.bert.loss import label_array
from durabert.bert.metrics import evaluate as metrics_of
from durabert.bert.predict import probabilities
from durabert.bert.weighted_metrics import Judged, WeightedMetrics, judge
from durabert.specs import ClassScores, EvaluationOptions, EvaluationReport, SliceScores, Task

MAX_SLICES: Final = 50
"""Values of one column that are told apart, the most frequent ones."""


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation has found."""

    judged: Judged
    probabilities: NDArray[np.float64] | None
    """(N, C), of each label; none for a regression."""
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    report: EvaluationReport
    worst: list[int]
    """Rows that are wrong, the largest loss first."""
    notices: list[str]


def evaluate_rows(
    task: Task,
    labels: Sequence[str],
    logits_NC: NDArray[np.float32],
    rows: EvaluationRows,
    metrics: Sequence[str],
    options: EvaluationOptions,
    *,
    on_sample: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Measure the predictions of a model on labelled rows.

    Args:
        task: what was learned.
        labels: label names by class number.
        logits_NC: raw outputs of the model.
        rows: the rows that it was asked about.
        metrics: names of those to compute.
        options: how to measure.
        on_sample: called after each sample of the bootstrap; may raise.
    """
    truth = label_array(task, rows.labels)
    judged = judge(task, logits_NC, truth, labels)
    whole = metrics_of(task, logits_NC, truth, labels)
    scores = None if task == "regression" else probabilities(task, logits_NC)
    calibration = (
        None if scores is None else calibration_of(task, scores, judged.truth, num_bins=options.bins)
    )
    slices, notices = _slices(judged, rows, metrics, options, on_sample)
    report = EvaluationReport(
        labels=list(labels),
        per_class=[
            ClassScores(
                label=label, precision=one["precision"], recall=one["recall"], f1=one["f1"],
                support=int(one["rows"]),
            )
            for label, one in whole.per_class.items()
        ],
        confusion=whole.confusion,
        calibration_error=None if calibration is None else calibration.error,
        reliability=[] if calibration is None else calibration.bins,
        slices=slices,
    )  # fmt: skip
    return Evaluation(
        judged=judged,
        probabilities=scores,
        metrics={name: whole.values[name] for name in metrics},
        intervals=_intervals(judged, metrics, options, on_sample),
        report=report,
        worst=worst_errors(judged, options.worst),
        notices=notices,
    )


def worst_errors(judged: Judged, count: int) -> list[int]:
    """Return the rows that are wrong, the largest loss first; equal losses in the order of the rows."""
    by_loss = np.argsort(-judged.losses, kind="stable")
    return [int(row) for row in by_loss[judged.wrong()[by_loss]][:count]]


def _intervals(
    judged: Judged, metrics: Sequence[str], options: EvaluationOptions, on_sample: Callable[[], None]
) -> dict[str, Interval]:
    samples = sampled_scores(
        WeightedMetrics(judged, metrics),
        len(judged),
        num_samples=options.resamples,
        seed=options.seed,
        on_sample=on_sample,
    )
    return {name: percentile_interval(values, options.confidence) for name, values in samples.items()}


def _slices(
    judged: Judged,
    rows: EvaluationRows,
    metrics: Sequence[str],
    options: EvaluationOptions,
    on_sample: Callable[[], None],
) -> tuple[list[SliceScores], list[str]]:
    found: list[SliceScores] = []
    notices = []
    for column, values in rows.slices.items():
        counts = Counter(values)
        largest = sorted(counts, key=lambda value: (-counts[value], value))
        if len(largest) > MAX_SLICES:
            notices.append(
                f"{column!r} has {len(largest):,} values; the {MAX_SLICES} most frequent are slices"
            )
        array: NDArray[Any] = np.array(values, dtype=object)
        for value in largest[:MAX_SLICES]:
            part = judged.take(np.flatnonzero(array == value))
            found.append(
                SliceScores(
                    column=column,
                    value=value,
                    rows=len(part),
                    metrics=WeightedMetrics(part, metrics).scores(np.ones(len(part))),
                    intervals=_intervals(part, metrics, options, on_sample),
                )
            )
    return found, notices
