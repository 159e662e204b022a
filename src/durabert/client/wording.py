"""An experiment in words: for Temporal Web, and for who gave a name twice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from durabert.contract import FINE_TUNING_WORKFLOW, PATTERNS

if TYPE_CHECKING:
    from durabert.specs import ExperimentSpec

OTHER_NAME: Final = "choose another name"


def summary(spec: ExperimentSpec) -> str:
    """Return one line, at most 200 characters."""
    models = ", ".join(sorted({config.model for config in spec.runs}))
    return f"Fine-tune {models} on {spec.data.source}: {len(spec.each_run())} runs"[:200]


def details(spec: ExperimentSpec) -> str:
    """Return a Markdown table of the configurations, the first 50 of them."""
    rows = [
        f"| {run} | {config.model} | {config.epochs} | {config.batch_size} | {config.learning_rate:g} |"
        for run, config in spec.each_run()
    ]
    head = ["| run | model | epochs | batch size | learning rate |", "|---|---|---|---|---|"]
    return "\n".join([f"Data: `{spec.data.source}`", "", *head, *rows[:50]])


def difference(theirs: ExperimentSpec, ours: ExperimentSpec) -> str:
    """Say in a few words what is different first."""
    if len(theirs.runs) != len(ours.runs):
        return f"it has {len(theirs.runs)} runs, not {len(ours.runs)}"
    # Whether a result may be linked is no difference.
    rest = (theirs, ours.model_copy(update={"reuse": theirs.reuse}))
    pairs = [(theirs.data, ours.data), *zip(theirs.runs, ours.runs, strict=True), rest]
    for old, new in pairs:
        before, after = old.model_dump(), new.model_dump()
        for field in before:
            if field == "evaluations" and before[field] != after[field]:
                return f"it has {len(before[field])} other evaluation sets"
            if before[field] != after[field]:
                return f"its {field} is {before[field]!r}, not {after[field]!r}"
    return "another spec"


def advice(completed: ExperimentSpec, ours: ExperimentSpec) -> str:
    """Say what to do about a name that belongs to an experiment that has completed."""
    pairs = list(zip(completed.runs, ours.runs, strict=False))
    longer = any(new.epochs > old.epochs for old, new in pairs)
    same = all(old.model_copy(update={"epochs": new.epochs}) == new for old, new in pairs)
    if not (longer and same and len(completed.runs) == len(ours.runs)):
        return OTHER_NAME
    return f"{OTHER_NAME}, and to train on from it give --from {completed.run_names()[0]}"


def to_train_on(run: str, workflow: str) -> str:
    """Say how to train on from a run that has completed."""
    if not makes_checkpoints(workflow):
        return ", and made no checkpoint to train on from"
    return (
        f"; to train on from it, start a new run: durabert train DATA --name NEW --from {run} --epochs MORE"
    )


def pattern_of(workflow: str) -> str:
    """Return the name of the pattern of a workflow type."""
    return next(pattern for pattern, kind in PATTERNS.items() if kind == workflow)


def makes_checkpoints(workflow: str) -> bool:
    """Return whether the runs of a workflow type can be gone on with."""
    return workflow != FINE_TUNING_WORKFLOW
