"""From the spec of a sweep to its ledger, and from a decision to what a trial is asked for; no Temporal."""

from __future__ import annotations

from durabert.specs import LOWER_IS_BETTER, SuggestionRequest, SweepSpec, SweepState, TrialRequest
from durabert.workflows.search import Job, Ledger, Rules, median_thresholds


def ledger_of(spec: SweepSpec, state: SweepState | None) -> Ledger:
    """Return the ledger of a sweep as it was handed on; a new one before the first training."""
    metric = state.metric if state else spec.config.best_metric
    rules = Rules(spec.rungs, spec.reduction_factor, lower_is_better=metric in LOWER_IS_BETTER)
    ledger = Ledger(rules, reproducible=spec.reproducible)
    if state is not None:
        ledger.jobs = list(state.jobs)
        ledger.trials = {one.number: one for one in state.trials}
        ledger.known = state.known
    return ledger


def trial_request(spec: SweepSpec, state: SweepState, ledger: Ledger, job: Job) -> TrialRequest:
    """Return what the workflow of a trial is asked for, by what is known before it begins."""
    rungs, record = ledger.rules.rungs, ledger.trials.get(job.trial)
    highest = job.rung + len(job.bars)
    return TrialRequest(
        sweep=spec.name,
        number=job.trial,
        data=spec.data,
        snapshot=state.snapshot,
        # The metric that the task has by default is the same for all, whatever a later version takes.
        config=spec.config.model_copy(update={"best_metric": state.metric}),
        params=record.params if record else None,
        suggestion=None if record else _suggestion(spec, ledger, job.trial),
        until_epoch=rungs[highest] if highest < len(rungs) - 1 else None,
        thresholds=_thresholds(spec, ledger, job),
        checkpoints=spec.checkpoints,
    )


def num_values(request: TrialRequest) -> int:
    """Return how many values of known trials a request has, by which its size grows."""
    suggestion = request.suggestion
    return 0 if suggestion is None else sum(3 + len(one.params) for one in suggestion.known)


def _suggestion(spec: SweepSpec, ledger: Ledger, trial: int) -> SuggestionRequest:
    return SuggestionRequest(
        space=spec.space,
        algorithm=spec.algorithm,
        seed=spec.seed,
        number=trial,
        lower_is_better=ledger.rules.lower_is_better,
        known=ledger.known_trials() if spec.algorithm == "tpe" else [],
    )


def _thresholds(spec: SweepSpec, ledger: Ledger, job: Job) -> tuple[float | None, ...]:
    if spec.stopping == "median":
        return median_thresholds(ledger.curves(), min_epochs=spec.min_epochs, max_epochs=spec.config.epochs)
    rungs = ledger.rules.rungs[job.rung :]
    bar_of = dict(zip(rungs, job.bars, strict=False))
    return tuple(bar_of.get(epoch) for epoch in range(1, max(bar_of, default=0) + 1))
