"""Predict with a trained model: a few texts, or a file of any size.

Shape letters: B examples of a batch, C classes.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from durabert.bert.allocator import keep_freed_memory
from durabert.bert.atomic import appearing
from durabert.bert.batches import PaddedLayout
from durabert.bert.card import FACTS, ModelFacts
from durabert.bert.data import TextRow, TextSource, read_texts
from durabert.bert.device import Compute, device_errors, process_peak_memory_mib
from durabert.bert.forward import Forward
from durabert.bert.layout import choose_layout
from durabert.bert.metrics import THRESHOLD
from durabert.bert.model import Classifier, load_classifier, require_vocabulary
from durabert.bert.outputs import PredictionFile, prediction_file
from durabert.bert.progress import Reporter
from durabert.bert.quiet import quiet_libraries
from durabert.bert.records import RecordSource
from durabert.bert.scoring import Scorer
from durabert.bert.tokens import Tokens, load_tokenizer, tokenize, truncation_notice
from durabert.bert.weights import stored_sha256
from durabert.errors import ModelInvalid, TextsInvalid
from durabert.specs import Prediction, Progress, Task, TextsSpec

CHUNK_ROWS: Final = 4096
"""Rows in memory at a time: enough for batches of nearly equal length."""


@dataclass(frozen=True)
class Predictor:
    """A trained model, ready to predict."""

    facts: ModelFacts
    tokenizer: Any
    scorer: Scorer
    uses_types: bool

    @classmethod
    def load(cls, directory: Path, *, precision: str = "auto", device: str = "auto") -> Predictor:
        """Load a model directory that ``fine_tune`` wrote.

        Raises:
            DeviceMissing: this machine has no such device.
            ModelInvalid: the directory is not whole, or its weights are not those that were trained.
            SpecInvalid: the device cannot compute in that precision.
        """
        keep_freed_memory()
        compute = Compute.choose(device=device, precision=precision)
        facts = ModelFacts.read(directory)
        if stored_sha256(directory) != facts.model_sha256:
            raise ModelInvalid(
                f"the weights in {str(directory)!r} are not those that were trained: "
                f"their SHA-256 differs from the one in {FACTS}"
            )
        with quiet_libraries(), device_errors(compute):
            tokenizer = load_tokenizer(directory)
            classifier = load_classifier(
                directory, task=facts.task, labels=facts.labels, max_length=facts.max_length, seed=0
            )
            require_vocabulary(tokenizer, classifier.model)
            scorer = _scorer(classifier, compute, facts, pad_id=tokenizer.pad_token_id)
        return cls(facts, tokenizer, scorer, classifier.uses_types)

    @property
    def compute(self) -> Compute:
        """The device of the predictions, and the precision that its errors are told with."""
        return self.scorer.engine.compute

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Predict on texts, in their order.

        Args:
            texts: the first or only text of each example.
            pairs: the second texts, for a model that was trained on pairs.

        Raises:
            TextsInvalid: pairs are missing or too many.
        """
        self.require_columns(2 if pairs is not None else 1)
        if pairs is not None and len(pairs) != len(texts):
            raise TextsInvalid(f"{len(texts)} texts and {len(pairs)} second texts do not make pairs")
        _, logits = self.logits(texts, pairs)
        return predictions(self.facts.task, self.facts.labels, logits)

    def logits(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None,
        *,
        on_batch: Callable[[], None] = lambda: None,
    ) -> tuple[Tokens, NDArray[np.float32]]:
        """Return the tokens of the examples and their logits, (B, C)."""
        tokens = tokenize(
            self.tokenizer,
            texts,
            pairs,
            self.facts.max_length,
            types=self.uses_types,
        )
        with device_errors(self.compute):
            return tokens, self.scorer.logits(tokens, on_batch=on_batch)

    def usage(self) -> dict[str, Any]:
        """Return what the predictions ran on: the fields of ``InferenceResult`` of that name."""
        return {
            "peak_memory_mib": process_peak_memory_mib(),
            "device": self.compute.describe(),
            "precision": self.scorer.engine.precision,
            "engine": self.scorer.engine.name,
        }

    def require_columns(self, given: int) -> None:
        """Refuse single texts where pairs were learned, and the other way round.

        Raises:
            TextsInvalid: they do not fit.
        """
        expected = len(self.facts.text_columns)
        if given != expected:
            learned, got = (("pairs of texts", "single texts"), ("single texts", "pairs"))[expected == 1]
            raise TextsInvalid(
                f"the model was trained on {learned} ({', '.join(self.facts.text_columns)}), but got {got}"
            )


@dataclass(frozen=True)
class FilePredictions:
    """What predicting on a file gave."""

    rows: int
    skipped: int
    """Rows without a text."""
    label_counts: dict[str, int]
    sha256: str
    """Digest of the output file."""
    seconds: float
    notices: tuple[str, ...]


def predict_file(
    predictor: Predictor,
    spec: TextsSpec,
    output: Path,
    *,
    columns: Sequence[str],
    report: Callable[[Progress], None],
    should_stop: Callable[[], bool],
    source: RecordSource | None = None,
) -> FilePredictions:
    """Predict on each row of a file, and write the predictions in the order of the rows.

    The file is read twice, so that a broken row at its end is found before the work and not after it.
    Memory does not depend on the number of rows.

    Args:
        predictor: the model.
        spec: the file to read.
        output: ``.csv``, ``.jsonl`` or ``.parquet`` file, written whole or not at all; replaced if it exists.
        columns: text columns that the model was trained on.
        report: gets the progress.
        should_stop: asked between batches.
        source: rows of a snapshot in place of the file.

    Raises:
        Stopped: ``should_stop`` said so; nothing is written.
        UserError: the input cannot be read or the output not be written; nothing is written.
        StoreUnavailable: the disk is full; nothing is written.
    """
    began = time.perf_counter()
    reporter = Reporter(report, should_stop)
    writer = prediction_file(output)
    if source is None and output.exists() and output.samefile(Path(spec.path).expanduser()):
        raise TextsInvalid(f"output {str(output)!r} is the input file, which would be lost")
    reporter.phase("loading data")
    texts = read_texts(spec, columns=columns, source=source)
    predictor.require_columns(len(texts.text_columns))
    num_rows = _count(texts, reporter)
    if num_rows == 0:
        raise TextsInvalid(f"{spec.path!r} has no rows to predict on")
    job = _FileJob(predictor, texts, reporter, num_rows)
    facts = predictor.facts
    with appearing(output) as partial:
        with writer(partial, task=facts.task, labels=facts.labels, row_id=texts.row_id_column) as file:
            job.run(file)
        sha256 = _file_sha256(partial)
    return FilePredictions(
        rows=num_rows,
        skipped=job.skipped,
        label_counts=job.label_counts,
        sha256=sha256,
        seconds=time.perf_counter() - began,
        notices=(*texts.notices, *job.notices()),
    )


class _FileJob:
    def __init__(self, predictor: Predictor, source: TextSource, reporter: Reporter, num_rows: int) -> None:
        self.predictor = predictor
        self.source = source
        self.reporter = reporter
        self.num_rows = num_rows
        self.done = self.skipped = self.num_truncated = 0
        self.label_counts = dict.fromkeys(
            () if predictor.facts.task == "regression" else predictor.facts.labels, 0
        )

    def run(self, file: PredictionFile) -> None:
        began = time.perf_counter()
        self.reporter.phase("predicting", steps=self.num_rows)
        for rows in _chunks(self.source, CHUNK_ROWS):
            whole = [row for row in rows if _has_text(row, self.source)]
            predicted = iter(self._predict(whole))
            file.write(
                [(row.row_id, next(predicted) if _has_text(row, self.source) else None) for row in rows]
            )
            self.done += len(rows)
            self.skipped += len(rows) - len(whole)
            seconds = time.perf_counter() - began
            self.reporter.tick(
                step=self.done,
                examples_per_second=self.done / seconds,
                eta_seconds=seconds / self.done * max(0, self.num_rows - self.done),
            )
        self.reporter.tick(at_once=True)

    def _predict(self, rows: list[TextRow]) -> list[Prediction]:
        facts = self.predictor.facts
        texts = [row.text or "" for row in rows]
        pairs = [row.pair or "" for row in rows] if len(self.source.text_columns) == 2 else None
        tokens, logits = self.predictor.logits(texts, pairs, on_batch=self.reporter.tick)
        found = predictions(facts.task, facts.labels, logits)
        for prediction in found:
            for label in prediction.labels or ([prediction.label] if prediction.label is not None else ()):
                self.label_counts[label] += 1
        self.num_truncated += tokens.num_truncated
        return found

    def notices(self) -> list[str]:
        return truncation_notice(
            "input",
            num_truncated=self.num_truncated,
            num_texts=self.num_rows,
            max_length=self.predictor.facts.max_length,
        )


def predictions(task: Task, labels: Sequence[str], logits_BC: NDArray[np.float32]) -> list[Prediction]:
    """Turn logits into what a user reads."""
    if task == "regression":
        return [Prediction(value=value) for value in logits_BC[:, 0].tolist()]
    rows = probabilities(task, logits_BC).tolist()
    if task == "multilabel":
        return [
            Prediction(
                labels=[label for label, score in zip(labels, row, strict=True) if score > THRESHOLD],
                scores=dict(zip(labels, row, strict=True)),
            )
            for row in rows
        ]
    return [_most_probable(labels, row) for row in rows]


def probabilities(task: Task, logits_BC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the probability of each label, (B, C)."""
    from scipy.special import expit, softmax

    logits = logits_BC.astype(np.float64)
    return expit(logits) if task == "multilabel" else softmax(logits, axis=1)


def _most_probable(labels: Sequence[str], row: list[float]) -> Prediction:
    confidence = max(row)
    return Prediction(
        label=labels[row.index(confidence)],
        confidence=confidence,
        scores=dict(zip(labels, row, strict=True)),
    )


def _scorer(classifier: Classifier, compute: Compute, facts: ModelFacts, *, pad_id: int) -> Scorer:
    model = classifier.model.to(compute.device).requires_grad_(requires_grad=False)
    padded = PaddedLayout(pad_id, facts.max_length, compute.device)
    layout, _ = choose_layout(model, padded, compute, first_position=classifier.first_position)
    return Scorer(Forward.of(model, compute), layout)


def _count(source: TextSource, reporter: Reporter) -> int:
    count = 0
    for count, _ in enumerate(source, start=1):
        if count % CHUNK_ROWS == 0:
            reporter.tick()
    return count


def _chunks(source: TextSource, size: int) -> Iterator[list[TextRow]]:
    rows = iter(source)
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


def _has_text(row: TextRow, source: TextSource) -> bool:
    return row.text is not None and (row.pair is not None or len(source.text_columns) == 1)


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
