"""What Temporal Web shows of an experiment: search attributes and the current details."""

from __future__ import annotations

from typing import Any, Final

from temporalio import workflow
from temporalio.common import (
    SearchAttributeKey,
    SearchAttributePair,
    SearchAttributeUpdate,
    TypedSearchAttributes,
)

with workflow.unsafe.imports_passed_through():
    from durabert.specs import (
        LOWER_IS_BETTER,
        AttemptReport,
        BatchProgress,
        EvaluationOutcome,
        ExperimentProgress,
        ExperimentSpec,
        RunOutcome,
        RunProgress,
        SweepProgress,
        SweepSpec,
        TrialRecord,
    )
    from durabert.specs.trial import ranked_trials

EXPERIMENT: Final = SearchAttributeKey.for_keyword("DurabertExperiment")
MODEL: Final = SearchAttributeKey.for_keyword_list("DurabertModel")
DATASET: Final = SearchAttributeKey.for_keyword("DurabertDataset")
TASK: Final = SearchAttributeKey.for_keyword("DurabertTask")
STATUS: Final = SearchAttributeKey.for_keyword("DurabertStatus")
BEST_METRIC: Final = SearchAttributeKey.for_float("DurabertBestMetric")

KEYWORD_LENGTH: Final = 255
"""Longest keyword that every database of Temporal can index."""


def search_attributes(spec: ExperimentSpec | SweepSpec) -> TypedSearchAttributes:
    """Return the search attributes that an experiment or a sweep starts with."""
    configs = spec.runs if isinstance(spec, ExperimentSpec) else [spec.config]
    return TypedSearchAttributes(
        [
            SearchAttributePair(EXPERIMENT, spec.name),
            SearchAttributePair(MODEL, sorted({keyword(config.model) for config in configs})),
            SearchAttributePair(DATASET, keyword(spec.data.source)),
            SearchAttributePair(STATUS, "running"),
        ]
    )


def keyword(path: str) -> str:
    """Return what of a path can be indexed."""
    # The end of a long path says more than its beginning.
    return path[-KEYWORD_LENGTH:]


def publish_outcomes(outcomes: list[RunOutcome]) -> None:
    """Set the search attributes of an experiment that has ended."""
    completed = [outcome.result for outcome in outcomes if outcome.result is not None]
    if not completed:
        publish_end(overall_status(outcomes))
        return
    scores = [run.metrics[run.metric] for run in completed]
    best = min(scores) if completed[0].metric in LOWER_IS_BETTER else max(scores)
    publish_end(overall_status(outcomes), task=completed[0].task, best=best)


def publish_end(status: str, *, task: str | None = None, best: float | None = None) -> None:
    """Set the search attributes of a workflow that has ended.

    Nothing is set where the client found the namespace without them: an unknown attribute would block the
    workflow task.
    """
    if workflow.info().typed_search_attributes.get(EXPERIMENT) is None:
        return
    updates: list[SearchAttributeUpdate[Any]] = [STATUS.value_set(status)]
    if task is not None:
        updates.append(TASK.value_set(task))
    if best is not None:
        updates.append(BEST_METRIC.value_set(best))
    workflow.upsert_search_attributes(updates)


def overall_status(outcomes: list[RunOutcome]) -> str:
    """Return the status all runs share, else ``partial``."""
    statuses = {outcome.status for outcome in outcomes}
    return statuses.pop() if len(statuses) == 1 else "partial"


def run_table(runs: list[str], ended: list[RunOutcome]) -> str:
    """Return a Markdown table of the runs and how far they are."""
    by_run = {outcome.run: outcome for outcome in ended}
    rows = [_row(run, by_run.get(run)) for run in runs]
    return "\n".join(["| run | status | validation | model |", "|---|---|---|---|", *rows])


def _row(run: str, outcome: RunOutcome | None) -> str:
    if outcome is None:
        return f"| {run} | open | | |"
    where = _cell(outcome.result.directory) if outcome.result is not None else ""
    return f"| {run} | {outcome.status} | {_came_to(outcome)} | {where} |"


def _came_to(outcome: RunOutcome) -> str:
    if outcome.result is not None:
        return f"{outcome.result.metric} {outcome.result.metrics[outcome.result.metric]:.4f}"
    return _cell(outcome.error.message) if outcome.error else ""


def _cell(text: str) -> str:
    # Either would end the cell of a table in Markdown.
    return " ".join(text.split()).replace("|", "\\|")


SHOWN_ATTEMPTS: Final = 5
SHOWN_EVALUATIONS: Final = 100


def progress_table(progress: ExperimentProgress, ended: list[RunOutcome]) -> str:
    """Return a Markdown table of the runs with steps, checkpoints and attempts, as last reported."""
    by_run = {outcome.run: outcome for outcome in ended}
    rows = [_progress_row(run, by_run.get(run.run)) for run in progress.runs]
    head = ["| run | status | step | loss | checkpoint | attempts | |", "|---|---|---|---|---|---|---|"]
    return "\n".join([*head, *rows])


def _progress_row(run: RunProgress, outcome: RunOutcome | None) -> str:
    step = f"{run.step} of {run.steps}" if run.steps else ""
    loss = "" if run.loss is None else f"{run.loss:.4f}"
    checkpoint = "" if run.checkpoint_step is None else f"step {run.checkpoint_step}"
    status, what = "open", ""
    if outcome is not None:
        status, what = outcome.status, _came_to(outcome)
        if outcome.result is not None:
            result = outcome.result
            # What was reported is older than the end.
            step, loss, checkpoint = f"{result.steps}", f"{result.train_loss:.4f}", f"step {result.steps}"
            what = f"{what}, {_cell(result.directory)}"
    attempts = "; ".join(_attempt(attempt, status) for attempt in run.attempts[-SHOWN_ATTEMPTS:])
    return f"| {run.run} | {status} | {step} | {loss} | {checkpoint} | {attempts} | {what} |"


def _attempt(attempt: AttemptReport, status: str) -> str:
    start = "" if attempt.resumed_from is None else f" from step {attempt.resumed_from}"
    return f"{attempt.number}{start}: {attempt.ended or ('goes on' if status == 'open' else status)}"


def evaluation_table(evaluations: dict[str, list[EvaluationOutcome]]) -> str:
    """Return a Markdown table of the evaluations that have ended, by run; the newest 100."""
    rows = [
        f"| {run} | {one.name} | {_measured(one)} |" for run, ended in evaluations.items() for one in ended
    ]
    if not rows:
        return ""
    return "\n".join(["| run | evaluation set | |", "|---|---|---|", *rows[-SHOWN_EVALUATIONS:]])


def _measured(outcome: EvaluationOutcome) -> str:
    if outcome.result is None:
        return _cell(outcome.error.message) if outcome.error else outcome.status
    result = outcome.result
    low, high = result.intervals[result.metric]
    return f"{result.metric} {result.metrics[result.metric]:.4f}, {low:.4f} to {high:.4f}, {result.rows} rows"


def batch_details(output: str, progress: BatchProgress) -> str:
    """Return a Markdown table of how far a batch is."""
    rate = "" if progress.rows_per_second is None else f"{progress.rows_per_second:.0f}"
    left = "" if progress.eta_seconds is None else f"{progress.eta_seconds:.0f}"
    return "\n".join(
        [
            f"{progress.phase}, into {_cell(output)}",
            "",
            "| rows | shards | in flight | rows/s | seconds left |",
            "|---|---|---|---|---|",
            f"| {progress.rows_done} of {progress.rows} | {progress.shards_done} of {progress.shards} "
            f"| {progress.in_flight} | {rate} | {left} |",
        ]
    )


SHOWN_TRIALS: Final = 20


def sweep_table(progress: SweepProgress) -> str:
    """Return Markdown tables of the rungs of a sweep and of its best trials."""
    lower = progress.metric in LOWER_IS_BETTER
    by_score = ranked_trials(progress.trials, lower_is_better=lower, best=progress.best)
    rungs = [f"| {rung.epochs} | {rung.reached} | {rung.running} |" for rung in progress.rungs]
    begun = f"{len(progress.trials)} of {progress.control.trials} trials begun"
    return "\n".join(
        [
            f"{progress.phase}{', paused' if progress.control.paused else ''}, {begun}",
            "",
            "| epochs | trials | running |",
            "|---|---|---|",
            *rungs,
            "",
            f"| trial | status | epochs | {progress.metric or 'metric'} | |",
            "|---|---|---|---|---|",
            *(_trial_row(one, lower_is_better=lower) for one in by_score[:SHOWN_TRIALS]),
        ]
    )


def _trial_row(one: TrialRecord, *, lower_is_better: bool) -> str:
    best = one.best_value(lower_is_better=lower_is_better)
    score = "" if best is None else f"{best:.4f}"
    what = (
        one.error.message if one.error else ", ".join(f"{name} {value}" for name, value in one.params.items())
    )
    return f"| {one.number} | {one.status} | {one.epochs} | {score} | {_cell(what)} |"
