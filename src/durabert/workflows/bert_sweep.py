"""The fourth pattern: search over configurations, trial by trial, and train the best one with other seeds."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from temporalio import workflow
from temporalio.exceptions import (
    ApplicationError,
    FailureError,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    # Not from the package: a run has a copy of that, and would get one of the module with it.
    import durabert.workflows.policies as policies
    from durabert.contract import (
        CREATE_DATASET_SNAPSHOT,
        PLAN_SWEEP,
        SWEEP_WORKFLOW,
    )
    from durabert.specs import (
        RungProgress,
        SnapshotRequest,
        SweepPlanRequest,
        SweepProgress,
        SweepResult,
        SweepSpec,
        SweepState,
        TrialRecord,
        TrialRequest,
    )
    from durabert.workflows.children import final_result, train_trial
    from durabert.workflows.failures import failing_alike
    from durabert.workflows.policies import call, history_is_long, require_not_cancelled
    from durabert.workflows.search import Job
    from durabert.workflows.searching import ledger_of, num_values, trial_request
    from durabert.workflows.steering import SweepSteering
    from durabert.workflows.visibility import publish_end, sweep_table

if TYPE_CHECKING:
    from durabert.specs import FinalResult


@workflow.defn(name=SWEEP_WORKFLOW)
class BertSweepWorkflow(SweepSteering):
    """Snapshot the data once, train trials as the search decides, and the best configuration at the end."""

    @workflow.init
    def __init__(self, spec: SweepSpec) -> None:
        super().__init__(spec)
        self._state: SweepState | None = spec.state
        self._ledger = ledger_of(spec, spec.state)
        self._trainings: set[asyncio.Task[None]] = set()
        self._is_cut = False
        self._error: BaseException | None = None
        self._final: FinalResult | None = None
        self._phase: str = "preparing"

    @workflow.run
    async def run(self, spec: SweepSpec) -> SweepResult:
        """Return every trial and the best one.

        Raises:
            ApplicationError: the data or the metric do not fit, or every trial failed; its detail is then the
                ``SweepResult``.
        """
        self._show()
        try:
            with failing_alike():
                result = await self._conduct(spec)
        except ApplicationError:
            publish_end("failed")
            raise
        except (asyncio.CancelledError, FailureError) as error:
            if is_cancelled_exception(error):
                publish_end("cancelled")
            raise
        best = next((one for one in result.trials if one.number == result.best), None)
        score = self._ledger.rules.best_of(best.values) if best else None
        publish_end("completed", task=result.task, best=score)
        return result

    async def _conduct(self, spec: SweepSpec) -> SweepResult:
        if self._state is None:
            self._state = await self._prepared()
            self._ledger = ledger_of(spec, self._state)
        self._phase = "searching"
        await self._search()
        if not self._is_over():
            workflow.continue_as_new(spec.model_copy(update={"state": self._handed_on()}))
        self.searching, self._phase = False, "final trainings"
        best = self._ledger.best()
        if best is not None and spec.final_seeds:
            self._show()
            self._final = await final_result(spec, self._known, self._ledger.trials[best])
        self._phase = "ended"
        self._show()
        return self._result(best)

    @workflow.query
    def progress(self) -> SweepProgress:
        """Return every trial, how many have come to each rung, and the best so far."""
        trials = list(self._ledger.trials.values())
        return SweepProgress.model_validate(
            {
                "name": self.spec.name,
                "phase": self._phase,
                "metric": self._state.metric if self._state else None,
                "control": self.control,
                "rungs": self._rungs(trials),
                "epochs": sum(one.epochs for one in trials),
                "best": self._ledger.best(),
                "trials": trials,
                "final": self._final,
            }
        )

    @property
    def _known(self) -> SweepState:
        assert self._state is not None
        return self._state

    def _handed_on(self) -> SweepState:
        ledger = self._ledger
        return self._known.model_copy(
            update={
                "control": self.control,
                "trials": list(ledger.trials.values()),
                "jobs": ledger.jobs,
                "known": ledger.known,
            }
        )

    async def _prepared(self) -> SweepState:
        spec = self.spec
        taken = await call(
            CREATE_DATASET_SNAPSHOT,
            SnapshotRequest(data=spec.data),
            activity_id="snapshot",
            summary=f"snapshot of {spec.data.source}",
        )
        require_not_cancelled()
        plan = await call(
            PLAN_SWEEP,
            SweepPlanRequest(data=spec.data, snapshot=taken.snapshot, config=spec.config),
            activity_id="plan",
            summary=f"plan {spec.algorithm} over {', '.join(spec.space)}",
        )
        require_not_cancelled()
        return SweepState(
            snapshot=taken.snapshot,
            task=plan.task,
            metric=plan.metric,
            started=workflow.now(),
            control=self.control,
        )

    async def _search(self) -> None:
        """Train until nothing is left to begin, or the history is long; return when no training goes on."""
        try:
            while True:
                self.changed = False
                if self._error is not None:
                    raise self._error
                self._begin_all()
                self._show()
                if not self._trainings and (self._is_over() or self._is_long()):
                    return
                await workflow.wait_condition(lambda: self.changed)
        except BaseException:
            # This ends when no process of any trial is left.
            for training in self._trainings:
                training.cancel()
            if self._trainings:
                await workflow.wait(list(self._trainings))
            raise

    def _begin_all(self) -> None:
        values = 0
        while values < policies.LARGE_TASK and (job := self._next()) is not None:
            # Of what was known before it began.
            request = trial_request(self.spec, self._known, self._ledger, job)
            values += num_values(request)
            training = asyncio.create_task(self._train(self._ledger.begin(job), request))
            self._trainings.add(training)
            training.add_done_callback(self._left)
        self._is_cut = values >= policies.LARGE_TASK

    def _started(self) -> None:
        # Whether more can be begun is decided in another task, and this is one.
        self.changed = self.changed or self._is_cut

    def _left(self, training: asyncio.Task[None]) -> None:
        self._trainings.discard(training)
        if not training.cancelled():
            # Nobody awaits it: an error that it should not have would leave the sweep waiting for ever.
            self._error = self._error or training.exception()
        self.changed = True

    def _next(self) -> Job | None:
        """Return what to begin now."""
        return None if self.control.paused or self._is_long() else self._wanted()

    def _wanted(self) -> Job | None:
        spec, ledger = self.spec, self._ledger
        if spec.budget_seconds is not None:
            seconds = (workflow.now() - self._known.started).total_seconds()
            if seconds >= spec.budget_seconds:
                return None
        job = ledger.decide(
            concurrency=self.control.concurrency,
            num_trials=self.control.trials,
            # What a budget bounds is asked at every rung.
            ahead=spec.budget_epochs is None and spec.budget_seconds is None,
        )
        if job is None or spec.budget_epochs is None:
            return job
        return job if ledger.spent() + ledger.rules.cost(job) <= spec.budget_epochs else None

    def _is_over(self) -> bool:
        """Return whether nothing goes on and nothing is left to begin."""
        return not self._trainings and not self.control.paused and self._wanted() is None

    def _is_long(self) -> bool:
        return history_is_long(window=self.control.concurrency, long=policies.LONG_SWEEP)

    async def _train(self, place: int, request: TrialRequest) -> None:
        before = self._ledger.trials[request.number]
        record = await train_trial(request, started=self._started)
        if record.status in {"failed", "cancelled"}:
            # What it came to before stays.
            record = before.model_copy(
                update={
                    "status": record.status,
                    "params": record.params or before.params,
                    "error": record.error,
                }
            )
        self._ledger.end(place, record)

    def _result(self, best: int | None) -> SweepResult:
        state = self._known
        result = SweepResult(
            name=self.spec.name,
            task=state.task,
            metric=state.metric,
            snapshot=state.snapshot,
            trials=list(self._ledger.trials.values()),
            best=best,
            final=self._final,
            seconds=(workflow.now() - state.started).total_seconds(),
        )
        errors = [one.error for one in result.trials if one.error]
        if best is None and errors:
            different = len({error.message for error in errors})
            rest = f" (and {different - 1} other errors)" if different > 1 else ""
            raise ApplicationError(errors[0].message + rest, result, type=errors[0].type, non_retryable=True)
        return result

    def _rungs(self, trials: list[TrialRecord]) -> list[RungProgress]:
        rungs, before = [], 0
        for epochs in self._ledger.rules.rungs:
            running = [one for one in trials if one.status == "running" and before <= one.epochs < epochs]
            reached = [one for one in trials if one.epochs >= epochs]
            rungs.append(RungProgress(epochs=epochs, reached=len(reached), running=len(running)))
            before = epochs
        return rungs

    def _show(self) -> None:
        workflow.set_current_details(sweep_table(self.progress()))
