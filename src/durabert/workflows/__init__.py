"""The patterns: decisions only, in plain Python, replayable.

Temporal imports the module of a workflow, and with it this package, anew for each run in its sandbox. So the
others are loaded when they are first asked for (PEP 562).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from durabert.workflows.bert_batch_inference import BertBatchInferenceWorkflow
    from durabert.workflows.bert_checkpointing import CheckpointedBertTrainingWorkflow
    from durabert.workflows.bert_eval import BertEvalWorkflow, BertRunEvaluationWorkflow
    from durabert.workflows.bert_export import BertExportWorkflow
    from durabert.workflows.bert_finetune import BertFineTuningWorkflow, BertInferenceWorkflow
    from durabert.workflows.bert_promotion import BertPromotionWorkflow
    from durabert.workflows.bert_retraining import BertRetrainingWorkflow
    from durabert.workflows.bert_sweep import BertSweepWorkflow
    from durabert.workflows.trials import BertTrialWorkflow

    WORKFLOWS: list[type]
    """All of them, for a worker or a replay."""

__all__ = [
    "WORKFLOWS",
    "BertBatchInferenceWorkflow",
    "BertEvalWorkflow",
    "BertExportWorkflow",
    "BertFineTuningWorkflow",
    "BertInferenceWorkflow",
    "BertPromotionWorkflow",
    "BertRetrainingWorkflow",
    "BertRunEvaluationWorkflow",
    "BertSweepWorkflow",
    "BertTrialWorkflow",
    "CheckpointedBertTrainingWorkflow",
]

_MODULES = {
    "BertBatchInferenceWorkflow": "bert_batch_inference",
    "BertEvalWorkflow": "bert_eval",
    "BertExportWorkflow": "bert_export",
    "BertFineTuningWorkflow": "bert_finetune",
    "BertInferenceWorkflow": "bert_finetune",
    "BertPromotionWorkflow": "bert_promotion",
    "BertRetrainingWorkflow": "bert_retraining",
    "BertRunEvaluationWorkflow": "bert_eval",
    "BertSweepWorkflow": "bert_sweep",
    "BertTrialWorkflow": "trials",
    "CheckpointedBertTrainingWorkflow": "bert_checkpointing",
}


def __getattr__(name: str) -> Any:
    if name == "WORKFLOWS":
        return [__getattr__(workflow) for workflow in _MODULES]
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
