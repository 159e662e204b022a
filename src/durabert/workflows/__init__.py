"""The patterns: decisions only, in plain Python, replayable."""

from durabert.workflows.bert_finetune import BertFineTuningWorkflow, BertInferenceWorkflow

WORKFLOWS = [BertFineTuningWorkflow, BertInferenceWorkflow]

__all__ = ["WORKFLOWS", "BertFineTuningWorkflow", "BertInferenceWorkflow"]
