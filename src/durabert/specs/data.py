"""What to train and to predict on."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from durabert.specs.base import Wire

SNAPSHOT_PREFIX: Final = "snapshot:"
"""Before the id of a snapshot, or its first digits, where a source is named."""

FileFormat = Literal["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow"]


class FileReading(Wire):
    """How the bytes of a file are to be read."""

    format: FileFormat = "auto"
    """File format; default: by suffix."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """Field delimiter of CSV-like files, one character; default: ``,`` for csv, tab for tsv."""
    quoting: Literal["auto", "csv", "none"] = "auto"
    """Whether quote characters enclose fields: ``auto`` is yes for csv and no for tsv."""
    encoding: str = "utf-8"
    """Text encoding; a byte-order mark is dropped."""


class DataSpec(FileReading):
    """Where the rows are and which columns matter; what is left out is inferred, never guessed."""

    source: str = Field(min_length=1)
    """A file, a directory with train/validation/test files, ``snapshot:ID``, or a hub id: ``glue/sst2``."""
    validation: str | None = None
    """A file with validation rows; default: the source's own split, else a part of the training rows."""
    test: str | None = None
    """A file with test rows, scored once at the end; default: the source's own split if it has labels."""
    text: str | None = None
    """Name of the text column; default: by name, else the only text-like column."""
    text_pair: str | None = None
    """Name of the second text column of a pair task; default: by name (``sentence2``, ...)."""
    label: str | None = None
    """Name of the label column; default: by name (``label``, ``class``, ``score``, ...)."""
    validation_fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of the training rows held out, stratified by label, where there is no validation split."""
    split_seed: int = Field(default=0, ge=0, le=2**32 - 1)
    """Seed of that choice."""


class TextsSpec(FileReading):
    """A file of texts to predict on, of any size."""

    path: str = Field(min_length=1)
    """CSV, TSV, JSON lines, JSON, Parquet or Arrow file."""
    text: str | None = None
    """Name of the text column; default: the column the run was trained on, else inferred."""
    text_pair: str | None = None
    """Name of the second text column of a pair task."""
    row_id: str | None = None
    """Column that identifies a row in the output; default: ``id`` if there, else the row's number from 0."""
