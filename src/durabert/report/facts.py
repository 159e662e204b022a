"""What a report shows of each run, in words and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from durabert.activities.run_record import Span
    from durabert.client.recorded import RecordedExperiment, RecordedRun
    from durabert.specs import EpochResult, FineTuneConfig

SMALLER_IS_BETTER: Final = frozenset({"loss", "mse"})
STOPPED: Final = frozenset({"WorkerStopping", "RunPaused", "RunCancelled"})
"""Errors that end an attempt because somebody asked for it."""


@dataclass(frozen=True)
class Cell:
    """A value of a table: how it is shown, and what it is sorted by."""

    text: str
    key: str | float | None = None

    @property
    def numeric(self) -> bool:
        """Whether it is a number, or what is missing where numbers are."""
        return not isinstance(self.key, str)


Column = tuple[str, list[Cell]]


def metric_of(experiment: RecordedExperiment) -> str | None:
    """Return the validation metric that the runs are compared by; none while there is none."""
    named = [run.record.result.metric for run in experiment.runs if run.record.result]
    named += [run.config.best_metric for run in experiment.runs if run.config.best_metric != "auto"]
    measured = [name for run in experiment.runs for epoch in run.record.epochs for name in epoch.metrics]
    for name in [*named, "accuracy", "f1_micro", "pearson", *measured]:
        if name in measured:
            return name
    return None


def score(run: RecordedRun, metric: str | None) -> float | None:
    """Return the best validation metric of a run so far."""
    result = run.record.result
    if result is not None and metric in result.metrics:
        return result.metrics[metric]
    found = [epoch.metrics[metric] for epoch in run.record.epochs if metric in epoch.metrics]
    if not found:
        return None
    return min(found) if metric in SMALLER_IS_BETTER else max(found)


def best_first(experiment: RecordedExperiment, metric: str | None) -> list[int]:
    """Return the numbers of the runs, the best first, those without a score last."""
    sign = 1 if metric in SMALLER_IS_BETTER else -1
    scores = [score(run, metric) for run in experiment.runs]
    return sorted(
        range(len(scores)),
        key=lambda number: (scores[number] is None, sign * (scores[number] or 0.0), number),
    )


def differing(experiment: RecordedExperiment) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """Return the fields of the configuration that all runs share, and those in which they differ."""
    configs = [run.config.model_dump(exclude={"name"}) for run in experiment.runs]
    shared: dict[str, Any] = {}
    different: dict[str, list[Any]] = {}
    for name in configs[0]:
        values = [config[name] for config in configs]
        if all(value == values[0] for value in values):
            shared[name] = values[0]
        else:
            different[name] = values
    return shared, different


def columns(experiment: RecordedExperiment, metric: str | None) -> list[Column]:
    """Return the columns of the table of runs, those without any value left out."""
    runs = experiment.runs
    results = [run.record.result for run in runs]
    _, different = differing(experiment)
    test = [
        None if one is None or not one.test_metrics else one.test_metrics.get(metric or "") for one in results
    ]
    found: list[Column] = [
        ("status", [Cell(run.status, run.status) for run in runs]),
        (f"validation {metric}", [number(score(run, metric), 4) for run in runs]),
        (f"test {metric}", [number(value, 4) for value in test]),
        ("train loss", [number(_train_loss(run), 4) for run in runs]),
        *((name.replace("_", " "), [plain(value) for value in values]) for name, values in different.items()),
        ("epochs done", [number(len(run.record.epochs) or None, 0) for run in runs]),
        ("steps", [number(_steps(run), 0) for run in runs]),
        ("seconds", [number(None if one is None else one.seconds, 1) for one in results]),
        ("examples/s", [number(_speed(run), 1) for run in runs]),
        ("attempts", [number(len(run.record.spans) or None, 0) for run in runs]),
    ]
    return [column for column in found if any(cell.text for cell in column[1])]


def number(value: float | None, digits: int) -> Cell:
    """Return a number with so many decimals."""
    return Cell("") if value is None else Cell(f"{value:,.{digits}f}", float(value))


def plain(value: Any) -> Cell:
    """Return a value of a configuration."""
    if value is None:
        return Cell("none", "none")
    if isinstance(value, float):
        return Cell(f"{value:g}", value)
    if isinstance(value, int) and not isinstance(value, bool):
        return Cell(str(value), float(value))
    return Cell(str(value), str(value))


def config_facts(config: FineTuneConfig, names: Sequence[str]) -> list[tuple[str, str]]:
    """Return fields of a configuration as they are shown."""
    fields = config.model_dump()
    return [(name.replace("_", " "), plain(fields[name]).text) for name in names]


def lineage(run: RecordedRun) -> list[tuple[str, str]]:
    """Return where a run comes from and by what its parts are known again."""
    return [(name, str(value)) for name, value in _lineage(run) if value]


def _lineage(run: RecordedRun) -> Iterator[tuple[str, object]]:
    told, result = run.record.environment, run.record.result
    parent = run.parent
    yield "base model", run.config.model
    yield "data", (told.get("data") or {}).get("source")
    yield "snapshot", told.get("snapshot") or (result and result.snapshot)
    if parent is not None:
        yield "goes on from", parent.run if parent.step is None else f"{parent.run}@{parent.step}"
    yield "data sha256", told.get("data_sha256") or (result and result.data_sha256)
    if result is not None:
        yield "model sha256", result.model_sha256
        yield "state sha256", result.state_sha256
        yield "result sha256", run.record.result_sha256
        yield "device", f"{result.device}, {result.precision}"
        yield "deterministic kernels", "yes" if result.deterministic else "no"
    yield "threads", told.get("num_threads") or (result and result.num_threads)
    yield "processes", told.get("num_processes") or (result and result.num_processes)
    versions = (result and result.versions) or told.get("versions") or {}
    yield "versions", ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))


def outcome(run: RecordedRun, span: Span) -> str:
    """Return how an attempt ended: ``completed``, ``running``, ``stopped``, ``failed`` or ``died``."""
    if span.completed:
        return "completed"
    if span.attempt.ended is not None:
        return "stopped" if span.attempt.ended in STOPPED else "failed"
    last = run.record.spans[-1] is span
    if last and run.status == "completed":
        return "completed"
    return "running" if last and run.status == "running" else "died"


def epoch_rows(epochs: Sequence[EpochResult]) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a table of epochs."""
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch.metrics))
    rows = [
        [str(epoch.epoch), f"{epoch.step:,}", f"{epoch.train_loss:.4f}"]
        + [f"{epoch.metrics[name]:.4f}" if name in epoch.metrics else "" for name in names]
        for epoch in epochs
    ]
    return ["epoch", "step", "train loss", *(f"validation {name}" for name in names)], rows


def duration(began: datetime, ended: datetime) -> str:
    """Return the time between two moments, in the two largest units."""
    seconds = max(0, round((ended - began).total_seconds()))
    units = [("d", 86400), ("h", 3600), ("min", 60), ("s", 1)]
    parts: list[str] = []
    for unit, size in units:
        count, seconds = divmod(seconds, size)
        if count or (parts and len(parts) < 2):
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _train_loss(run: RecordedRun) -> float | None:
    if run.record.result is not None:
        return run.record.result.train_loss
    return run.record.epochs[-1].train_loss if run.record.epochs else None


def _steps(run: RecordedRun) -> int | None:
    if run.record.result is not None:
        return run.record.result.steps
    return run.record.points[-1].step if run.record.points else None


def _speed(run: RecordedRun) -> float | None:
    if run.record.result is not None:
        return run.record.result.examples_per_second
    seconds = sum(point.seconds for point in run.record.points)
    return sum(point.examples for point in run.record.points) / seconds if seconds else None
