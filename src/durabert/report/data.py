"""What the charts of a report draw."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, Final

from durabert.report.curves import points_of_a_run, rounded, smoothed, thinned
from durabert.report.evaluations import reliability
from durabert.report.facts import best_first, differing, outcome, score
from durabert.report.parallel import parallel

if TYPE_CHECKING:
    from durabert.client.recorded import RecordedExperiment, RecordedRun

CHOSEN: Final = 6
"""Runs in colour when a report opens; a reader chooses others."""
CHECKPOINTS: Final = 600
"""More of them are not shown: they would hide the attempts."""


def page_data(experiment: RecordedExperiment, metric: str | None) -> dict[str, Any]:
    """Return what the script of the page reads."""
    runs = experiment.runs
    most = points_of_a_run(len(runs))
    curves = [_curve(run, most) for run in runs]
    epochs = [_epochs(run, metric) for run in runs]
    ranked = best_first(experiment, metric)
    with_curve = [number for number in ranked if curves[number]["step"] or epochs[number]["step"]]
    attempts = [bar for run in runs for bar in _attempts(run)]
    checkpoints = [tick for run in runs for tick in _checkpoints(run)]
    data: dict[str, Any] = {
        "runs": [run.run for run in runs],
        "chosen": with_curve[:CHOSEN],
        "curves": curves if with_curve else [],
        "epochs": epochs,
        "attempts": attempts,
        "attempt_runs": len({bar["run"] for bar in attempts}),
        "checkpoints": checkpoints if len(checkpoints) <= CHECKPOINTS else [],
        "profile": [part for run in runs for part in _profile(run)],
    }
    scores = [score(run, metric) for run in runs]
    data["parallel"] = parallel(differing(experiment)[1], f"validation {metric}", scores)
    data["reliability"] = reliability(experiment, ranked)
    return data | {"charts": list(_charts(data, metric))}


def _curve(run: RecordedRun, most: int) -> dict[str, list[Any]]:
    columns = thinned(run.record.points, most)
    return columns | {"smooth": smoothed(columns["loss"]), "speed": smoothed(columns["speed"])}


def _epochs(run: RecordedRun, metric: str | None) -> dict[str, list[Any]]:
    measured = [epoch for epoch in run.record.epochs if metric in epoch.metrics]
    return {
        "step": [epoch.step for epoch in measured],
        "metric": [rounded(epoch.metrics[metric or ""]) for epoch in measured],
        "loss": [rounded(epoch.train_loss) for epoch in measured],
    }


def _attempts(run: RecordedRun) -> Iterator[dict[str, Any]]:
    spans = run.record.spans
    for span, following in zip_longest(spans, spans[1:]):
        what = f"{span.attempt.number}: {span.attempt.ended or outcome(run, span)}"
        bar = {"run": run.run, "from": span.attempt.started, "to": span.last_heard}
        yield bar | {"end": outcome(run, span), "what": what}
        if following is not None and following.attempt.started > span.last_heard:
            gap = {"run": run.run, "from": span.last_heard, "to": following.attempt.started}
            yield gap | {"end": "not at work", "what": f"after {span.attempt.number}"}


def _checkpoints(run: RecordedRun) -> Iterator[dict[str, Any]]:
    for span in run.record.spans:
        for step, time in span.checkpoints:
            yield {"run": run.run, "step": step, "time": time}


def _profile(run: RecordedRun) -> Iterator[dict[str, Any]]:
    result = run.record.result
    if result is None or result.profile is None:
        return
    told = result.profile
    shares = {
        "data": told.data_share,
        "forward": told.forward_share,
        "backward": told.backward_share,
        "optimizer": told.optimizer_share,
        "checkpoint": told.checkpoint_share,
    }
    known = {name: share for name, share in shares.items() if share}
    rest = max(0.0, 1.0 - sum(known.values()))
    # On a GPU the program is ahead of the model: what is left is the model and the loop together.
    known["the rest" if told.forward_share is not None else "model"] = rest
    for name, share in known.items():
        yield {"run": run.run, "part": name, "share": rounded(share)}


def _charts(data: dict[str, Any], metric: str | None) -> Iterator[dict[str, Any]]:
    if any(columns["step"] for columns in data["curves"]):
        yield lines("loss", "Training loss", "curves", "smooth", raw="loss")
    elif any(columns["step"] for columns in data["epochs"]):
        yield lines("loss", "Training loss of each epoch", "epochs", "loss", points=True)
    if any(columns["step"] for columns in data["epochs"]):
        yield lines("metric", f"Validation {metric}", "epochs", "metric", points=True)
    if any(columns["step"] for columns in data["curves"]):
        yield lines("rate", "Learning rate", "curves", "rate", form=".1e")
        yield lines("speed", "Examples a second", "curves", "speed")
    if data["parallel"]:
        yield chart("parallel", "parallel", "Settings and metric of each run as a line", "configuration")
    if data["attempts"]:
        yield chart("attempts", "timeline", "Attempts of each run over time, by how they ended", "attempts")
    if data["reliability"]:
        yield chart(
            "reliability",
            "reliability",
            "Confidence of predictions and how many of them are right",
            "evaluations",
        )
    if data["profile"]:
        yield chart("profile", "profile", "Where the time of the training steps of each run went", "profile")


def lines(
    name: str,
    title: str,
    source: str,
    field: str,
    *,
    by: str = "step",
    raw: str | None = None,
    points: bool = False,
    form: str = "~g",
) -> dict[str, Any]:
    """Return what the script needs to draw a line for each run.

    Args:
        name: of the chart.
        title: of the chart.
        source: key of the data that has the columns of each run.
        field: column that is drawn.
        by: what the column ``step`` counts.
        raw: column that is drawn faintly behind it.
        points: whether each value has a point.
        form: format of the values.
    """
    return chart(name, "lines", f"{title} of each run by {by}", "curves") | {
        "title": title, "source": source, "field": field, "raw": raw, "points": points, "format": form,
        "by": by,
    }  # fmt: skip


def chart(name: str, kind: str, description: str, section: str) -> dict[str, Any]:
    """Return what the script needs to draw a chart of some kind in a section of the page."""
    return {"id": name, "kind": kind, "description": description, "section": section, "title": description}


def about_curves(data: dict[str, Any], runs: Sequence[object]) -> str:
    """Say what the lines are."""
    what = (
        "Loss and speed are moving averages of the steps. Curves come from the committed checkpoints: "
        "after any number of crashes each step is there once."
    )
    if len(runs) > len(data["chosen"]):
        what += (
            f" The best {len(data['chosen'])} runs are in colour, the others grey; the squares in the table "
            "of runs choose others."
        )
    return what
