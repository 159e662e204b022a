"""Exports: a trained model in a form that other tools and other engines load."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from durabert.specs.base import RunName, Wire
from durabert.specs.data import DataSpec

ExportFormat = Literal["hf", "onnx", "onnx-int8"]
OnnxFormat = Literal["onnx", "onnx-int8"]
EngineName = Literal["torch"] | OnnxFormat


class ExportRequest(Wire):
    """The argument of ``BertExportWorkflow`` and of the activity ``export_bert``."""

    run: RunName
    """The run whose model is exported."""
    format: ExportFormat
    """``hf``: the Hugging Face directory; ``onnx``: fp32 weights; ``onnx-int8``: weights of 8 bits."""
    output: str = Field(min_length=1)
    """Directory to write; new, empty, or one that holds this export already."""
    data: DataSpec | None = None
    """What the run was trained on, for a run that has no snapshot; needed for ONNX alone."""


class ParityReport(Wire):
    """An exported model beside the trained one in fp32, both on the validation rows."""

    rows: int
    """Number of validation rows."""
    labels_equal: float | None
    """Share of rows with the same label or labels, 0 to 1; none for regression."""
    metric: str
    """The validation metric that picked the best epoch of the run."""
    reference: float
    """That metric of the trained model, computed by torch in fp32."""
    exported: float
    """That metric of the exported model."""
    tolerance: float
    """By how much it may be worse."""
    largest_difference: float
    """Largest absolute difference of a logit."""
    data_sha256: str
    """Digest of the data that the rows are of."""


class ExportResult(Wire):
    """The result of ``BertExportWorkflow`` and of ``export_bert``."""

    run: str
    """The run whose model was exported."""
    format: ExportFormat
    """In which form."""
    output: str
    """The directory."""
    model_sha256: str
    """Digest of the trained weights, as in the result of the run."""
    onnx_sha256: str | None = None
    """Digest of the file ``model.onnx``; none for ``hf``."""
    size: int
    """Bytes of all files."""
    already_there: bool = False
    """The directory held this export before, and nothing was written."""
    parity: ParityReport | None = None
    """How the exported model compares; none for ``hf``, which has the same weights."""
    seconds: float
    """Wall-clock seconds."""
    attempts: int = 1
    """Attempts of the activity, this one included."""
    notices: list[str] = Field(default_factory=list)
    """What was found and handled."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of the libraries that it was made with."""
