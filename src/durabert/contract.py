"""All that workflows, workers and clients must agree on: names, argument types, result types.

A rename here strands running workflows; ``tests/unit/test_frozen.py`` pins every one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from durabert.specs import (
    BatchCommit,
    BatchInferenceRequest,
    BatchInferenceResult,
    BatchPlan,
    ExportRequest,
    ExportResult,
    FineTuneRequest,
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    SnapshotRequest,
    SnapshotResult,
    Wire,
)

Request = TypeVar("Request", bound=Wire)
Result = TypeVar("Result", bound=Wire)


@dataclass(frozen=True)
class ActivityContract(Generic[Request, Result]):
    """An activity as a workflow knows it."""

    name: str
    request: type[Request]
    result: type[Result]


FINE_TUNE_BERT: Final = ActivityContract("fine_tune_bert", FineTuneRequest, FineTuneResult)
CREATE_DATASET_SNAPSHOT: Final = ActivityContract("create_dataset_snapshot", SnapshotRequest, SnapshotResult)
RUN_BERT_INFERENCE: Final = ActivityContract("run_bert_inference", InferenceRequest, InferenceResult)
PLAN_BATCH_INFERENCE: Final = ActivityContract("plan_batch_inference", BatchInferenceRequest, BatchPlan)
COMMIT_BATCH_INFERENCE: Final = ActivityContract("commit_batch_inference", BatchCommit, BatchInferenceResult)
EXPORT_BERT: Final = ActivityContract("export_bert", ExportRequest, ExportResult)

FINE_TUNING_WORKFLOW: Final = "BertFineTuningWorkflow"
CHECKPOINTED_WORKFLOW: Final = "CheckpointedBertTrainingWorkflow"
INFERENCE_WORKFLOW: Final = "BertInferenceWorkflow"
BATCH_INFERENCE_WORKFLOW: Final = "BertBatchInferenceWorkflow"
EXPORT_WORKFLOW: Final = "BertExportWorkflow"

PATTERNS: Final = {
    "bert_checkpointing": CHECKPOINTED_WORKFLOW,
    "bert_finetune": FINE_TUNING_WORKFLOW,
}
"""Workflows that train an experiment, by the name of their pattern; the first is the default."""

CANCEL_RUN_UPDATE: Final = "cancel_run"
REPORT_SIGNAL: Final = "report"
"""By which ``fine_tune_bert`` tells its workflow how a run fares; only of runs with checkpoints."""

DEFAULT_TASK_QUEUE: Final = "bert-finetune-task-queue"

SPEC_DIGEST_MEMO: Final = "durabert_spec_sha256"
"""Memo field by which a second start of the same experiment is recognised."""

SEARCH_ATTRIBUTES: Final = {
    "DurabertExperiment": "Keyword",
    "DurabertModel": "KeywordList",
    "DurabertDataset": "Keyword",
    "DurabertTask": "Keyword",
    "DurabertStatus": "Keyword",
    "DurabertBestMetric": "Double",
}
"""Custom search attributes and their types, as a namespace must know them."""
