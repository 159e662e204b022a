"""``durabert predict``, ``export``, ``eval`` and ``compare``: parsing only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from durabert.cli import options
from durabert.cli.options import Json, Profile

app = typer.Typer()

Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")]


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="The run whose model predicts.")],
    texts: Annotated[list[str] | None, typer.Argument(help="Texts to predict for.")] = None,
    pair: Annotated[list[str] | None, typer.Option(help="Second text of each, for a pair task.")] = None,
    input: Annotated[Path | None, typer.Option("--input", help="File of texts instead.")] = None,  # noqa: A002
    output: Annotated[
        str | None, typer.Option(help="File for predictions: .csv, .jsonl, .parquet; or a directory or URL.")
    ] = None,
    text: Annotated[str | None, typer.Option(help="Text column of the input.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Second text column of the input.")] = None,
    row_id: Annotated[str | None, typer.Option(help="Column that identifies a row.")] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    engine: Annotated[str, typer.Option(help="torch, onnx or onnx-int8.")] = "torch",
    shard_rows: Annotated[
        str | None, typer.Option(help="Rows of a shard in an output directory; default: 50000.")
    ] = None,
    concurrency: Annotated[str | None, typer.Option(help="Shards in flight at once; default: 4.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Predict with the model of a finished run, for a few texts, from file to file, or as durable shards."""
    from durabert.cli import batch
    from durabert.cli import predict as command

    cut = {"shard_rows": shard_rows, "concurrency": concurrency}
    if batch.wants_batch(output, cut) and output is not None:
        large = batch.request_from_options(
            run, texts, input, output,
            columns={"text": text, "text_pair": text_pair, "row_id": row_id},
            options={**cut, "precision": precision, "device": device}, engine=engine, profile=profile,
        )  # fmt: skip
        raise typer.Exit(batch.run(large, profile=profile, as_json=json))
    request = command.request_from_options(
        run, texts, pair, input, output,
        columns={"text": text, "text_pair": text_pair, "row_id": row_id},
        precision=precision, device=device, engine=engine, profile=profile,
    )  # fmt: skip
    raise typer.Exit(command.run(request, profile=profile, as_json=json))


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="The run whose model is exported.")],
    output: Annotated[Path, typer.Option(help="Directory to write; new or empty.")],
    form: Annotated[str, typer.Option("--format", help="hf, onnx or onnx-int8.")] = "hf",
    data: Annotated[
        str | None, typer.Option(help="What it was trained on, for a run without a snapshot.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Label column of the data.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Write the model of a finished run to a directory that other tools load."""
    from durabert.cli import export as command

    request = command.request_from_options(
        run, form=form, output=output, data=data, label=label, profile=profile
    )
    raise typer.Exit(command.run(request, profile=profile, as_json=json))


@app.command("eval")
def evaluate(
    run: Annotated[str, typer.Argument(help="The run whose model is evaluated.")],
    data: Annotated[str, typer.Argument(help="File, directory, snapshot:ID/SPLIT, or hub id.")],
    split: Annotated[
        str | None, typer.Option(help="Split; default: test, else validation, else the only one.")
    ] = None,
    slice_by: Annotated[
        list[str] | None, typer.Option(metavar="COLUMN", help="Also measure by the values of this column.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="Metric to compute; default: all.")] = None,
    text: options.TextColumn = None,
    text_pair: options.TextPairColumn = None,
    label: options.LabelColumn = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other option: confidence, resamples, worst."),
    ] = None,
    precision: Precision = "auto",
    device: Device = "auto",
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Evaluate a finished run on labelled rows, with intervals, slices and the worst errors."""
    from durabert.cli import evaluation as command

    request = command.request_from_options(
        run, data,
        columns={"text": text, "text_pair": text_pair, "label": label},
        options={"split": split, "slice_by": slice_by, "metrics": metric, "precision": precision,
                 "device": device},
        assignments=assignments, profile=profile,
    )  # fmt: skip
    raise typer.Exit(command.run(request, profile=profile, as_json=json))


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Runs, or experiments: each configuration is a side.")],
    confidence: Annotated[str, typer.Option(help="Of the intervals.")] = "0.95",
    resamples: Annotated[str, typer.Option(help="Samples of the paired bootstrap.")] = "1000",
    json: Json = False,
) -> None:
    """Compare runs with the first one, on what all were evaluated on; needs the store and no server."""
    from durabert.cli import comparison as command

    chosen = command.CompareOptions.parse({"confidence": confidence, "resamples": resamples})
    command.run(names, options=chosen, as_json=json)
