"""The page of a report: every text of a user is escaped, and nothing but its own scripts runs in it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from durabert.report import facts
from durabert.report.data import about_curves, page_data
from durabert.report.document import document
from durabert.report.evaluations import evaluation_details, evaluation_head, evaluation_rows

if TYPE_CHECKING:
    from durabert.client.recorded import RecordedExperiment, RecordedRun

LONGEST: Final = 300
"""Characters of a message in a table."""
ATTEMPT_HEAD: Final = (
    "run", "attempt", "began", "heard of last", "ended", "went on from step", "last checkpoint", "worker",
    "message",
)  # fmt: skip
PROFILE_HEAD: Final = ("run", "tokens/s", "GFLOP/s", "of the peak", "standing still for checkpoints")


def page_of(experiment: RecordedExperiment, *, made: datetime | None = None) -> str:
    """Return the report of an experiment, or of one run of it.

    Raises:
        DependencyMissing: the extra ``report`` is not installed.
    """
    metric = facts.metric_of(experiment)
    data = page_data(experiment, metric)
    context = _context(experiment, metric, data)
    return document("report.html.j2", context, data, title=experiment.name, made=made)


def _context(experiment: RecordedExperiment, metric: str | None, data: dict[str, Any]) -> dict[str, Any]:
    shared, different = facts.differing(experiment)
    lineages = [dict(facts.lineage(run)) for run in experiment.runs]
    common = {
        name: value for name, value in lineages[0].items() if all(one.get(name) == value for one in lineages)
    }
    attempt_rows = [row for run in experiment.runs for row in _attempt_rows(run)]
    profile_rows = [row for run in experiment.runs for row in _profile_row(run)]
    single = len(experiment.runs) == 1
    return {
        "experiment": experiment,
        "tiles": list(_tiles(experiment, metric)),
        "warnings": _warnings(experiment),
        "columns": facts.columns(experiment, metric),
        "about_curves": about_curves(data, experiment.runs),
        "shared": facts.config_facts(experiment.runs[0].config, list(shared)),
        "different": [name.replace("_", " ") for name in different],
        "about_attempts": (
            "From the journal of each run. An attempt that died left no word: its bar ends where it was "
            "heard of last. Ticks are committed checkpoints, from which the next attempt went on."
        ),
        "attempt_head": ATTEMPT_HEAD,
        "attempt_rows": attempt_rows,
        "evaluation_head": evaluation_head(experiment),
        "evaluation_rows": evaluation_rows(experiment),
        "evaluations": evaluation_details(experiment, metric),
        "profile_head": PROFILE_HEAD,
        "profile_rows": profile_rows,
        "lineage_shared": list(common.items()),
        "runs": [
            _details(run, number, lineages[number], {} if single else common)
            for number, run in enumerate(experiment.runs)
        ],
    }


def _tiles(experiment: RecordedExperiment, metric: str | None) -> Sequence[tuple[str, str]]:
    runs = experiment.runs
    best = runs[facts.best_first(experiment, metric)[0]]
    best_score = facts.score(best, metric)
    died = sum(facts.outcome(run, span) in {"died", "failed"} for run in runs for span in run.record.spans)
    optional = [
        ("runs", str(len(runs)) if len(runs) > 1 else None),
        (f"best validation {metric}", None if best_score is None else f"{best_score:.4f}"),
        ("best run", best.run if len(runs) > 1 and best_score is not None else None),
        ("data", experiment.data),
        ("started", None if experiment.started is None else f"{experiment.started:%Y-%m-%d %H:%M} UTC"),
        ("took", _took(experiment)),
        ("attempts that crashed", str(died) if any(run.record.spans for run in runs) else None),
    ]
    return [(name, value) for name, value in optional if value is not None]


def _took(experiment: RecordedExperiment) -> str | None:
    if experiment.started is None or experiment.ended is None:
        return None
    return facts.duration(experiment.started, experiment.ended)


def _warnings(experiment: RecordedExperiment) -> list[str]:
    found = [f"{run.run}: {damage}" for run in experiment.runs for damage in run.record.damages]
    notices = [run.record.result.notices for run in experiment.runs if run.record.result]
    everywhere = [one for one in notices[0] if all(one in others for others in notices)] if notices else []
    return [*found, *everywhere]


def _attempt_rows(run: RecordedRun) -> list[list[facts.Cell]]:
    spans = run.record.spans
    if len(spans) == 1 and facts.outcome(run, spans[0]) == "completed":
        return []
    rows = []
    for span in spans:
        one, end = span.attempt, facts.outcome(run, span)
        resumed, last = one.resumed_from, one.last_step
        rows.append(
            [
                _word(run.run),
                facts.number(one.number, 0),
                _word(_moment(one.started)),
                _word(_moment(span.last_heard)),
                facts.Cell(end if one.ended is None else f"{end}: {one.ended}", end),
                facts.number(resumed, 0) if resumed is not None else facts.Cell(""),
                facts.number(last, 0) if last is not None else facts.Cell(""),
                _word(one.worker),
                _word((one.message or "")[:LONGEST]),
            ]
        )
    return rows


def _profile_row(run: RecordedRun) -> list[list[facts.Cell]]:
    result = run.record.result
    if result is None or result.profile is None:
        return []
    told = result.profile
    used = facts.Cell(f"{told.flop_utilisation:.0%}", told.flop_utilisation)
    still = None if result.checkpoint_seconds is None else result.checkpoint_seconds
    row = [_word(run.run), facts.number(told.tokens_per_second, 0), facts.number(told.model_gflops, 0), used]
    return [[*row, facts.Cell("" if still is None else f"{still:.2f} s", still)]]


def _details(
    run: RecordedRun, number: int, lineage: dict[str, str], common: dict[str, str]
) -> dict[str, Any]:
    result = run.record.result
    own = [(name, value) for name, value in lineage.items() if name not in common]
    about = []
    if result is not None:
        rows = result.rows
        about = [
            ("task", f"{result.task}: {', '.join(result.labels)}"),
            ("rows", f"{rows.train:,} train, {rows.validation:,} validation, {rows.test:,} test"),
            ("best epoch", str(result.best_epoch)),
            ("validation", _numbers(result.metrics)),
            *([("test", _numbers(result.test_metrics))] if result.test_metrics else []),
            ("memory", f"{result.peak_memory_mib:,.0f} MiB"),
        ]  # fmt: skip
    head, epochs = facts.epoch_rows(run.record.epochs)
    return {
        "number": number,
        "name": run.run,
        "status": run.status,
        "error": None if run.error is None else f"{run.error.type}: {run.error.message}",
        "notices": [] if result is None else result.notices,
        "facts": [*about, *own],
        "epochs_head": head,
        "epochs": epochs,
    }


def _numbers(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def _word(text: str) -> facts.Cell:
    return facts.Cell(text, text)


def _moment(time: str) -> str:
    return f"{datetime.fromisoformat(time):%Y-%m-%d %H:%M:%S}"
