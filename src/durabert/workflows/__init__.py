"""The patterns: decisions only, in plain Python, replayable."""

from durabert.workflows.bert_checkpointing import CheckpointedBertTrainingWorkflow
from durabert.workflows.bert_finetune import BertFineTuningWorkflow, BertInferenceWorkflow

WORKFLOWS = [BertFineTuningWorkflow, CheckpointedBertTrainingWorkflow, BertInferenceWorkflow]

__all__ = [
    "WORKFLOWS",
    "BertFineTuningWorkflow",
    "BertInferenceWorkflow",
    "CheckpointedBertTrainingWorkflow",
]
