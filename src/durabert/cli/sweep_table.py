"""How a sweep looks: its trials, the best first, and what the best configuration came to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.table import Table

from durabert.cli.output import put
from durabert.client.sweeps import NOBODY_ANSWERS
from durabert.specs import LOWER_IS_BETTER
from durabert.specs.trial import ranked_trials

if TYPE_CHECKING:
    from durabert.client import SweepView
    from durabert.specs import FinalResult, TrialRecord


def print_sweep(view: SweepView) -> None:
    """Print the trials of a sweep, the best first, and what the best configuration came to."""
    if view.phase == NOBODY_ANSWERS:
        put(f"{view.name} is {view.status}, and no worker tells how far it is; durabert watch {view.name}")
        return
    names = list(dict.fromkeys(name for trial in view.trials for name in trial.params))
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("trial", "status"):
        table.add_column(column)
    for column in ("epochs", f"validation {view.metric}" if view.metric else "validation", "seconds", *names):
        table.add_column(column, justify="right")
    lower = view.metric in LOWER_IS_BETTER
    for trial in ranked_trials(view.trials, lower_is_better=lower, best=view.best):
        chosen = [_param(trial.params.get(name)) for name in names]
        table.add_row(
            f"{view.name}.{trial.number}", trial.status, str(trial.epochs), trial_score(view, trial),
            f"{trial.seconds:.1f}", *chosen,
        )  # fmt: skip
    put(table)
    for trial in view.trials:
        if trial.error:
            put(f"{view.name}.{trial.number}: {trial.error.message}", style="yellow")
    control = view.control
    begun = f" of {control.trials}" if control else ""
    put(f"{view.name} is {view.status}: {len(view.trials)}{begun} trials, best {_best(view)}")
    if view.final is not None:
        _print_final(view.final, view.metric or "")


def trial_score(view: SweepView, trial: TrialRecord) -> str:
    """Return the best value of a trial so far; empty before the first."""
    value = trial.best_value(lower_is_better=view.metric in LOWER_IS_BETTER)
    return "" if value is None else f"{value:.4f}"


def _best(view: SweepView) -> str:
    return "none yet" if view.best is None else f"{view.name}.{view.best}"


def _param(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _print_final(final: FinalResult, metric: str) -> None:
    if final.error is not None:
        put(f"final trainings: {final.error.message}", style="yellow")
    for run in final.runs:
        told = [
            f"{what} {metric} {metrics[metric]:.4f}"
            for what, metrics in (("validation", run.metrics), ("test", run.test_metrics))
            if metrics
        ]
        put(f"{run.run}: {', '.join(told) or (run.error and run.error.message) or 'cancelled'}")
    if final.test_mean is not None:
        spread = "" if final.test_std is None else f", standard deviation {final.test_std:.4f}"
        put(f"test {metric} of the best configuration: mean {final.test_mean:.4f}{spread}")
