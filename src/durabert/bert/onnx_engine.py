"""onnxruntime as what computes the logits of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from durabert.bert.batches import Batch
from durabert.bert.device import Compute
from durabert.bert.onnx_export import INPUT_IDS, LOGITS, TOKEN_TYPES, require_onnx
from durabert.errors import ModelInvalid
from durabert.specs import EngineName

TOKEN_BUDGET: Final = 2048
"""Tokens in a batch; what onnxruntime holds of it should stay near the processor."""
_ERRORS_ALONE: Final = 3
"""Severity from which on onnxruntime writes to the log."""


@dataclass(frozen=True)
class OnnxEngine:
    """A session of onnxruntime on the CPU with an exported model."""

    name: EngineName
    session: Any
    num_labels: int

    @classmethod
    def load(cls, file: Path, *, name: EngineName, num_labels: int) -> OnnxEngine:
        """Load an ONNX file; it computes with as many threads as torch does here.

        Raises:
            DependencyMissing: onnxruntime is not installed.
            ModelInvalid: the file cannot be loaded.
        """
        require_onnx()
        import onnxruntime

        onnxruntime.set_default_logger_severity(_ERRORS_ALONE)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # the classes of onnxruntime have no common root
            raise ModelInvalid(f"{str(file)!r} cannot be loaded by onnxruntime: {error!s:.200}") from error
        return cls(name, session, num_labels)

    @property
    def compute(self) -> Compute:
        """The device, and the precision that its errors are told with."""
        return Compute(torch.device("cpu"), "fp32")

    @property
    def precision(self) -> str:
        """What the products are computed in."""
        return "int8" if self.name == "onnx-int8" else "fp32"

    @property
    def token_budget(self) -> int:
        """Tokens in a batch."""
        return TOKEN_BUDGET

    @property
    def uses_types(self) -> bool:
        """Whether the model tells the tokens of two texts apart."""
        return any(wanted.name == TOKEN_TYPES for wanted in self.session.get_inputs())

    def score(self, batch: Batch) -> NDArray[np.float32]:
        """Return the logits of the examples of a padded batch, (B, C)."""
        inputs = {name: tensor.numpy() for name, tensor in batch.inputs.items()}
        if self.uses_types and TOKEN_TYPES not in inputs:
            inputs[TOKEN_TYPES] = np.zeros_like(inputs[INPUT_IDS])
        [logits_BC] = self.session.run([LOGITS], inputs)
        found: NDArray[np.float32] = logits_BC
        return found
