"""Where a run comes from: what went in, what computed, and who asked."""

from __future__ import annotations

from pydantic import Field

from durabert.specs.base import Wire


class Lineage(Wire):
    """The inputs of a run by their content, and around them what may matter for its bits."""

    inputs_sha256: str
    """Digest of all that a training reads: rows, configuration, base model, code, libraries."""
    base_model_sha256: str
    """Digest of the files of the base model: weights, configuration, tokenizer."""
    code_sha256: str
    """Digest of the sources of ``durabert.bert``."""
    hardware: dict[str, str] = Field(default_factory=dict)
    """Processor, cores, memory and system of the worker."""
    started_by: str | None = None
    """User and host of the client that started it; none: a client that does not say so."""
    reproduces: str | None = None
    """The run that it was to do again."""
