"""Predictions: what to ask for and what comes back."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from durabert.specs.base import Device, RunName, Wire
from durabert.specs.data import TextsSpec
from durabert.specs.export import EngineName
from durabert.specs.shards import OUTPUT_SUFFIXES, RowRange, is_directory

MAX_INLINE_TEXTS = 1000
"""More texts than this belong in a file: history is no place for data."""
MAX_INLINE_BYTES = 256 * 1024
"""Largest size of all inline texts together."""


class InferenceRequest(Wire):
    """The argument of ``BertInferenceWorkflow`` and of the activity ``run_bert_inference``."""

    run: RunName
    """The run whose model predicts."""
    texts: tuple[str | tuple[str, str], ...] = ()
    """A few texts, or pairs of texts for a pair task, inline."""
    input: TextsSpec | None = None
    """A file of texts instead, of any size."""
    output: str | None = None
    """File for the predictions: ``.csv``, ``.jsonl`` or ``.parquet``; needed with ``input``."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; ``auto`` is bf16 where the hardware has it, else fp32."""
    device: Device = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""
    engine: EngineName = "torch"
    """What computes: ``torch``, or onnxruntime with the model exported to ``onnx`` or ``onnx-int8``."""
    shard: RowRange | None = None
    """Rows of a batch to predict on, into the directory ``output``; none: all, into a file."""

    @model_validator(mode="after")
    def _engine_fits(self) -> Self:
        if self.engine == "torch":
            return self
        if self.shard is not None:
            raise ValueError(f"engine is {self.engine!r}, but should be torch for the shards of a batch")
        if self.device not in {"auto", "cpu"}:
            raise ValueError(
                f"device is {self.device!r}, but should be auto or cpu for the engine {self.engine!r}"
            )
        if self.precision not in {"auto", "fp32"}:
            raise ValueError(
                f"precision is {self.precision!r}, but should be auto for the engine {self.engine!r}, which "
                "computes as the model was exported"
            )
        return self

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.input is None:
            self._check_inline()
        elif self.texts:
            raise ValueError("give texts or an input file, not both")
        elif self.output is None:
            raise ValueError("predictions of an input file need an output file, such as predictions.csv")
        elif self.shard is not None:
            if not is_directory(self.output):
                raise ValueError(f"output is {self.output!r}, but shards go to a directory")
        elif not self.output.lower().endswith(OUTPUT_SUFFIXES):
            raise ValueError(
                f"output is {self.output!r}, but should end with {', '.join(OUTPUT_SUFFIXES)}, or with / for "
                "a directory"
            )
        return self

    def _check_inline(self) -> None:
        if self.shard is not None:
            raise ValueError("shard is given, but only an input has shards")
        if self.output is not None:
            raise ValueError(f"output is {self.output!r}, but only predictions of an input file go to a file")
        if not self.texts:
            raise ValueError("the list of texts is empty; give at least one text or an input file")
        if len(self.texts) > MAX_INLINE_TEXTS:
            raise ValueError(
                f"{len(self.texts)} texts are too many for one request (at most {MAX_INLINE_TEXTS}); "
                "use an input file"
            )
        parts = [part for text in self.texts for part in ([text] if isinstance(text, str) else text)]
        size = sum(_num_bytes(part) for part in parts)
        if size > MAX_INLINE_BYTES:
            raise ValueError(
                f"the texts have {size:,} bytes, too many for one request (at most {MAX_INLINE_BYTES:,}); "
                "use an input file"
            )


def _num_bytes(text: str) -> int:
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"a text is {text[:80]!r}, but should be valid Unicode") from None


class Prediction(Wire):
    """What the model says of one text."""

    label: str | None = None
    """The most probable label; none for multi-label and regression."""
    labels: list[str] | None = None
    """All labels above a probability of 0.5; multi-label only."""
    confidence: float | None = None
    """Probability of ``label``, 0 to 1; none for regression and multi-label."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Probability of every label."""
    value: float | None = None
    """The predicted number; regression only."""


class InferenceResult(Wire):
    """The result of ``BertInferenceWorkflow`` and of ``run_bert_inference``."""

    run: str
    """The run whose model predicted."""
    model_sha256: str
    """Digest of its weights."""
    rows: int
    """Number of texts."""
    predictions: list[Prediction] = Field(default_factory=list)
    """One entry an inline text, in order; empty with an input file."""
    output: str | None = None
    """The file with the predictions."""
    output_sha256: str | None = None
    """Digest of that file."""
    label_counts: dict[str, int] = Field(default_factory=dict)
    """How often each label was predicted."""
    skipped: int = 0
    """Rows without a text; they are in the output without a prediction."""
    seconds: float
    """Wall-clock seconds, loading included."""
    texts_per_second: float
    """Texts a second of the prediction alone."""
    peak_memory_mib: float
    """Largest resident memory of the process, MiB."""
    device: str
    """Where it was computed."""
    precision: Literal["fp32", "bf16", "fp16", "int8"]
    """Compute precision that was used."""
    attempts: int = 1
    """Attempts of the activity, this one included."""
    notices: list[str] = Field(default_factory=list)
    """What was found in the input and handled."""
    engine: EngineName = "torch"
    """What computed."""
