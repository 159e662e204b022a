"""The child workflows of a sweep: its trials, and the trainings of its best configuration."""

from __future__ import annotations

from statistics import fmean, stdev
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.common import WorkflowIDReusePolicy
from temporalio.exceptions import (
    ChildWorkflowError,
    WorkflowAlreadyStartedError,
    is_cancelled_exception,
)
from temporalio.workflow import ChildWorkflowCancellationType, ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from durabert.contract import CHECKPOINTED_WORKFLOW, TRIAL_WORKFLOW
    from durabert.specs import (
        ErrorInfo,
        ExperimentResult,
        ExperimentSpec,
        FinalResult,
        FinalRun,
        FineTuneConfig,
        RunOutcome,
        SweepSpec,
        SweepState,
        TrialRecord,
        TrialRequest,
        Wire,
    )
    from durabert.specs.base import RUN_SEPARATOR
    from durabert.specs.data import SNAPSHOT_PREFIX
    from durabert.specs.sweep import FINAL
    from durabert.workflows.failures import error_info
    from durabert.workflows.policies import cancel_requested
    from durabert.workflows.trials import stretch_of

if TYPE_CHECKING:
    from collections.abc import Callable


async def train_trial(request: TrialRequest, *, started: Callable[[], None]) -> TrialRecord:
    """Train a trial to a rung in a child workflow, and return what it has come to.

    Args:
        request: what to train.
        started: called when the server has begun it.

    Raises:
        ChildWorkflowError: the sweep is being cancelled; no process of the trial is left.
    """
    name = f"{request.sweep}{RUN_SEPARATOR}{request.number}"
    try:
        record = await _child(
            TRIAL_WORKFLOW,
            request,
            TrialRecord,
            name=name,
            summary=stretch_of(request),
            started=started,
        )
    except WorkflowAlreadyStartedError:
        error = ErrorInfo(type="NameInUse", message=f"the name {name!r} is in use by another workflow")
        return TrialRecord(number=request.number, status="failed", error=error)
    except ChildWorkflowError as error:
        if cancel_requested():
            raise
        status = "cancelled" if is_cancelled_exception(error) else "failed"
        return TrialRecord.model_validate(
            {"number": request.number, "status": status, "error": error_info(error)}
        )
    assert isinstance(record, TrialRecord)
    return record


async def final_result(spec: SweepSpec, state: SweepState, best: TrialRecord) -> FinalResult:
    """Train the best configuration with other seeds, as an experiment of its own."""
    config = FineTuneConfig.parse({**spec.config.model_dump(), "best_metric": state.metric, **best.params})
    seeds = [config.seed + number for number in range(1, spec.final_seeds + 1)]
    experiment = ExperimentSpec(
        name=spec.name + FINAL,
        # The very rows of the trials; the snapshot has all splits.
        data=spec.data.model_copy(
            update={"source": f"{SNAPSHOT_PREFIX}{state.snapshot}", "validation": None, "test": None}
        ),
        runs=tuple(config.model_copy(update={"name": f"seed-{seed}", "seed": seed}) for seed in seeds),
        checkpoints=spec.checkpoints,
    )
    try:
        result = await _child(
            CHECKPOINTED_WORKFLOW,
            experiment,
            ExperimentResult,
            name=experiment.name,
            summary=f"the best configuration with {len(seeds)} seeds",
        )
    except WorkflowAlreadyStartedError:
        error = ErrorInfo(
            type="NameInUse", message=f"the name {experiment.name!r} is in use by another workflow"
        )
        return FinalResult(config=config, runs=[], error=error)
    except ChildWorkflowError as error:
        if cancel_requested():
            raise
        return FinalResult(config=config, runs=[], error=error_info(error))
    assert isinstance(result, ExperimentResult)
    return _summary(config, seeds, result.outcomes, metric=state.metric)


def _summary(
    config: FineTuneConfig, seeds: list[int], outcomes: list[RunOutcome], *, metric: str
) -> FinalResult:
    runs = [_final_run(seed, outcome) for seed, outcome in zip(seeds, outcomes, strict=True)]
    scores = [run.test_metrics[metric] for run in runs if run.test_metrics is not None]
    return FinalResult(
        config=config,
        runs=runs,
        test_mean=fmean(scores) if scores else None,
        test_std=stdev(scores) if len(scores) > 1 else None,
    )


def _final_run(seed: int, outcome: RunOutcome) -> FinalRun:
    result = outcome.result
    if result is None:
        return FinalRun(run=outcome.run, seed=seed, error=outcome.error)
    return FinalRun(
        run=outcome.run,
        seed=seed,
        metrics=result.metrics,
        test_metrics=result.test_metrics,
        model_sha256=result.model_sha256,
    )


async def _child(
    kind: str,
    request: Wire,
    result: type[Wire],
    *,
    name: str,
    summary: str,
    started: Callable[[], None] = lambda: None,
) -> Wire:
    handle = await workflow.start_child_workflow(
        kind,
        request,
        id=name,
        result_type=result,
        # A trial that is promoted goes on under its own name, and so does all of a sweep that is begun again.
        id_reuse_policy=WorkflowIDReusePolicy.ALLOW_DUPLICATE,
        # Who is told that a sweep is cancelled must find no process of it.
        cancellation_type=ChildWorkflowCancellationType.WAIT_CANCELLATION_COMPLETED,
        parent_close_policy=ParentClosePolicy.REQUEST_CANCEL,
        static_summary=summary,
    )
    started()
    answer: Wire = await handle
    return answer
