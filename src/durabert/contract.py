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
    EvaluationPlan,
    EvaluationPlanRequest,
    EvaluationRequest,
    EvaluationResult,
    ExportRequest,
    ExportResult,
    FineTuneRequest,
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    SnapshotRequest,
    SnapshotResult,
    Suggestion,
    SuggestionRequest,
    SweepPlan,
    SweepPlanRequest,
    Wire,
)
from durabert.specs.registry import (
    ModelRef,
    PromotionCheck,
    PromotionRequest,
    RegistryRequest,
    RegistryVersion,
)
from durabert.specs.retraining import Champion

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
CHECK_PROMOTION: Final = ActivityContract("check_promotion", PromotionRequest, PromotionCheck)
REGISTER_VERSION: Final = ActivityContract("register_version", RegistryRequest, RegistryVersion)
FIND_CHAMPION: Final = ActivityContract("find_champion", ModelRef, Champion)
EXPORT_BERT: Final = ActivityContract("export_bert", ExportRequest, ExportResult)
PLAN_EVALUATIONS: Final = ActivityContract("plan_evaluations", EvaluationPlanRequest, EvaluationPlan)
EVALUATE_BERT: Final = ActivityContract("evaluate_bert", EvaluationRequest, EvaluationResult)
PLAN_SWEEP: Final = ActivityContract("plan_sweep", SweepPlanRequest, SweepPlan)
SUGGEST_TRIAL: Final = ActivityContract("suggest_trial", SuggestionRequest, Suggestion)

FINE_TUNING_WORKFLOW: Final = "BertFineTuningWorkflow"
CHECKPOINTED_WORKFLOW: Final = "CheckpointedBertTrainingWorkflow"
INFERENCE_WORKFLOW: Final = "BertInferenceWorkflow"
BATCH_INFERENCE_WORKFLOW: Final = "BertBatchInferenceWorkflow"
EXPORT_WORKFLOW: Final = "BertExportWorkflow"
EVAL_WORKFLOW: Final = "BertEvalWorkflow"
RUN_EVALUATION_WORKFLOW: Final = "BertRunEvaluationWorkflow"
PROMOTION_WORKFLOW: Final = "BertPromotionWorkflow"
SWEEP_WORKFLOW: Final = "BertSweepWorkflow"
TRIAL_WORKFLOW: Final = "BertTrialWorkflow"
RETRAINING_WORKFLOW: Final = "BertRetrainingWorkflow"

PATTERNS: Final = {
    "bert_checkpointing": CHECKPOINTED_WORKFLOW,
    "bert_finetune": FINE_TUNING_WORKFLOW,
    "bert_eval": EVAL_WORKFLOW,
}
"""Workflows that train an experiment, by the name of their pattern; the first is the default."""

CANCEL_RUN_UPDATE: Final = "cancel_run"
APPROVE_UPDATE: Final = "approve"
REJECT_UPDATE: Final = "reject"
REPORT_SIGNAL: Final = "report"
"""By which ``fine_tune_bert`` tells its workflow how a run fares; only of runs with checkpoints."""
HEARTBEAT_SECONDS: Final = 10.0
"""Between two heartbeats of an activity that has run for a while: by them a worker is known to live."""
HEARTBEAT_SIGNAL: Final = "heartbeat"
"""No workflow takes it: its activities see it in the history, and send a heartbeat at once."""

FOR_ALL_RUNS: Final = frozenset({CREATE_DATASET_SNAPSHOT.name, PLAN_EVALUATIONS.name})
"""Activities of an experiment before its runs begin."""
_OF_A_SET: Final = ":"
"""Between a run and an evaluation set in the id of an activity; no name has one."""


def evaluation_id(run: str, evaluation_set: str) -> str:
    """Return the id of the activity that evaluates a run of an experiment."""
    return f"{run}{_OF_A_SET}{evaluation_set}"


def evaluation_of(activity_id: str) -> tuple[str, str]:
    """Return the run that an activity works for, and the evaluation set; none if it trains."""
    run, _, evaluation_set = activity_id.partition(_OF_A_SET)
    return run, evaluation_set


TIMING_MEMO: Final = "durabert_timing"
"""Memo field of a schedule: when it fires, as its user wrote it; the server keeps calendars."""

DEFAULT_TASK_QUEUE: Final = "bert-finetune-task-queue"

SPEC_DIGEST_MEMO: Final = "durabert_spec_sha256"
"""Memo field by which a second start of the same experiment is recognised."""

STARTED_BY_MEMO: Final = "durabert_started_by"
"""Memo field with user and host of the client that started a workflow."""

SEARCH_ATTRIBUTES: Final = {
    "DurabertExperiment": "Keyword",
    "DurabertModel": "KeywordList",
    "DurabertDataset": "Keyword",
    "DurabertTask": "Keyword",
    "DurabertStatus": "Keyword",
    "DurabertBestMetric": "Double",
}
"""Custom search attributes and their types, as a namespace must know them."""
