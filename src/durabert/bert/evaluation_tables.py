"""The tables of an evaluation, as Parquet: the prediction of each row, and the worst errors with texts."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from durabert.bert.outputs import SCORE
from durabert.bert.weighted_metrics import Judged
from durabert.errors import ArtifactDamaged
from durabert.specs import Task

if TYPE_CHECKING:
    # Who reads tables needs no torch.
    from durabert.bert.evaluation import Evaluation
    from durabert.bert.evaluation_data import EvaluationRows

ROW = "row"
TRUTH = "truth"
PREDICTED = "predicted"
LOSS = "loss"


def prediction_table(evaluation: Evaluation, rows: EvaluationRows) -> bytes:
    """Return for each row its position in the split, truth, prediction, loss and scores."""
    return _written(_columns(evaluation, rows, list(range(len(rows)))))


def worst_table(evaluation: Evaluation, rows: EvaluationRows) -> bytes:
    """Return the worst errors, the largest loss first, with their texts."""
    columns = _columns(evaluation, rows, evaluation.worst)
    columns["text"] = pa.array([rows.texts[row] for row in evaluation.worst], pa.string())
    if rows.pairs is not None:
        columns["text_pair"] = pa.array([rows.pairs[row] for row in evaluation.worst], pa.string())
    return _written(columns)


def _columns(evaluation: Evaluation, rows: EvaluationRows, chosen: Sequence[int]) -> dict[str, Any]:
    judged, index = evaluation.judged, np.array(chosen, np.int64)
    columns = {
        ROW: pa.array(np.array(rows.rows, np.int64)[index]),
        TRUTH: _named(judged, judged.truth[index]),
        PREDICTED: _named(judged, judged.predicted[index]),
        LOSS: pa.array(judged.losses[index]),
    }
    if evaluation.probabilities is not None:
        for number, label in enumerate(judged.labels):
            columns[f"{SCORE}{label}"] = pa.array(evaluation.probabilities[index, number])
    return columns


def _named(judged: Judged, values: NDArray[Any]) -> Any:
    if judged.task == "regression":
        return pa.array(values)
    if judged.task == "multilabel":
        names = [[judged.labels[number] for number in np.flatnonzero(row)] for row in values]
        return pa.array(names, pa.list_(pa.string()))
    return pa.array([judged.labels[number] for number in values], pa.string())


def _written(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, compression="zstd")
    return file.getvalue()


def read_predictions(data: bytes, task: Task, labels: Sequence[str]) -> tuple[NDArray[np.int64], Judged]:
    """Return the positions of the rows, and what was predicted beside what is true.

    Raises:
        ArtifactDamaged: it is no table of predictions.
    """
    try:
        table = pq.read_table(io.BytesIO(data), columns=[ROW, TRUTH, PREDICTED, LOSS])
        numbers = {label: number for number, label in enumerate(labels)}
        truth, predicted = (_numbered(table.column(name), task, numbers) for name in (TRUTH, PREDICTED))
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ArtifactDamaged(f"the predictions of an evaluation cannot be read: {error!s:.120}") from None
    judged = Judged(task, tuple(labels), truth, predicted, table.column(LOSS).to_numpy())
    return table.column(ROW).to_numpy(), judged


def read_worst(data: bytes) -> list[dict[str, Any]]:
    """Return the worst errors, one object each.

    Raises:
        ArtifactDamaged: it is no table of them.
    """
    try:
        rows: list[dict[str, Any]] = pq.read_table(io.BytesIO(data)).to_pylist()
    except pa.ArrowException as error:
        raise ArtifactDamaged(f"the worst errors of an evaluation cannot be read: {error!s:.120}") from None
    return rows


def _numbered(column: Any, task: Task, numbers: dict[str, int]) -> NDArray[Any]:
    if task == "regression":
        return np.asarray(column.to_numpy(), np.float64)
    if task != "multilabel":
        return np.array([numbers[label] for label in column.to_pylist()], np.int64)
    hot = np.zeros((len(column), len(numbers)), np.int64)
    for row, names in enumerate(column.to_pylist()):
        hot[row, [numbers[name] for name in names]] = 1
    return hot
