"""Batch inference: an input of any size, predicted on in shards by row range."""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from durabert.specs.base import Device, RunName, Wire
from durabert.specs.data import TextsSpec
from durabert.specs.shards import MAX_SHARD_ROWS, is_directory

BATCH_PREFIX: Final = "batch:"
"""Before the run and a digest in the id of a batch, which no name of a run or an experiment begins with."""
DEFAULT_SHARD_ROWS: Final = 50_000
"""A minute of MiniLM on two cores: little is lost with a worker, and starting a process costs little."""
DEFAULT_CONCURRENCY: Final = 4
"""Enough for a few workers; what else waits in the same queue comes after so many shards."""
MAX_CONCURRENCY: Final = 64
"""Of the events that a history holds, those of the window are a part."""
MAX_SHARDS: Final = 100_000
"""``result.json`` names every shard and stays below some 40 MB."""


class BatchInferenceResult(Wire):
    """The result of ``BertBatchInferenceWorkflow``."""

    run: str
    """The run whose model predicted."""
    model_sha256: str
    """Digest of its weights."""
    snapshot: str
    """``snapshot:ID/SPLIT``: the rows that were predicted on."""
    output: str
    """Directory or URL of the predictions."""
    result_sha256: str
    """Digest of ``result.json``, which names every file with its digest."""
    rows: int
    """Rows of the input: ``predicted`` and ``errors`` together."""
    predicted: int
    """Rows with a prediction."""
    errors: int
    """Rows that could not be scored; each is in the error table with the reason."""
    shards: int
    """Number of shards."""
    label_counts: dict[str, int] = Field(default_factory=dict)
    """How often each label was predicted."""
    notices: list[str] = Field(default_factory=list)
    """What was found in the input and handled."""
    reused: bool = False
    """Whether the output was finished before, so that nothing was predicted."""
    seconds: float = 0.0
    """Wall-clock seconds from the first shard to the end; 0 if nothing was predicted."""
    rows_per_second: float = 0.0
    """Rows a second in that time, those of shards that were there before not counted."""


class BatchPlan(Wire):
    """The result of the activity ``plan_batch_inference``: what is predicted on, and how it is cut."""

    plan_sha256: str
    """Digest of ``plan.json`` in the output, which says the rest."""
    snapshot: str
    """``snapshot:ID/SPLIT``: the rows, as they were when the batch began."""
    model_sha256: str
    """Digest of the weights of the run."""
    rows: int = Field(ge=1)
    """Rows of the input."""
    shard_rows: int = Field(ge=1)
    """Rows of a shard; the last one may have fewer."""
    first_row: int = Field(default=0, ge=0)
    """Rows before this one are in committed shards already."""
    result: BatchInferenceResult | None = None
    """What the output held already, if it is finished."""

    def num_shards(self, rows: int | None = None) -> int:
        """Return the number of shards of so many rows; none: of all."""
        return -(-(self.rows if rows is None else rows) // self.shard_rows)


class BatchState(Wire):
    """What one execution of the workflow hands to the next."""

    plan: BatchPlan
    """What was planned."""
    next_row: int = Field(ge=0)
    """First row that no shard has been started for; all before it are committed."""
    started: datetime
    """When the first shard was started, UTC."""


class BatchInferenceRequest(Wire):
    """The argument of ``BertBatchInferenceWorkflow`` and of the activity ``plan_batch_inference``."""

    run: RunName
    """The run whose model predicts."""
    input: TextsSpec
    """A file, or ``snapshot:ID/SPLIT``, of any size."""
    output: str = Field(min_length=1)
    """Directory, or URL such as ``s3://bucket/prefix``, for the predictions."""
    shard_rows: int = Field(default=DEFAULT_SHARD_ROWS, ge=1, le=MAX_SHARD_ROWS)
    """Rows of a shard: what is lost at most with a process."""
    concurrency: int = Field(default=DEFAULT_CONCURRENCY, ge=1, le=MAX_CONCURRENCY)
    """Shards in flight at once; as soon as one ends the next begins."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Compute precision; ``auto`` is bf16 where the hardware has it, else fp32."""
    device: Device = "auto"
    """``auto``, ``cpu``, ``mps``, ``cuda`` or ``cuda:N``."""
    state: BatchState | None = None
    """Where the execution before this one has come to; not for users."""

    @model_validator(mode="after")
    def _into_a_directory(self) -> Self:
        if not is_directory(self.output):
            raise ValueError(
                f"output is {self.output!r}, but should be a directory; one of that name is "
                f"{self.output + '/'!r}"
            )
        return self

    def batch_id(self) -> str:
        """Return the id of the workflow: the same request, typed again, finds it."""
        # Not the size of a shard, nor how many at once, nor where: the predictions are the same ones.
        said = self.model_dump_json(include={"run", "input", "output", "precision"})
        return f"{BATCH_PREFIX}{self.run}:{hashlib.sha256(said.encode()).hexdigest()[:12]}"


class BatchCommit(Wire):
    """The argument of the activity ``commit_batch_inference``."""

    output: str
    """Directory or URL of the predictions."""
    plan_sha256: str
    """Digest of its ``plan.json``."""


class BatchProgress(Wire):
    """The answer of the query ``progress`` of ``BertBatchInferenceWorkflow``."""

    phase: Literal["planning", "predicting", "committing"]
    """What it is about."""
    rows: int = 0
    """Rows of the input, 0 while unknown."""
    rows_done: int = 0
    """Rows in committed shards."""
    shards: int = 0
    """Number of shards, 0 while unknown."""
    shards_done: int = 0
    """Shards that are committed."""
    in_flight: int = 0
    """Shards that were started and are not committed."""
    rows_per_second: float | None = None
    """Rows a second, from the first shard on; none before one has ended."""
    eta_seconds: float | None = None
    """Expected seconds to the end."""
