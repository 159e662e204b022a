"""Files of predictions: CSV, JSON lines and Parquet, written a chunk of rows at a time."""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from durabert.errors import TextsInvalid
from durabert.specs import Prediction, Task

RowId = str | int
Row = tuple[RowId, Prediction | None]
"""A row's id, and its prediction if it has a text."""

SCORE: Final = "score_"
"""Prefix of the columns with the probability of each label."""
SEPARATOR: Final = "|"
"""Between the labels of a row in CSV."""


class PredictionFile(ABC):
    """A file that takes predictions; closed by leaving its ``with`` block.

    Args:
        path: the file to write.
        task: of the model.
        labels: label names by class number.
        row_id: name of the column that identifies rows.
    """

    def __init__(self, path: Path, *, task: Task, labels: Sequence[str], row_id: str) -> None:
        self.path = path
        self.task = task
        self.labels = labels
        self.columns = _columns(task, labels)
        self.row_id = row_id if row_id not in self.columns else "row_id"

    @abstractmethod
    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""

    @abstractmethod
    def close(self) -> None:
        """Finish the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CsvPredictions(PredictionFile):
    """Comma-separated, with a header; cells of rows without a text are empty."""

    def __init__(self, path: Path, *, task: Task, labels: Sequence[str], row_id: str) -> None:
        super().__init__(path, task=task, labels=labels, row_id=row_id)
        self._file = path.open("w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow([self.row_id, *self.columns])

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        for row_id, prediction in rows:
            cells = _cells(self.task, self.labels, prediction)
            self._writer.writerow([row_id, *map(_text, cells)])

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class JsonLinesPredictions(PredictionFile):
    """One object a line; fields of rows without a text are null."""

    def __init__(self, path: Path, *, task: Task, labels: Sequence[str], row_id: str) -> None:
        super().__init__(path, task=task, labels=labels, row_id=row_id)
        self._file = path.open("w", encoding="utf-8", newline="")

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows."""
        fields = _fields(self.task)
        for row_id, prediction in rows:
            values = {field: getattr(prediction, field, None) for field in fields}
            self._file.write(f"{json.dumps({self.row_id: row_id, **values}, ensure_ascii=False)}\n")

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


class ParquetPredictions(PredictionFile):
    """Typed columns; cells of rows without a text are null."""

    def __init__(self, path: Path, *, task: Task, labels: Sequence[str], row_id: str) -> None:
        super().__init__(path, task=task, labels=labels, row_id=row_id)
        self._writer: Any = None

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; the first of them decide whether row ids are numbers.

        Raises:
            TextsInvalid: the ids were numbers and are none any more.
        """
        import pyarrow as pa

        if self._writer is None:
            self._writer = self._opened(numbered=self._numbered(rows))
        schema = self._writer.schema
        numbered = pa.types.is_integer(schema.field(0).type)
        ids = [row_id if numbered else str(row_id) for row_id, _ in rows]
        cells = [_cells(self.task, self.labels, prediction) for _, prediction in rows]
        columns = [ids, *map(list, zip(*cells, strict=True))]
        try:
            self._writer.write_table(pa.table(columns, schema=schema))
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise TextsInvalid(
                f"column {self.row_id!r} mixes numbers and words; write to .csv or .jsonl instead of .parquet"
            ) from error

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, *, numbered: bool) -> Any:
        from pyarrow import parquet

        return parquet.ParquetWriter(self.path, self._schema(numbered=numbered), compression="zstd")

    def _numbered(self, rows: Sequence[Row]) -> bool:
        return all(isinstance(row_id, int) and abs(row_id) < 2**63 for row_id, _ in rows)

    def _schema(self, *, numbered: bool) -> Any:
        import pyarrow as pa

        types = {"label": pa.string(), "labels": pa.list_(pa.string())}
        fields = [(name, types.get(name, pa.float64())) for name in self.columns]
        return pa.schema([(self.row_id, pa.int64() if numbered else pa.string()), *fields])


WRITERS: Final[dict[str, type[PredictionFile]]] = {
    ".csv": CsvPredictions,
    ".jsonl": JsonLinesPredictions,
    ".parquet": ParquetPredictions,
}


def prediction_file(output: Path) -> type[PredictionFile]:
    """Return what writes a file of that suffix.

    Raises:
        TextsInvalid: nothing does, or the file cannot be made there.
    """
    writer = WRITERS.get(output.suffix.lower())
    if writer is None:
        raise TextsInvalid(f"output {str(output)!r} should end with {', '.join(WRITERS)}")
    if not output.parent.is_dir():
        raise TextsInvalid(f"output directory {str(output.parent)!r} does not exist")
    if output.is_dir():
        raise TextsInvalid(f"output {str(output)!r} is a directory")
    return writer


def _columns(task: Task, labels: Sequence[str]) -> list[str]:
    if task == "regression":
        return ["value"]
    scores = [f"{SCORE}{label}" for label in labels]
    return ["labels", *scores] if task == "multilabel" else ["label", "confidence", *scores]


def _fields(task: Task) -> tuple[str, ...]:
    if task == "regression":
        return ("value",)
    return ("labels", "scores") if task == "multilabel" else ("label", "confidence", "scores")


def _cells(task: Task, labels: Sequence[str], prediction: Prediction | None) -> list[Any]:
    if prediction is None:
        return [None] * len(_columns(task, labels))
    if task == "regression":
        return [prediction.value]
    scores = [prediction.scores[label] for label in labels]
    if task == "multilabel":
        return [prediction.labels, *scores]
    return [prediction.label, prediction.confidence, *scores]


def _text(cell: Any) -> str:
    match cell:
        case None:
            return ""
        case float():
            return f"{cell:.6g}"
        case list():
            return SEPARATOR.join(cell)
        case _:
            return str(cell)
