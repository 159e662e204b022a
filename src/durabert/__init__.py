"""Durable, exact fine-tuning of BERT-family models on Temporal."""
