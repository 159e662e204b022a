"""Options that many commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Profile = Annotated[
    str | None, typer.Option("--profile", help="Temporal connection profile; default: the embedded engine.")
]
Follow = Annotated[bool, typer.Option("--follow/--no-follow", help="Show progress until it ends.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line instead of text.")]

# Of commands that train.
TrainingSource = Annotated[
    str | None, typer.Argument(help="File, directory with train/validation/test files, or hub id.")
]
ConfigFile = Annotated[Path | None, typer.Option(help="Experiment in TOML; options override it.")]
Model = Annotated[str | None, typer.Option(help="minilm, a directory, or a hub id.")]
Epochs = Annotated[str | None, typer.Option(help="Passes over the training rows.")]
BatchSize = Annotated[str | None, typer.Option(help="Examples per optimizer step.")]
LearningRate = Annotated[str | None, typer.Option("--learning-rate", "--lr", help="Peak rate.")]
MaxLength = Annotated[str | None, typer.Option(help="Longest input in tokens.")]
DeviceOption = Annotated[str | None, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")]
Seed = Annotated[str | None, typer.Option(help="Seed of head, order and dropout.")]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="FIELD=VALUE", help="Any other field of a configuration."),
]
TextColumn = Annotated[str | None, typer.Option(help="Text column.")]
TextPairColumn = Annotated[str | None, typer.Option(help="Second text column of a pair task.")]
LabelColumn = Annotated[str | None, typer.Option(help="Label column.")]
ValidationFile = Annotated[str | None, typer.Option(help="File with validation rows.")]
TestFile = Annotated[str | None, typer.Option(help="File with test rows.")]
DataAssignments = Annotated[
    list[str] | None, typer.Option("--data", metavar="FIELD=VALUE", help="Any other field of the data.")
]
SliceBy = Annotated[list[str] | None, typer.Option(metavar="COLUMN", help="Column to slice evaluations by.")]
CheckpointEvery = Annotated[
    str | None, typer.Option(help="Steps between checkpoints; default: by their cost, at most 60 s.")
]
