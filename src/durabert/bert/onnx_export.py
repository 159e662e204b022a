"""From a trained model to an ONNX file, in fp32 or with weights of 8 bits."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import torch

from durabert.bert.model import Classifier
from durabert.bert.quiet import quiet_libraries
from durabert.errors import DependencyMissing, ModelInvalid

LIBRARIES: Final = ("onnx", "onnxruntime", "onnxscript")
"""Packages of the extra ``onnx``."""
INPUT_IDS, ATTENTION_MASK, TOKEN_TYPES = "input_ids", "attention_mask", "token_type_ids"
LOGITS: Final = "logits"
LARGEST_FILE: Final = 1_800_000_000
"""Bytes of weights in one file: protobuf ends at 2 GiB. What is larger has its weights in a second file."""
_EXAMPLES: Final = (2, 8)
"""Examples and tokens that the model is traced with; neither number is kept."""


def require_onnx() -> None:
    """Refuse to go on without the libraries.

    Raises:
        DependencyMissing: one is not installed.
    """
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise DependencyMissing(f"what ONNX needs ({library})", extra="onnx")


def onnx_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide on an ONNX file and on its logits."""
    return {library: importlib.metadata.version(library) for library in LIBRARIES}


def write_onnx(classifier: Classifier, file: Path) -> None:
    """Write a model with fp32 weights, for any number of examples and tokens.

    Args:
        classifier: on the CPU, as ``load_classifier`` gives it.
        file: the file to write.

    Raises:
        ModelInvalid: a model of this type cannot be written as ONNX.
    """
    names = [INPUT_IDS, ATTENTION_MASK, *([TOKEN_TYPES] if classifier.uses_types else [])]
    model = classifier.model.eval()
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    try:
        # One product after the other, which onnxruntime puts together again as it likes.
        model.set_attn_implementation("eager")
        with _quiet_exporter():
            program = torch.onnx.export(
                _Logits(model),
                kwargs=_example(model, names),
                dynamic_shapes={name: {0: "batch", 1: "sequence"} for name in names},
                input_names=names,
                output_names=[LOGITS],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(str(file), external_data=size > LARGEST_FILE)
    except MemoryError:
        raise
    except Exception as error:  # what the exporter raises has no common root
        raise ModelInvalid(
            f"a model of type {model.config.model_type!r} cannot be exported to ONNX ({_line(error)}); "
            "use --format hf"
        ) from error


def quantize(source: Path, target: Path) -> None:
    """Write an fp32 ONNX file again with weights of 8 bits; activations are quantized as they come.

    Each column of a weight has a scale of its own: one for all would be that of its largest value.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with _quiet_exporter():
        quantize_dynamic(
            str(source),
            str(target),
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=source.stat().st_size > LARGEST_FILE,
        )


class _Logits(torch.nn.Module):
    """A model whose output is a tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> torch.Tensor:
        types = {} if token_type_ids is None else {TOKEN_TYPES: token_type_ids}
        logits: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask, **types).logits
        return logits


def _example(model: Any, names: list[str]) -> dict[str, torch.Tensor]:
    # Any token but the one that fills up, which some models count positions by.
    token = next(number for number in range(2, 10) if number != model.config.pad_token_id)
    tensors = {
        INPUT_IDS: torch.full(_EXAMPLES, token),
        ATTENTION_MASK: torch.ones(_EXAMPLES, dtype=torch.int64),
        TOKEN_TYPES: torch.zeros(_EXAMPLES, dtype=torch.int64),
    }
    return {name: tensors[name] for name in names}


@contextlib.contextmanager
def _quiet_exporter() -> Iterator[None]:
    # Its warnings are about its own inside.
    root = logging.getLogger()
    before = root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with quiet_libraries(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _line(error: Exception) -> str:
    # The exporter's own sentence says what it tried; the reason is what it came from.
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}".strip().split("\n", 1)[0][:200]
