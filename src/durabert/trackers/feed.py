"""What a tracker is told of a run: parameters, series by step, and how the run is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from durabert.client.recorded import RecordedRun

TRAIN_LOSS: Final = "train/loss"


@dataclass(frozen=True)
class Value:
    """One value of a series."""

    step: int
    value: float
    time: datetime


@dataclass(frozen=True)
class Feed:
    """A run as a tracker sees it."""

    run: str
    experiment: str
    identity: str
    """Digest of what the run is, empty while it is not known: another one is another run."""
    status: str
    """``queued``, ``running``, ``paused``, ``completed``, ``failed`` or ``cancelled``."""
    parameters: Mapping[str, str | int | float | bool]
    series: Mapping[str, Sequence[Value]]
    """By name, such as ``train/loss`` or ``validation/accuracy``, in the order of the steps."""
    tags: Mapping[str, str]
    """By what the parts of the run are known again."""
    began: datetime | None
    heard: datetime | None
    """When the run was heard of last."""
    ended: bool


class Tracker(Protocol):
    """Where runs are shown."""

    def sync(self, feed: Feed) -> int:
        """Add what is missing, set how the run is, and return the number of values that were added.

        Raises:
            OutputInUse: what it writes to cannot be written.
            StoreUnavailable: its server does not answer; asked again, it goes on.
        """

    def close(self) -> None:
        """Let go of what is open."""


def feed_of(run: RecordedRun, experiment: str) -> Feed:
    """Return what trackers are told of a run."""
    record = run.record
    config = run.config.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    spans = record.spans
    return Feed(
        run=run.run,
        experiment=experiment,
        identity=record.identity or "",
        status=run.status,
        parameters={
            name: value if isinstance(value, str | int | float | bool) else str(value)
            for name, value in config.items()
        },
        series={name: values for name, values in _series(run) if values},
        tags=dict(_tags(run)),
        began=datetime.fromisoformat(spans[0].attempt.started) if spans else None,
        heard=datetime.fromisoformat(spans[-1].last_heard) if spans else None,
        ended=run.ended,
    )


def missing(values: Sequence[Value], known: set[int]) -> list[Value]:
    """Return the values of the steps that are not known."""
    return [value for value in values if value.step not in known]


def _series(run: RecordedRun) -> Iterator[tuple[str, list[Value]]]:
    record = run.record
    timed = list(zip(record.points, record.times, strict=True))
    yield TRAIN_LOSS, [Value(point.step, point.loss, time) for point, time in timed]
    yield "train/learning_rate", [Value(point.step, point.learning_rate, time) for point, time in timed]
    yield (
        "train/examples_per_second",
        [Value(point.step, point.examples / point.seconds, time) for point, time in timed if point.seconds],
    )
    when = {point.step: time for point, time in timed}
    latest = record.times[-1] if record.times else datetime.fromtimestamp(0).astimezone()
    names = dict.fromkeys(name for epoch in record.epochs for name in epoch.metrics)
    for name in names:
        yield (
            f"validation/{name}",
            [
                Value(epoch.step, epoch.metrics[name], when.get(epoch.step, latest))
                for epoch in record.epochs
                if name in epoch.metrics
            ],
        )
    tested = record.result.test_metrics if record.result is not None else None
    for name, value in (tested or {}).items():
        assert record.result is not None
        yield f"test/{name}", [Value(record.result.steps, value, latest)]


def _tags(run: RecordedRun) -> Iterator[tuple[str, str]]:
    record = run.record
    yield "durabert.status", run.status
    if record.spans:
        yield "durabert.attempts", str(len(record.spans))
    told = {
        "identity": record.identity,
        "snapshot": record.environment.get("snapshot"),
        "data_sha256": record.environment.get("data_sha256"),
        "model_sha256": record.result and record.result.model_sha256,
        "state_sha256": record.result and record.result.state_sha256,
        "error": run.error and f"{run.error.type}: {run.error.message}",
    }
    for name, value in told.items():
        if value:
            yield f"durabert.{name}", str(value)
