"""Predict with a trained model: a few texts, or a file of any size.

Shape letters: B examples of a batch, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.card import ModelFacts
from durabert.bert.device import Compute, Dtypes, device_errors
from durabert.bert.metrics import THRESHOLD
from durabert.bert.model import Classifier, load_classifier, require_vocabulary
from durabert.bert.quiet import quiet_libraries
from durabert.bert.scoring import Scorer
from durabert.bert.tokens import Tokens, load_tokenizer, tokenize
from durabert.bert.weights import stored_sha256
from durabert.errors import ModelInvalid, TextsInvalid
from durabert.specs import Prediction, Task


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
        compute = Compute.choose(device=device, precision=precision)
        facts = ModelFacts.read(directory)
        if stored_sha256(directory) != facts.model_sha256:
            raise ModelInvalid(
                f"the weights in {str(directory)!r} are not those that were trained: their SHA-256 differs from "
                "the one in durabert.json"
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
        """Device and precision of the predictions."""
        return self.scorer.compute

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        """Predict on texts, in their order.

        Args:
            texts: the first or only text of each example.
            pairs: the second texts, for a model that was trained on pairs.

        Raises:
            TextsInvalid: pairs are missing or too many.
        """
        self.require_columns(2 if pairs is not None else 1)
        _, logits = self.logits(texts, pairs)
        return predictions(self.facts.task, self.facts.labels, logits)

    def logits(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Tokens, NDArray[np.float32]]:
        """Return the tokens of the examples and their logits, (B, C)."""
        tokens = tokenize(
            self.tokenizer,
            texts,
            pairs,
            self.facts.max_length,
            types=self.uses_types and pairs is not None,
        )
        with device_errors(self.compute):
            return tokens, self.scorer.logits(tokens)

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
    if compute.precision != "fp32":
        # What autocast does before each product, once.
        for module in model.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(Dtypes[compute.precision])
    return Scorer(model, compute, pad_id=pad_id, max_length=facts.max_length)
