"""``durabert demo`` and ``train``: parsing only."""

from __future__ import annotations

from typing import Annotated

import typer

from durabert.cli import options
from durabert.cli.options import Json, Profile

app = typer.Typer()


@app.command()
def demo(profile: Profile = None) -> None:
    """Train two configurations on the demo reviews, then predict; a few minutes on a laptop."""
    from durabert.cli import demo as command

    command.run(profile=profile)


@app.command()
def train(
    data: options.TrainingSource = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the experiment; default: from data and spec.")
    ] = None,
    config: options.ConfigFile = None,
    model: options.Model = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    learning_rate: options.LearningRate = None,
    max_length: options.MaxLength = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    device: options.DeviceOption = None,
    num_processes: Annotated[
        str | None, typer.Option(help="Processes that share each batch; auto: one a GPU.")
    ] = None,
    seed: options.Seed = None,
    max_train_rows: Annotated[str | None, typer.Option(help="Train on a sample of the rows.")] = None,
    assignments: options.Assignments = None,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="FIELD=VALUE,...", help="One configuration; repeat for several."),
    ] = None,
    text: options.TextColumn = None,
    text_pair: options.TextPairColumn = None,
    label: options.LabelColumn = None,
    validation: options.ValidationFile = None,
    test: options.TestFile = None,
    data_assignments: options.DataAssignments = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="Train one run after the other.")] = False,
    start_from: Annotated[
        str | None, typer.Option("--from", metavar="RUN[@STEP]", help="Go on from a checkpoint of that run.")
    ] = None,
    checkpoint_every: options.CheckpointEvery = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="N,N,...", help="Train each configuration once a seed.")
    ] = None,
    eval_data: Annotated[
        list[str] | None, typer.Option("--eval-data", help="Evaluate each run on this; repeat for several.")
    ] = None,
    slice_by: options.SliceBy = None,
    max_concurrent: Annotated[str | None, typer.Option(help="Runs that go on at once.")] = None,
    pattern: Annotated[
        str | None,
        typer.Option(help="bert_checkpointing, the default; bert_finetune; bert_eval, with --eval-data."),
    ] = None,
    reuse: Annotated[
        bool | None,
        typer.Option("--reuse/--no-reuse", help="Link what was trained on the same inputs; the default."),
    ] = None,
    follow: options.Follow = True,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Fine-tune a model: start an experiment, or join it if it is there already."""
    from durabert.cli import train as command

    fields = {
        "model": model, "epochs": epochs, "batch_size": batch_size, "learning_rate": learning_rate,
        "max_length": max_length, "precision": precision, "device": device,
        "num_processes": num_processes, "seed": seed, "max_train_rows": max_train_rows,
    }  # fmt: skip
    columns = {"text": text, "text_pair": text_pair, "label": label, "validation": validation, "test": test}
    spec = command.spec_from_options(
        data,
        name=name,
        config=config,
        fields=command.given(fields) | command.assigned(assignments, option="--set"),
        data_fields=command.given(columns) | command.assigned(data_assignments, option="--data"),
        runs=[command.assigned(run.split(","), option="--run") for run in runs or []],
        in_order=in_order,
        start_from=start_from,
        checkpoint_every=checkpoint_every,
        evaluation=command.Evaluation(
            seeds=seeds, data=eval_data or [], slice_by=slice_by or [], max_concurrent=max_concurrent
        ),
        reuse=reuse,
        profile=profile,
    )
    raise typer.Exit(command.run(spec, pattern=pattern, follow=follow, profile=profile, as_json=json))
