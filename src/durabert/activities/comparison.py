"""Runs side by side, from what the store holds of them: no server, no model, no data are needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from durabert.bert.comparison import McNemar, MetricDifference, compare_sides, mcnemar
from durabert.bert.evaluation_tables import read_predictions
from durabert.bert.metrics import METRICS
from durabert.bert.weighted_metrics import Judged
from durabert.errors import ArtifactDamaged, RunNotFound, RunNotUsable, SpecInvalid
from durabert.specs import FineTuneResult, checked_run
from durabert.specs.base import RUN_SEPARATOR
from durabert.store.evaluations import PREDICTIONS, EvaluationStore, StoredEvaluation
from durabert.store.objects import ObjectStore
from durabert.store.results import ResultStore
from durabert.store.runs import RESULT_FILE

NOT_COMPARED: Final = frozenset({"name", "seed"})
"""Fields of a configuration by which runs of one side may differ."""

Rows = tuple[str, str, tuple[str, ...]]
"""Snapshot, split and columns: what two evaluations need in common."""


@dataclass(frozen=True)
class Side:
    """One run, or the runs of one configuration with several seeds."""

    name: str
    runs: tuple[FineTuneResult, ...]


@dataclass(frozen=True)
class OnRows:
    """Two sides on the same rows."""

    data: str
    snapshot: str
    split: str
    rows: int
    metrics: list[MetricDifference]
    mcnemar: McNemar | None
    """Of two classifiers with one label a text, where each side is one run."""


@dataclass(frozen=True)
class Comparison:
    """Two sides: how they were made, and what that did."""

    first: Side
    second: Side
    metric: str
    """The one to look at first: that which picked the best epoch."""
    configuration: dict[str, tuple[Any, Any]]
    """Fields of the configuration that differ."""
    evaluations: list[OnRows]


def compare(
    objects: ObjectStore,
    names: Sequence[str],
    *,
    confidence: float = 0.95,
    num_samples: int = 1000,
    on_sample: Callable[[], None] = lambda: None,
) -> list[Comparison]:
    """Compare every side with the first one.

    Args:
        objects: the store.
        names: runs and experiments; each configuration of an experiment is a side, over its seeds.
        confidence: of the intervals.
        num_samples: samples of the bootstrap.
        on_sample: called after each; may raise.

    Raises:
        RunNotFound: there is no finished run of a name.
        RunNotUsable: two sides have learned different things, or have no evaluation in common.
        SpecInvalid: there is one side alone, or one twice.
        ArtifactDamaged: the predictions of an evaluation are damaged.
    """
    first, *others = _sides(objects, names)
    if not others:
        raise SpecInvalid(f"{first.name!r} is one side; name at least one other to compare it with")
    reader = _Reader(objects)
    common = {}
    # Before all is computed: what cannot be compared is told at once.
    for other in others:
        _require_same_task(first, other)
        common[other.name] = reader.common(first, other)
    return [
        Comparison(
            first=first,
            second=other,
            metric=first.runs[0].metric,
            configuration=_differences(first, other),
            evaluations=[
                reader.compared(first, other, rows, confidence, num_samples, on_sample)
                for rows in common[other.name]
            ],
        )
        for other in others
    ]


def _sides(objects: ObjectStore, names: Sequence[str]) -> list[Side]:
    sides: list[Side] = []
    for name in names:
        sides += _sides_of(objects, checked_run(name))
    for number, side in enumerate(sides):
        if any(set(_names(side)) & set(_names(other)) for other in sides[:number]):
            raise SpecInvalid(f"{side.name!r} is named twice; a comparison needs different runs")
    return sides


def _sides_of(objects: ObjectStore, name: str) -> list[Side]:
    results = ResultStore(objects)
    alone = results.result(name)
    if alone is not None:
        return [Side(name, (alone.result,))]
    groups: dict[str, list[FineTuneResult]] = {}
    for run in _runs_of(objects, name):
        stored = results.result(run)
        if stored is not None:
            groups.setdefault(json.dumps(_compared(stored.result), sort_keys=True), []).append(stored.result)
    if not groups:
        raise RunNotFound(name)
    return [Side(name if len(groups) == 1 else _name_of(group), tuple(group)) for group in groups.values()]


def _runs_of(objects: ObjectStore, experiment: str) -> list[str]:
    names = {
        parts[1] for info in objects.list("runs") if (parts := info.path.split("/"))[2:] == [RESULT_FILE]
    }
    return sorted(name for name in names if name.startswith(experiment + RUN_SEPARATOR))


def _name_of(group: list[FineTuneResult]) -> str:
    first = group[0]
    if len(group) == 1 or first.config.name is None:
        return first.run
    return f"{first.experiment}{RUN_SEPARATOR}{first.config.name}"


def _names(side: Side) -> list[str]:
    return [run.run for run in side.runs]


def _compared(run: FineTuneResult) -> dict[str, Any]:
    return run.config.model_dump(mode="json", exclude=set(NOT_COMPARED))


def _differences(first: Side, second: Side) -> dict[str, tuple[Any, Any]]:
    theirs, ours = ({**_compared(side.runs[0]), **_made_with(side)} for side in (first, second))
    return {field: (theirs[field], ours[field]) for field in theirs if theirs[field] != ours[field]}


def _made_with(side: Side) -> dict[str, Any]:
    seeds = sorted(run.config.seed for run in side.runs)
    return {
        "seed": seeds[0] if len(seeds) == 1 else seeds,
        "data_sha256": sorted({run.data_sha256 for run in side.runs}),
        "used_precision": sorted({run.precision for run in side.runs}),
        "used_device": sorted({run.device for run in side.runs}),
    }


def _require_same_task(first: Side, second: Side) -> None:
    for run in (*first.runs, *second.runs):
        known = first.runs[0]
        if (run.task, run.labels) != (known.task, known.labels):
            raise RunNotUsable(
                f"run {run.run!r} has learned {run.task} of {', '.join(run.labels)}, but {known.run!r} "
                f"{known.task} of {', '.join(known.labels)}; there is nothing to compare"
            )


class _Reader:
    """Evaluations of runs, each read once."""

    def __init__(self, objects: ObjectStore) -> None:
        self._store = EvaluationStore(objects)
        self._known: dict[str, dict[Rows, StoredEvaluation]] = {}

    def common(self, first: Side, second: Side) -> list[Rows]:
        """Return the rows that every run of both sides was evaluated on."""
        each = [self._evaluations(run) for run in (*first.runs, *second.runs)]
        common = [rows for rows in each[0] if all(rows in one for one in each)]
        if not common:
            missing = next(
                (run.run for run, one in zip((*first.runs, *second.runs), each, strict=True) if not one),
                second.runs[0].run,
            )
            raise RunNotUsable(
                f"{first.name!r} and {second.name!r} have no evaluation in common; evaluate each run on the "
                f"same data: durabert eval {missing} DATA"
            )
        return common

    def compared(
        self,
        first: Side,
        second: Side,
        rows: Rows,
        confidence: float,
        num_samples: int,
        on_sample: Callable[[], None],
    ) -> OnRows:
        """Compare two sides on rows that they have in common."""
        sides = [self._judged(side.runs, rows) for side in (first, second)]
        _require_same_truth([*sides[0], *sides[1]], rows)
        firsts, seconds = ([judged for _, judged in side] for side in sides)
        task = first.runs[0].task
        told = self._evaluations(first.runs[0])[rows].result
        single = len(firsts) == len(seconds) == 1 and task in {"binary", "multiclass"}
        return OnRows(
            data=told.data,
            snapshot=told.snapshot,
            split=told.split,
            rows=told.rows,
            metrics=compare_sides(
                firsts, seconds, METRICS[task], confidence=confidence, num_samples=num_samples,
                on_sample=on_sample,
            ),
            mcnemar=mcnemar(firsts[0], seconds[0]) if single else None,
        )  # fmt: skip

    def _evaluations(self, run: FineTuneResult) -> dict[Rows, StoredEvaluation]:
        if run.run not in self._known:
            self._known[run.run] = {
                (one.result.snapshot, one.result.split, tuple(one.identity["columns"])): one
                for one in self._store.of_run(run.run)
                # A run that was deleted and trained anew under its name has another model.
                if one.result.model_sha256 == run.model_sha256
            }
        return self._known[run.run]

    def _judged(self, runs: Iterable[FineTuneResult], rows: Rows) -> list[tuple[Any, Judged]]:
        found = []
        for run in runs:
            stored = self._evaluations(run)[rows]
            found.append(read_predictions(self._store.read(stored, PREDICTIONS), run.task, run.labels))
        return found


def _require_same_truth(sides: Sequence[tuple[Any, Judged]], rows: Rows) -> None:
    positions, known = sides[0]
    for places, judged in sides[1:]:
        if not (np.array_equal(places, positions) and np.array_equal(judged.truth, known.truth)):
            raise ArtifactDamaged(
                f"two evaluations on snapshot {rows[0][:12]} {rows[1]} have predictions of different rows"
            )
