"""Durable, exact fine-tuning of BERT-family models on Temporal."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from durabert.errors import DurabertError, InfrastructureError, RunFailed, UserError
from durabert.version import __version__

if TYPE_CHECKING:
    from durabert.api import evaluate, fine_tune, predict
    from durabert.client import Client
    from durabert.plugin import DurabertPlugin
    from durabert.specs import (
        DataSpec,
        EvaluationResult,
        ExperimentSpec,
        FineTuneConfig,
        FineTuneResult,
        Prediction,
    )

__all__ = [
    "Client",
    "DataSpec",
    "DurabertError",
    "DurabertPlugin",
    "EvaluationResult",
    "ExperimentSpec",
    "FineTuneConfig",
    "FineTuneResult",
    "InfrastructureError",
    "Prediction",
    "RunFailed",
    "UserError",
    "__version__",
    "evaluate",
    "fine_tune",
    "predict",
]

# Resolved on first use (PEP 562): importing durabert loads neither Temporal nor torch.
_LAZY = {
    "Client": "durabert.client",
    "DataSpec": "durabert.specs",
    "DurabertPlugin": "durabert.plugin",
    "EvaluationResult": "durabert.specs",
    "ExperimentSpec": "durabert.specs",
    "FineTuneConfig": "durabert.specs",
    "FineTuneResult": "durabert.specs",
    "Prediction": "durabert.specs",
    "evaluate": "durabert.api",
    "fine_tune": "durabert.api",
    "predict": "durabert.api",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'durabert' has no attribute {name!r}")
