"""Shards of a batch: one range of rows each, and what is written of them."""

from __future__ import annotations

import re
from pathlib import PurePath
from typing import Final, Literal

from pydantic import Field

from durabert.specs.base import Task, Wire

MAX_SHARD_ROWS: Final = 250_000
"""The predictions of a shard are in memory before they are written at once."""
OUTPUT_SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
"""What a file of predictions may end with."""
_SUFFIX: Final = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,9}")


def is_directory(output: str) -> bool:
    """Return whether the name of an output is that of a directory or a URL, and not of a file.

    A name with a suffix, such as ``o.xml``, is taken for a file's unless it ends with a slash.
    """
    return "://" in output or output.endswith("/") or not _SUFFIX.fullmatch(PurePath(output).suffix)


class RowRange(Wire):
    """Rows of the input that one activity scores."""

    first_row: int = Field(ge=0)
    """Number of the first of them, from 0."""
    num_rows: int = Field(ge=1, le=MAX_SHARD_ROWS)
    """How many."""
    plan_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Digest of ``plan.json`` in the output."""


class BytePiece(Wire):
    """Bytes of a file, with their digest."""

    offset: int = Field(ge=0)
    """Where they begin."""
    size: int = Field(ge=0)
    """How many."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Their digest."""


class RowGroupPiece(BytePiece):
    """A row group of a Parquet file."""

    rows: int = Field(ge=1)
    """Its rows."""


class ParquetPieces(Wire):
    """A Parquet file as pieces that can be read, and verified, one by one."""

    footer: BytePiece
    """What describes the row groups."""
    groups: list[RowGroupPiece]
    """In the order of the rows."""


class ShardPlan(Wire):
    """What ``plan.json`` in the output of a batch says: whose output it is, and how the rows are read."""

    format: Literal[1] = 1
    """Version of this document."""
    run: str
    """The run whose model predicts."""
    model_sha256: str
    """Digest of its weights."""
    task: Task
    """What its labels mean."""
    labels: list[str]
    """Label names by class number."""
    max_length: int
    """Longest input of the model in tokens."""
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    """Compute precision that was asked for."""
    snapshot: str
    """Id of the snapshot of the input."""
    split: str
    """The split of it."""
    text_columns: list[str]
    """The one or two columns that are read."""
    row_id: str | None
    """Column that identifies a row; none: its number from 0."""
    numbered: bool
    """Whether all row ids are whole numbers of 64 bits."""
    rows: int = Field(ge=1)
    """Rows of the input."""
    shard_rows: int = Field(ge=1, le=MAX_SHARD_ROWS)
    """Rows of a shard."""
    notices: list[str] = Field(default_factory=list)
    """What was noticed when the columns were chosen."""
    pieces: ParquetPieces
    """The file of the split in the snapshot."""


class ShardFile(Wire):
    """A file of a shard."""

    path: str
    """Below the output."""
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    """Its digest."""
    rows: int = Field(ge=0)
    """Its rows."""


class ShardFacts(Wire):
    """What a Parquet file of predictions says of itself, in its metadata."""

    plan_sha256: str
    """Digest of the plan that it belongs to."""
    first_row: int
    """First row of its shard."""
    num_rows: int
    """Rows of its shard, those without a prediction among them."""
    label_counts: dict[str, int] = Field(default_factory=dict)
    """How often each label was predicted."""
    truncated: int = 0
    """Texts that were longer than the model reads."""
    replaced: int = 0
    """Texts with half a surrogate pair, which was replaced."""
    device: str
    """Where it was computed."""
    precision: Literal["fp32", "bf16", "fp16"]
    """Compute precision that was used."""


class ShardRecord(Wire):
    """What ``shards/FIRST-LAST.json`` says: created last, it makes a shard committed."""

    facts: ShardFacts
    """What its predictions say of themselves."""
    predictions: ShardFile
    """Rows with a prediction."""
    errors: ShardFile | None = None
    """Rows that could not be scored; none: there are none."""
