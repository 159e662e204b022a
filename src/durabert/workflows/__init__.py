"""The patterns: decisions only, in plain Python, replayable."""

from durabert.workflows.bert_batch_inference import BertBatchInferenceWorkflow
from durabert.workflows.bert_checkpointing import CheckpointedBertTrainingWorkflow
from durabert.workflows.bert_eval import BertEvalWorkflow, BertRunEvaluationWorkflow
from durabert.workflows.bert_export import BertExportWorkflow
from durabert.workflows.bert_finetune import BertFineTuningWorkflow, BertInferenceWorkflow
from durabert.workflows.bert_promotion import BertPromotionWorkflow
from durabert.workflows.bert_retraining import BertRetrainingWorkflow
from durabert.workflows.bert_sweep import BertSweepWorkflow
from durabert.workflows.trials import BertTrialWorkflow

WORKFLOWS = [
    BertFineTuningWorkflow,
    CheckpointedBertTrainingWorkflow,
    BertInferenceWorkflow,
    BertBatchInferenceWorkflow,
    BertExportWorkflow,
    BertEvalWorkflow,
    BertRunEvaluationWorkflow,
    BertPromotionWorkflow,
    BertSweepWorkflow,
    BertTrialWorkflow,
    BertRetrainingWorkflow,
]

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
