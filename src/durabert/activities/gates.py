"""The gates of a promotion: figures of finished runs held against what was asked for."""

from __future__ import annotations

import math
from typing import Final

from durabert.activities.comparison import Comparison
from durabert.specs import LOWER_IS_BETTER, FineTuneResult
from durabert.specs.registry import GateResult, PromotionRequest

NUM_ERRORS: Final = 2.0
"""Standard errors of a difference within which it counts as noise: about 95 %."""
SHARES: Final = frozenset({"accuracy", "f1_micro", "f1_macro"})
"""Metrics that are the share of rows that were right, or are treated as one."""
CORRELATIONS: Final = frozenset({"pearson", "spearman", "mcc"})


def metric_gates(request: PromotionRequest, run: FineTuneResult) -> list[GateResult]:
    """Return whether each metric is as high as it was asked to be."""
    return [
        GateResult(
            gate=f"min {metric}",
            passed=run.metrics[metric] >= least,
            detail=f"{metric} is {run.metrics[metric]:.4f} and should be at least {least:g}",
        )
        for metric, least in request.min_metrics.items()
    ]


def evaluated_gate(metric: str, compared: Comparison) -> GateResult:
    """Return whether a run is at least as good as the champion on the rows that both were evaluated on.

    Args:
        metric: by which the champion's best epoch was picked.
        compared: the champion first; who is worse on one set of rows is worse.
    """
    names = (compared.first.name, compared.second.name)
    told = [(rows, one) for rows in compared.evaluations for one in rows.metrics if one.metric == metric]
    said = [f"{one.sentence(*names)} on {rows.rows} rows of {rows.data}, {rows.split}" for rows, one in told]
    passed = all(one.verdict != "worse" for _, one in told)
    return GateResult(gate="champion", passed=passed, detail="; ".join(said))


def champion_gate(run: FineTuneResult, champion: FineTuneResult) -> GateResult:
    """Return whether a run is at least as good as the champion, but for noise, by what training recorded.

    Both have the metrics of their own validations. They count as independent samples, which is too lenient
    where the rows are the same.
    """
    passed, detail = _held_against(run, champion)
    return GateResult(gate="champion", passed=passed, detail=detail)


def _held_against(run: FineTuneResult, champion: FineTuneResult) -> tuple[bool, str]:
    metric = champion.metric
    if (run.task, run.labels) != (champion.task, champion.labels):
        return False, f"run {champion.run} has another task or other labels, so the two cannot be compared"
    if metric not in run.metrics:
        return False, f"run {run.run} has no {metric}, by which the champion, run {champion.run}, was picked"
    ours, theirs = run.metrics[metric], champion.metrics[metric]
    worse_by = ours - theirs if metric in LOWER_IS_BETTER else theirs - ours
    errors = [standard_error(metric, one.metrics[metric], one.rows.validation) for one in (run, champion)]
    noise = NUM_ERRORS * math.hypot(*errors)
    data = "the same data" if run.data_sha256 == champion.data_sha256 else "other data"
    return worse_by <= noise, (
        f"{metric} is {ours:.4f}, that of run {champion.run} {theirs:.4f}, as training recorded them on "
        f"{data}; noise is {noise:.4f}"
    )


def standard_error(metric: str, value: float, rows: int) -> float:
    """Return the standard error of a metric on so many rows; 0 where none is known.

    Source:
        A share: Agresti and Coull 1998, with two successes and two failures added, which is no zero at the
        ends. A correlation: Fisher 1921, 1 / sqrt(n - 3) of the transformed value, taken back by its slope.
    """
    if metric in SHARES:
        share = (value * rows + 2) / (rows + 4)
        return math.sqrt(share * (1 - share) / (rows + 4))
    if metric in CORRELATIONS and rows > 3:
        return (1 - value**2) / math.sqrt(rows - 3)
    return 0.0
