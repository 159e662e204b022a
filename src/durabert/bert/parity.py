"""The gate: an exported model is written only if it predicts as the trained one does in fp32.

Shape letters: N validation rows, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from durabert.bert.loss import Labels
from durabert.bert.metrics import evaluate
from durabert.errors import ExportRefused
from durabert.specs import LOWER_IS_BETTER, ParityReport, Task

LEAST_EQUAL: Final = 0.995
"""Share of the rows that must get the label of the trained model."""
TOLERANCE: Final = 0.005
"""By how much a metric may be worse: half a point of accuracy, f1, mcc or correlation, 0.005 of a loss."""


def compare(
    task: Task,
    metric: str,
    label_names: Sequence[str],
    labels: Labels,
    *,
    reference_NC: NDArray[np.float32],
    exported_NC: NDArray[np.float32],
    data_sha256: str,
) -> ParityReport:
    """Compare the logits of an exported model with those of the trained one in fp32.

    Args:
        task: what was learned.
        metric: the metric of the run.
        label_names: by class number.
        labels: the truth, see ``Labels``.
        reference_NC: of the trained model.
        exported_NC: of the exported model.
        data_sha256: digest of the data.

    Raises:
        ExportRefused: a logit of the exported model is not finite.
    """
    if not np.isfinite(exported_NC).all():
        bad = int((~np.isfinite(exported_NC)).any(axis=1).sum())
        raise ExportRefused(
            f"the exported model gives predictions that are no finite numbers for {bad:,} of "
            f"{len(labels):,} validation rows"
        )
    reference, exported = (
        evaluate(task, logits, labels, label_names).values[metric] for logits in (reference_NC, exported_NC)
    )
    return ParityReport(
        rows=len(labels),
        labels_equal=_labels_equal(task, reference_NC, exported_NC),
        metric=metric,
        reference=reference,
        exported=exported,
        tolerance=tolerance(task, metric, labels),
        largest_difference=float(np.abs(exported_NC - reference_NC).max()),
        data_sha256=data_sha256,
    )


def tolerance(task: Task, metric: str, labels: Labels) -> float:
    """Return by how much a metric may be worse.

    The errors of a regression have the unit of its values: half a point is one of the variance of the labels,
    or of their standard deviation for ``mae``.
    """
    if task != "regression" or metric not in LOWER_IS_BETTER:
        return TOLERANCE
    spread = np.std(labels.astype(np.float64))
    return float(TOLERANCE * (spread if metric == "mae" else spread**2))


def require_parity(report: ParityReport, *, what: str) -> None:
    """Refuse an export that predicts otherwise than the trained model.

    Args:
        report: the figures.
        what: the export in words.

    Raises:
        ExportRefused: too few labels are equal, or the metric is too much worse.
    """
    worse = report.exported - report.reference
    if report.metric not in LOWER_IS_BETTER:
        worse = -worse
    equal = report.labels_equal
    # A row more or less must not decide by the last bit of a quotient.
    if (equal is None or equal >= LEAST_EQUAL) and worse <= report.tolerance + 1e-12:
        return
    labels = (
        ""
        if equal is None
        else f"{equal:.2%} of {report.rows:,} validation rows get the label of the trained model in fp32 (at "
        f"least {LEAST_EQUAL:.1%} are needed), and "
    )
    raise ExportRefused(
        f"{what} is refused: {labels}its {report.metric} is {report.exported:.4f} against "
        f"{report.reference:.4f} (at most {report.tolerance:.4g} worse is allowed); nothing was written"
    )


def _labels_equal(
    task: Task, reference_NC: NDArray[np.float32], exported_NC: NDArray[np.float32]
) -> float | None:
    if task == "regression":
        return None
    if task == "multilabel":
        # As in ``metrics``: a probability above one half is a logit above 0.
        return float(((reference_NC > 0) == (exported_NC > 0)).all(axis=1).mean())
    return float((reference_NC.argmax(axis=1) == exported_NC.argmax(axis=1)).mean())
