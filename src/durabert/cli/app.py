"""The command line: parsing only; each command works in a module of its own, imported when it runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from durabert.cli import data as data_commands
from durabert.cli import options, sweep_commands
from durabert.cli import schedule as schedule_commands
from durabert.cli import store as store_commands
from durabert.cli.options import Json, Profile
from durabert.errors import DurabertError, SpecInvalid
from durabert.version import __version__

app = typer.Typer(
    name="durabert",
    help="Durable fine-tuning of BERT-family models on Temporal.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

app.add_typer(data_commands.app, name="data")
app.add_typer(store_commands.app, name="store")
app.add_typer(schedule_commands.app, name="schedule")

Device = Annotated[str, typer.Option(help="auto, cpu, mps, cuda or cuda:N.")]


def main() -> None:
    """Run the command line; every expected error is one sentence on stderr."""
    try:
        _require_unicode(sys.argv[1:])
        sys.exit(app(standalone_mode=False))
    except DurabertError as error:
        sys.stderr.write(f"durabert: {error}\n")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("durabert: interrupted\n")
        sys.exit(130)
    except typer.TyperException as error:
        sys.stderr.write(f"durabert: {_usage_problem(error)}\n")
        sys.exit(error.exit_code)


def _require_unicode(arguments: list[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise SpecInvalid(
                f"the argument {argument!r} is not valid {sys.getfilesystemencoding()}"
            ) from None


def _usage_problem(error: typer.TyperException) -> str:
    said = error.format_message().rstrip(".?").replace(". Did", "; did")
    context = getattr(error, "ctx", None)
    help_of = f"; see '{context.command_path} --help'" if context else ""
    return said[:1].lower() + said[1:] + help_of


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"durabert {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    _version_wanted: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Durable fine-tuning of BERT-family models on Temporal."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


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
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show progress until it ends.")] = True,
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
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
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
    text: Annotated[str | None, typer.Option(help="Text column.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="Second text column of a pair task.")] = None,
    label: Annotated[str | None, typer.Option(help="Label column.")] = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Any other option: confidence, resamples, worst."),
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
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

    options = command.CompareOptions.parse({"confidence": confidence, "resamples": resamples})
    command.run(names, options=options, as_json=json)


app.command()(sweep_commands.sweep)
app.command()(sweep_commands.adjust)


@app.command()
def promote(
    run: Annotated[str, typer.Argument(help="The run whose model is promoted.")],
    to: Annotated[str, typer.Option(metavar="NAME@ALIAS", help="The alias that is to name it.")],
    min_metrics: Annotated[
        list[str] | None,
        typer.Option("--min-metric", metavar="METRIC=VALUE", help="Refuse a lower validation metric."),
    ] = None,
    ignore_champion: Annotated[
        bool, typer.Option("--ignore-champion", help="Also if it is worse than what the alias names now.")
    ] = False,
    require_approval: Annotated[
        bool, typer.Option("--require-approval", help="Wait until somebody approves.")
    ] = False,
    remind_hours: Annotated[str | None, typer.Option(help="Hours between reminders; default: 24.")] = None,
    expire_hours: Annotated[
        str | None, typer.Option(help="Hours until it ends undecided; default: 168.")
    ] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Let an alias of the registry name the model of a finished run, if the gates let it pass."""
    from durabert.cli import promote as command

    request = command.request_from_options(
        run, to=to, min_metrics=min_metrics, ignore_champion=ignore_champion,
        require_approval=require_approval,
        hours={"remind_after_seconds": remind_hours, "expire_after_seconds": expire_hours},
    )  # fmt: skip
    raise typer.Exit(command.run(request, profile=profile, as_json=json))


@app.command()
def approve(
    promotion: Annotated[str, typer.Argument(help="The alias that it is to: NAME@ALIAS.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Approve the promotion that waits for it."""
    from durabert.cli import promote as command

    raise typer.Exit(command.decide(promotion, approved=True, reason=reason, profile=profile, as_json=json))


@app.command()
def reject(
    promotion: Annotated[str, typer.Argument(help="The alias that it is to: NAME@ALIAS.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the registry.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """End the promotion that waits for approval."""
    from durabert.cli import promote as command

    raise typer.Exit(command.decide(promotion, approved=False, reason=reason, profile=profile, as_json=json))


@app.command()
def registry(
    name: Annotated[str | None, typer.Argument(help="A model; default: all of them.")] = None,
    waiting: Annotated[
        bool, typer.Option("--open", help="List the promotions that wait for a decision; asks the server.")
    ] = False,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """List models, versions and aliases, from the store, or promotions that wait."""
    from durabert.cli import promote as command

    if waiting:
        command.open_ones(name, profile=profile, as_json=json)
    else:
        command.listing(name, as_json=json)


@app.command()
def runs(profile: Profile = None, json: Json = False) -> None:
    """List all runs, the newest experiment first."""
    from durabert.cli import look

    look.runs(profile=profile, as_json=json)


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Show everything about an experiment or a run."""
    from durabert.cli import look

    look.show(name, profile=profile, as_json=json)


@app.command()
def watch(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Follow an experiment until it ends; with the embedded engine this also lets it go on."""
    from durabert.cli import look

    raise typer.Exit(look.watch(name, profile=profile, as_json=json))


@app.command()
def cancel(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Cancel; returns when no process is left."""
    from durabert.cli import look

    look.cancel(name, profile=profile, as_json=json)


@app.command()
def pause(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Free the device and keep the run open; returns when no process is left."""
    from durabert.cli import steer

    steer.pause(name, profile=profile, as_json=json)


@app.command()
def resume(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    queue: Annotated[str | None, typer.Option(help="Task queue to go on on.")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="Show progress until it ends.")] = True,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Go on with a paused, cancelled or failed run, from its newest checkpoint."""
    from durabert.cli import steer

    raise typer.Exit(steer.resume(name, queue=queue, follow=follow, profile=profile, as_json=json))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="An experiment, or a file with a history in JSON.")],
    save: Annotated[Path | None, typer.Option(help="Also write the history to this file.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Replay the workflow code against a recorded history, without touching anything outside."""
    from durabert.cli import replay as command

    raise typer.Exit(command.run(run, save=save, profile=profile, as_json=json))


@app.command()
def verify(
    run: Annotated[str, typer.Argument(help="The run to check.")],
    replay_steps: Annotated[
        str | None, typer.Option(help="Also derive up to so many steps anew and compare.")
    ] = None,
    json: Json = False,
) -> None:
    """Check every digest of a run and the chain that binds them; needs the store and no server."""
    from durabert.cli import verify as command

    raise typer.Exit(command.run(run, replay_steps=replay_steps, as_json=json))


@app.command()
def audit(
    run: Annotated[str, typer.Argument(help="The run to audit.")],
    output: Annotated[Path | None, typer.Option(help="Write the report to this Markdown file.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Prove from Temporal's history and the store what was run on what; needs both."""
    from durabert.cli import audit as command

    raise typer.Exit(command.run(run, output=output, profile=profile, as_json=json))


@app.command()
def reproduce(
    run: Annotated[str, typer.Argument(help="The run to do again.")],
    name: Annotated[str | None, typer.Option(help="Name of the new run; default: RUN-again.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Train again from the recorded inputs, and compare weights, metrics and curve."""
    from durabert.cli import reproduce as command

    raise typer.Exit(command.run(run, new_name=name, profile=profile, as_json=json))


@app.command()
def report(
    name: Annotated[str, typer.Argument(help="An experiment, a run or a sweep.")],
    output: Annotated[Path | None, typer.Option(help="HTML file to write; default: NAME.html.")] = None,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Write one HTML file with curves, runs, attempts and lineage; it needs no network."""
    from durabert.cli import report as command

    command.run(name, output=output, profile=profile, as_json=json)


@app.command()
def track(
    name: Annotated[str, typer.Argument(help="An experiment or a run.")],
    to: Annotated[str, typer.Option(metavar="KIND:TARGET", help="tensorboard:DIRECTORY or mlflow:URI.")],
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the runs have ended.")] = False,
    profile: Profile = None,
    json: Json = False,
) -> None:
    """Add to a tracker what it lacks of a run: no gap and no double point, whatever happened."""
    from durabert.cli import track as command

    raise typer.Exit(command.run(name, to=to, follow=follow, profile=profile, as_json=json))


@app.command()
def worker(
    train_queue: Annotated[str | None, typer.Option(help="Task queue for training.")] = None,
    inference_queue: Annotated[str | None, typer.Option(help="Task queue for inference.")] = None,
    slots: Annotated[str | None, typer.Option(help="Runs at once; default: one a GPU, else one.")] = None,
    drain_seconds: Annotated[str, typer.Option(help="Time for running work to finish on SIGTERM.")] = "10",
    profile: Profile = None,
) -> None:
    """Run a worker until SIGTERM; give one queue option to host only that queue."""
    from durabert.cli import operate

    limits = operate.WorkerLimits.parse({"slots": slots, "drain_seconds": drain_seconds})
    operate.worker(train_queue, inference_queue, limits=limits, profile=profile)


@app.command()
def up(
    port: Annotated[
        str | None, typer.Option(help="Port of the Temporal server; default: a free one.")
    ] = None,
    ui_port: Annotated[str | None, typer.Option(help="Port of Temporal Web; default: a free one.")] = None,
) -> None:
    """Keep the embedded engine and a worker up until Ctrl-C."""
    from durabert.cli import operate

    operate.up(operate.Ports.parse({"port": port, "ui_port": ui_port}))


@app.command()
def chaos(
    scenarios: Annotated[list[str] | None, typer.Argument(help="Names of faults; default: all.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Six of them, without waits for time-outs.")] = False,
    model: Annotated[str, typer.Option(help="minilm, a directory, or a hub id.")] = "minilm",
    list_all: Annotated[bool, typer.Option("--list", help="List the faults and do nothing.")] = False,
    json: Json = False,
) -> None:
    """Train under injected faults, on an engine of its own, and compare with an undisturbed run."""
    from durabert.cli import chaos as command

    raise typer.Exit(command.run(scenarios or [], short=short, model=model, list_all=list_all, as_json=json))


@app.command()
def doctor(profile: Profile = None, json: Json = False) -> None:
    """Check versions, engine, queues, devices, disk and models, and say what to do."""
    from durabert.cli import operate

    raise typer.Exit(operate.doctor(profile=profile, as_json=json))
