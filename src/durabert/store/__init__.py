"""Immutable artifacts. Knows neither the model side nor Temporal."""

from durabert.store.runs import MODEL_DIRECTORY, RESULT_FILE, RunExists, RunStore

__all__ = ["MODEL_DIRECTORY", "RESULT_FILE", "RunExists", "RunStore"]
