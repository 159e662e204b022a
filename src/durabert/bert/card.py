"""A trained model as a directory: weights, tokenizer, what it is, how it was made and how good it is."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch

from durabert.bert.atomic import appearing
from durabert.bert.data import TrainingData
from durabert.bert.hub_models import is_hub_id
from durabert.bert.metrics import Metrics
from durabert.bert.quiet import quiet_libraries
from durabert.bert.weights import WEIGHTS, stored_sha256, weights_sha256
from durabert.errors import ModelInvalid, UnexpectedError
from durabert.specs import EpochResult, FineTuneConfig, Task

FACTS: Final = "durabert.json"
_LIBRARIES: Final = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "numba", "scikit-learn")


@dataclass(frozen=True)
class ModelFacts:
    """What prediction must know of a model that ``config.json`` does not say."""

    task: Task
    labels: tuple[str, ...]
    text_columns: tuple[str, ...]
    max_length: int
    model_sha256: str

    @classmethod
    def read(cls, directory: Path) -> ModelFacts:
        """Read them from a model directory.

        Raises:
            ModelInvalid: the directory was not written by durabert, or the file is damaged.
        """
        file = directory / FACTS
        try:
            fields = json.loads(file.read_bytes())
            return cls(
                task=fields["task"],
                labels=tuple(fields["labels"]),
                text_columns=tuple(fields["text_columns"]),
                max_length=int(fields["max_length"]),
                model_sha256=fields["model_sha256"],
            )
        except FileNotFoundError:
            raise ModelInvalid(f"{str(directory)!r} is no model of durabert: it has no {FACTS}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise ModelInvalid(f"{str(file)!r} is damaged: {error!r}") from error


@dataclass(frozen=True)
class ModelCard:
    """How a model was made and how good it is."""

    config: FineTuneConfig
    data: TrainingData
    history: Sequence[EpochResult]
    metric: str
    best_epoch: int
    validation: Metrics
    test: Metrics | None
    device: str
    precision: str
    deterministic: bool
    notices: Sequence[str]
    versions: dict[str, str]


def write_model(directory: Path, model: Any, tokenizer: Any, card: ModelCard) -> str:
    """Write a model directory, whole or not at all, and return the digest of its weights.

    Raises:
        StoreUnavailable: the disk is full; nothing is left.
        UnexpectedError: the weights read back are not those that were written; nothing is left.
    """
    expected = weights_sha256(model.state_dict())
    with appearing(directory) as partial:
        partial.mkdir(parents=True)
        _save(partial, model, tokenizer, max_length=card.config.max_length)
        if stored_sha256(partial) != expected:
            raise UnexpectedError(f"the weights written to {str(directory)!r} are not those of the model")
        facts = ModelFacts(
            task=card.data.task,
            labels=tuple(card.data.labels),
            text_columns=tuple(card.data.text_columns),
            max_length=card.config.max_length,
            model_sha256=expected,
        )
        _write_json(partial / FACTS, asdict(facts))
        _write_json(partial / "metrics.json", _metrics_document(card))
        (partial / "README.md").write_text(_readme(card, expected), encoding="utf-8")
    return expected


def versions() -> dict[str, str]:
    """Return the versions of durabert and of the libraries that decide on the bits of a result."""
    from durabert.version import __version__

    found = {name: importlib.metadata.version(name) for name in _LIBRARIES}
    return {"durabert": __version__, "python": platform.python_version(), **found}


def _save(directory: Path, model: Any, tokenizer: Any, *, max_length: int) -> None:
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    # Other tools that truncate then do so where training did.
    tokenizer.model_max_length = max_length
    with quiet_libraries():
        model.save_pretrained(str(directory))
        tokenizer.save_pretrained(str(directory))
    # safetensors makes files that nobody but their owner can read.
    (directory / WEIGHTS).chmod((directory / "config.json").stat().st_mode)


def _write_json(file: Path, document: Any) -> None:
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    file.write_text(f"{text}\n", encoding="utf-8")


def _metrics_document(card: ModelCard) -> dict[str, Any]:
    return {
        "metric": card.metric,
        "best_epoch": card.best_epoch,
        "labels": list(card.data.labels),
        "history": [epoch.model_dump() for epoch in card.history],
        "validation": asdict(card.validation),
        "test": None if card.test is None else asdict(card.test),
    }


def _readme(card: ModelCard, model_sha256: str) -> str:
    sections = [
        _front_matter(card),
        f"# {card.config.model} fine-tuned on {card.data.name}",
        f"Fine-tuned with durabert {card.versions['durabert']} for {card.data.task} "
        f"{'prediction' if card.data.task == 'regression' else 'classification'}.",
        _table("Data", _data_rows(card)),
        _table("Metrics", _metric_rows(card)),
        _table("Training", _training_rows(card)),
        _table("Weights", [("SHA-256", f"`{model_sha256}`")]),
        _table("Versions", list(card.versions.items())),
        *_notes(card),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(card: ModelCard) -> str:
    # JSON is YAML, and quotes whatever a name may hold.
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-classification",
        "tags": ["durabert"],
        "metrics": [card.metric],
    }
    if "/" in card.config.model and is_hub_id(card.config.model):
        fields["base_model"] = card.config.model
    lines = [f"{name}: {json.dumps(value)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _data_rows(card: ModelCard) -> list[tuple[str, str]]:
    data = card.data
    test = len(data.test) if data.test is not None else 0
    return [
        ("Source", data.name),
        ("Text", ", ".join(data.text_columns)),
        ("Labels", ", ".join(data.labels)),
        ("Rows", f"{len(data.train):,} train, {len(data.validation):,} validation, {test:,} test"),
        ("SHA-256", f"`{data.sha256}`"),
    ]


def _metric_rows(card: ModelCard) -> list[tuple[str, str]]:
    rows = [(f"validation {name}", f"{value:.4f}") for name, value in card.validation.values.items()]
    if card.test is not None:
        rows += [(f"test {name}", f"{value:.4f}") for name, value in card.test.values.items()]
    return rows


def _training_rows(card: ModelCard) -> list[tuple[str, str]]:
    config = card.config.model_dump(exclude={"name", "model", "precision", "device"}, exclude_none=True)
    return [
        *((name, str(value)) for name, value in config.items()),
        ("best epoch", f"{card.best_epoch} of {len(card.history)}, by {card.metric}"),
        ("device", card.device),
        # Sums are split among threads: another number of them rounds differently.
        ("CPU threads", str(torch.get_num_threads())),
        ("precision", card.precision),
        ("deterministic kernels", "yes" if card.deterministic else "no"),
    ]


def _notes(card: ModelCard) -> list[str]:
    if not card.notices:
        return []
    return ["## Notes", "\n".join(f"- {notice}" for notice in card.notices)]


def _table(title: str, rows: Sequence[tuple[str, str]]) -> str:
    cells = [f"| {name} | {' '.join(value.replace('|', chr(92) + '|').split())} |" for name, value in rows]
    return "\n".join([f"## {title}", "", "| | |", "|---|---|", *cells])
