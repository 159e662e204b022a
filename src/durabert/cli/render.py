"""How results look to people: tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from durabert.cli.output import print_json, put, say

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durabert.client import ExperimentView, RunView
    from durabert.specs import (
        AttemptRecord,
        ExportResult,
        FineTuneResult,
        InferenceRequest,
        InferenceResult,
        ParityReport,
    )


def print_outcome(view: ExperimentView, *, as_json: bool) -> None:
    """Print what an experiment that was followed has come to: results on stdout, errors on stderr."""
    if as_json:
        print_json(run.as_json() for run in view.runs)
    elif any(run.error is None for run in view.runs):
        print_experiment(view)
    for sentence in errors(view):
        say(f"durabert: {sentence}")


def errors(view: ExperimentView) -> list[str]:
    """Return one sentence for each different error; it names its runs unless it is that of all of them."""
    runs_of: dict[str, list[str]] = {}
    for run in view.runs:
        if run.error:
            runs_of.setdefault(run.error.message, []).append(run.run)
    for run in view.runs:
        for one in run.evaluations:
            if one.error:
                runs_of.setdefault(one.error.message, []).append(f"{run.run} on {one.name}")
    return [
        message if len(runs) == len(view.runs) else f"{', '.join(runs)}: {message}"
        for message, runs in runs_of.items()
    ]


def print_experiment(view: ExperimentView) -> None:
    """Print a table of the runs and what was noticed."""
    put(runs_table(view.runs))
    _print_evaluations(view.runs)
    for notice in dict.fromkeys(notice for run in view.runs if run.result for notice in run.result.notices):
        put(f"note: {notice}", style="yellow")
    for run in view.runs:
        if run.result and run.result.reused_from:
            put(
                f"note: {run.run} has the inputs of run {run.result.reused_from} and is linked to it, not "
                "trained again; --no-reuse trains",
                style="yellow",
            )
    for run in view.runs:
        if run.result:
            put(f"{run.run}: {run.result.directory}")


def runs_table(runs: Iterable[RunView]) -> Table:
    """Return the table of runs that ``train``, ``runs`` and ``show`` print."""
    runs = list(runs)
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("run", "status", "epochs", "batch", "learning rate", "train loss"):
        table.add_column(column, justify="left" if column in {"run", "status"} else "right")
    table.add_column(_metric_title(runs), justify="right")
    for column in ("seconds", "attempts"):
        table.add_column(column, justify="right")
    for run in runs:
        table.add_row(*_row(run))
    return table


def _metric_title(runs: list[RunView]) -> str:
    metrics = {run.result.metric for run in runs if run.result}
    return f"validation {metrics.pop()}" if len(metrics) == 1 else "validation"


def _row(run: RunView) -> list[str]:
    config, result = run.config, run.result
    loss, score, seconds = "", "", ""
    if result:
        loss, score = f"{result.train_loss:.4f}", f"{result.metrics[result.metric]:.4f}"
        seconds = f"{result.seconds:.1f}"
    elif run.progress and run.progress.loss is not None:
        loss = f"{run.progress.loss:.4f}"
    epochs = f"{result.epochs}" if result else f"{config.epochs}"
    return [
        run.run, run.status, epochs, str(config.batch_size), f"{config.learning_rate:g}",
        loss, score, seconds, str(run.attempts),
    ]  # fmt: skip


def print_details(run: RunView) -> None:
    """Print everything about one run, one fact a line."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in _facts(run):
        table.add_row(name, value)
    put(table)
    if run.attempt_log:
        put(_attempts_table(run.attempt_log))
    _print_evaluations([run])


def _print_evaluations(runs: list[RunView]) -> None:
    # Here: it prints by means of this module.
    from durabert.cli.measures import evaluations_table

    table = evaluations_table(runs)
    if table is not None:
        put(table)


def _facts(run: RunView) -> list[tuple[str, str]]:
    facts = [("run", run.run), ("status", run.status), ("attempts", str(run.attempts))]
    optional = [
        ("worker", run.worker),
        ("error", run.error and f"{run.error.type}: {run.error.message}"),
        ("last attempt", run.last_error and f"{run.last_error.type}: {run.last_error.message}"),
        (
            "progress",
            run.progress and run.progress.model_dump_json(exclude_defaults=True, exclude=_OWN_LINES),
        ),
        ("checkpoint", _checkpoint(run)),
        (
            "began from",
            run.parent and run.parent.run + ("" if run.parent.step is None else f"@{run.parent.step}"),
        ),
    ]
    facts += [(name, value) for name, value in optional if value]
    facts += [("warning", warning) for warning in (run.progress.warnings if run.progress else [])]
    facts.append(("configuration", run.config.model_dump_json(exclude_none=True)))
    if run.result:
        result = run.result
        facts += [
            ("task", f"{result.task}: {', '.join(result.labels)}"),
            (
                "rows",
                f"{result.rows.train} train, {result.rows.validation} validation, {result.rows.test} test",
            ),
            ("steps", f"{result.steps} in {result.epochs} epochs; epoch {result.best_epoch} was kept"),
            ("validation", _numbers(result.metrics)),
            *([("test", _numbers(result.test_metrics))] if result.test_metrics else []),
            ("train loss", f"{result.train_loss:.4f}"),
            ("speed", f"{result.examples_per_second:.1f} examples/s, {result.seconds:.1f} s in all"),
            *_profile(result),
            ("memory", f"{result.peak_memory_mib:.0f} MiB"),
            ("device", f"{result.device}, {result.precision}"),
            ("deterministic", "yes" if result.deterministic else "no"),
            ("threads", str(result.num_threads)),
            ("model sha256", result.model_sha256),
            ("data sha256", result.data_sha256),
            *_durability(result),
            *_lineage(result),
            ("versions", ", ".join(f"{name} {version}" for name, version in result.versions.items())),
            ("directory", result.directory),
            *[("note", notice) for notice in result.notices],
        ]
    return facts


_OWN_LINES = {"attempt_log", "warnings", "checkpoint_step"}
"""Fields of the progress that are shown by themselves."""


def _checkpoint(run: RunView) -> str | None:
    if run.progress is None or run.progress.checkpoint_step is None:
        return None
    return f"step {run.progress.checkpoint_step}"


def _attempts_table(log: Iterable[AttemptRecord]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("attempt", "resumed from step", "last step"):
        table.add_column(column, justify="right")
    for column in ("ended by", "worker"):
        table.add_column(column)
    for one in log:
        steps = ["" if step is None else str(step) for step in (one.resumed_from, one.last_step)]
        table.add_row(str(one.number), *steps, one.ended or "", one.worker)
    return table


def _profile(result: FineTuneResult) -> list[tuple[str, str]]:
    profile = result.profile
    if profile is None:
        return []
    shares = {
        name.removesuffix("_share"): share
        for name, share in profile.model_dump(exclude_none=True).items()
        if name.endswith("_share")
    }
    parts = [f"{name} {share:.1%}" for name, share in shares.items()]
    return [
        (
            "compute",
            f"{profile.tokens_per_second:,.0f} tokens/s, {profile.model_gflops:,.0f} of "
            f"{profile.peak_gflops:,.0f} GFLOP/s ({profile.flop_utilisation:.0%})",
        ),
        ("time of steps", ", ".join(parts)),
    ]


def _durability(result: FineTuneResult) -> list[tuple[str, str]]:
    optional = [
        ("state sha256", result.state_sha256),
        ("snapshot", result.snapshot),
        ("micro-batches", result.micro_batches and str(result.micro_batches)),
        ("processes", str(result.num_processes) if result.num_processes > 1 else None),
    ]
    return [(name, value) for name, value in optional if value]


def _lineage(result: FineTuneResult) -> list[tuple[str, str]]:
    facts = [("linked to", result.reused_from)]
    if result.lineage is not None:
        facts += [
            ("reproduces", result.lineage.reproduces),
            ("started by", result.lineage.started_by),
            ("base model sha256", result.lineage.base_model_sha256),
            ("code sha256", result.lineage.code_sha256),
            ("inputs sha256", result.lineage.inputs_sha256),
            ("hardware", ", ".join(result.lineage.hardware.values())),
        ]
    return [(name, value) for name, value in facts if value]


def _numbers(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def print_predictions(request: InferenceRequest, result: InferenceResult) -> None:
    """Print label and confidence of each text, or where the predictions of a file are."""
    if request.input is not None:
        counts = ", ".join(f"{label} {count}" for label, count in result.label_counts.items())
        put(
            f"{result.rows} rows in {result.seconds:.1f} s ({result.texts_per_second:.0f} texts/s): {counts}",
        )
        for notice in result.notices:
            put(f"note: {notice}", style="yellow")
        put(f"{result.output}")
        return
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("label")
    table.add_column("confidence", justify="right")
    table.add_column("text", overflow="fold")
    for text, prediction in zip(request.texts, result.predictions, strict=True):
        shown = text if isinstance(text, str) else " | ".join(text)
        table.add_row(*_label_and_confidence(prediction), shown)
    put(table)


def print_export(result: ExportResult) -> None:
    """Print how an exported model compares, and where it is."""
    if result.already_there:
        say("It holds this export already; nothing was written.")
    if result.parity is not None:
        put(_compared(result.parity))
    for notice in result.notices:
        put(f"note: {notice}", style="yellow")
    put(f"{result.output}  {result.format}, {result.size / 2**20:.1f} MiB")


def _compared(parity: ParityReport) -> str:
    labels = "" if parity.labels_equal is None else f"same label for {parity.labels_equal:.2%}, "
    return (
        f"{parity.rows:,} validation rows: {labels}{parity.metric} {parity.exported:.4f}, "
        f"of the trained model {parity.reference:.4f}"
    )


def _label_and_confidence(prediction: Any) -> tuple[str, str]:
    if prediction.value is not None:
        return f"{prediction.value:.4f}", ""
    if prediction.labels is not None:
        best = max(prediction.scores.values(), default=0.0)
        return ", ".join(prediction.labels) or "-", f"{best:.3f}"
    return prediction.label or "-", f"{prediction.confidence or 0:.3f}"
