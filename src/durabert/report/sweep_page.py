"""The report of a sweep: its trials, what the search found, and how the best configuration did."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from durabert.errors import DependencyMissing
from durabert.report import facts
from durabert.report.curves import rounded
from durabert.report.data import CHOSEN, chart, lines
from durabert.report.document import document
from durabert.report.parallel import parallel
from durabert.specs import LOWER_IS_BETTER
from durabert.specs.trial import ranked_trials

if TYPE_CHECKING:
    from durabert.activities.importance import Importance
    from durabert.client.views import SweepView
    from durabert.specs import FinalResult, SweepSpec, TrialRecord

LONGEST: Final = 300
"""Characters of a message in a table."""
FINAL_HEAD: Final = ("run", "seed", "validation", "test", "message")


def sweep_page(view: SweepView, spec: SweepSpec, *, made: datetime | None = None) -> str:
    """Return the report of a sweep, of whatever it has come to so far.

    Raises:
        DependencyMissing: the extra ``report`` is not installed.
    """
    lower = view.metric in LOWER_IS_BETTER
    ranked = ranked_trials(view.trials, lower_is_better=lower, best=view.best)
    scores = [trial.best_value(lower_is_better=lower) for trial in ranked]
    told = _importance(view, spec)
    data = _data(view, spec, ranked, scores, told)
    context = {
        "view": view,
        "tiles": list(_tiles(view, spec)),
        "warnings": [f"{view.error.type}: {view.error.message}"] if view.error else [],
        "runs": [{"number": place, "name": name} for place, name in enumerate(data["runs"])],
        "columns": _columns(view, spec, ranked, scores),
        "about_importance": told.about,
        "final": None if view.final is None else _final(view.final, view.metric or ""),
        "best": _best(view),
        "shared": facts.config_facts(spec.config, _names(spec)),
    }
    return document("sweep.html.j2", context, data, title=view.name, made=made)


def _importance(view: SweepView, spec: SweepSpec) -> Importance:
    from durabert.activities.importance import Importance, importance

    try:
        return importance(spec, view.trials, view.metric)
    except DependencyMissing as missing:
        return Importance(f"How much each parameter decides is not told: {missing}.")


def _data(
    view: SweepView,
    spec: SweepSpec,
    ranked: Sequence[TrialRecord],
    scores: Sequence[float | None],
    told: Importance,
) -> dict[str, Any]:
    measured = [place for place, score in enumerate(scores) if score is not None]
    settings = {name: [trial.params.get(name) for trial in ranked] for name in spec.space}
    differing = {name: values for name, values in settings.items() if len(set(values)) > 1}
    data: dict[str, Any] = {
        "runs": [spec.run_name(trial.number) for trial in ranked],
        "chosen": measured[:CHOSEN],
        "epochs": [
            {"step": list(range(1, trial.epochs + 1)), "metric": [rounded(value) for value in trial.values]}
            for trial in ranked
        ],
        "history": list(_history(view, spec)),
        "parallel": parallel(differing, f"validation {view.metric}", scores),
        "importance": [
            {"name": name.replace("_", " "), "share": rounded(share)} for name, share in told.shares.items()
        ],
    }
    return data | {"charts": list(_charts(data, view.metric))}


def _history(view: SweepView, spec: SweepSpec) -> Iterator[dict[str, Any]]:
    lower = view.metric in LOWER_IS_BETTER
    best: float | None = None
    for trial in view.trials:
        value = trial.best_value(lower_is_better=lower)
        if value is None:
            continue
        better = best is None or (value < best if lower else value > best)
        best = value if better else best
        shown = {"run": spec.run_name(trial.number), "number": trial.number, "status": trial.status}
        yield {**shown, "epochs": trial.epochs, "value": rounded(value), "best": best and rounded(best)}


def _charts(data: dict[str, Any], metric: str | None) -> Iterator[dict[str, Any]]:
    if data["history"]:
        title = f"Validation {metric} of each trial, and the best so far"
        yield chart("history", "trials", title, "search")
    if any(len(columns["step"]) > 1 for columns in data["epochs"]):
        title = f"Validation {metric} after each epoch"
        yield lines("values", title, "epochs", "metric", by="epoch", points=True) | {"section": "search"}
    if data["parallel"]:
        yield chart("parallel", "parallel", "Parameters and metric of each trial as a line", "parameters")
    if data["importance"]:
        yield chart("importance", "importance", "How much each parameter decides on the metric", "parameters")


def _columns(
    view: SweepView, spec: SweepSpec, ranked: Sequence[TrialRecord], scores: Sequence[float | None]
) -> list[facts.Column]:
    messages = [(trial.error.message if trial.error else "")[:LONGEST] for trial in ranked]
    found: list[facts.Column] = [
        ("status", [facts.Cell(trial.status, trial.status) for trial in ranked]),
        (f"validation {view.metric}", [facts.number(score, 4) for score in scores]),
        ("epochs", [facts.number(trial.epochs, 0) for trial in ranked]),
        *((name.replace("_", " "), [_param(trial, name) for trial in ranked]) for name in spec.space),
        ("seconds", [facts.number(trial.seconds, 1) for trial in ranked]),
        ("message", [facts.Cell(text, text) for text in messages]),
    ]
    return [column for column in found if any(cell.text for cell in column[1])]


def _param(trial: TrialRecord, name: str) -> facts.Cell:
    if name not in trial.params:
        return facts.Cell("")
    value = trial.params[name]
    return facts.Cell(f"{value:.4g}", value) if isinstance(value, float) else facts.plain(value)


def _tiles(view: SweepView, spec: SweepSpec) -> Iterator[tuple[str, str]]:
    wanted = view.control.trials if view.control else spec.num_trials
    yield "trials", f"{len(view.trials)} of {max(wanted, len(view.trials))}"
    best = next((trial for trial in view.trials if trial.number == view.best), None)
    value = best and best.best_value(lower_is_better=view.metric in LOWER_IS_BETTER)
    if best is not None and value is not None:
        yield f"best validation {view.metric}", f"{value:.4f}"
        yield "best trial", spec.run_name(best.number)
    if view.final is not None and view.final.test_mean is not None:
        spread = "" if view.final.test_std is None else f" ± {view.final.test_std:.4f}"
        yield f"test {view.metric}, final runs", f"{view.final.test_mean:.4f}{spread}"
    yield "search", spec.algorithm if spec.stopping == "none" else f"{spec.algorithm}, {spec.stopping}"
    yield "epochs of all trials", f"{sum(trial.epochs for trial in view.trials):,}"
    for rung in view.rungs:
        plural = "s" if rung.epochs > 1 else ""
        yield f"trained {rung.epochs} epoch{plural}", f"{rung.reached} trials"
    yield "data", spec.data.source
    if view.ended is not None:
        yield "ended", f"{view.ended:%Y-%m-%d %H:%M} UTC"


def _final(final: FinalResult, metric: str) -> dict[str, Any]:
    rows = [
        [
            facts.Cell(run.run, run.run),
            facts.number(run.seed, 0),
            facts.number((run.metrics or {}).get(metric), 4),
            facts.number((run.test_metrics or {}).get(metric), 4),
            facts.Cell(text := (run.error.message if run.error else "")[:LONGEST], text),
        ]
        for run in final.runs
    ]
    head = [f"{title} {metric}" if title in {"validation", "test"} else title for title in FINAL_HEAD]
    failed = any(run.error for run in final.runs)
    about = None
    if final.test_mean is not None:
        spread = "" if final.test_std is None else f", standard deviation {final.test_std:.4f}"
        about = f"Test {metric}: mean {final.test_mean:.4f}{spread}. Only these runs saw the test rows."
    return {
        "head": head if failed else head[:-1],
        "rows": rows if failed else [row[:-1] for row in rows],
        "about": about,
        "error": None if final.error is None else final.error.message,
    }


def _best(view: SweepView) -> list[tuple[str, str]]:
    params = next((trial.params for trial in view.trials if trial.number == view.best), {})
    return [(name.replace("_", " "), facts.plain(value).text) for name, value in params.items()]


def _names(spec: SweepSpec) -> list[str]:
    return [name for name in type(spec.config).model_fields if name != "name" and name not in spec.space]
