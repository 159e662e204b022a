"""The client: one object that knows the server, the queues and the names."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from temporalio.client import (
    WorkflowExecutionStatus,
    WorkflowFailureError,
    WorkflowHandle,
    WorkflowHistory,
    WorkflowUpdateFailedError,
)
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import ApplicationError, WorkflowAlreadyStartedError
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.batches import RunningBatch, find_batch, start_batch
from durabert.client.evaluations import start_evaluation
from durabert.client.exports import start_export
from durabert.client.failures import restored, server_answers
from durabert.client.identity import who
from durabert.client.namespace import register_search_attributes
from durabert.client.pausing import let_go_on, pause
from durabert.client.predictions import start_prediction
from durabert.client.promotions import RunningPromotion, find_promotion, start_promotion
from durabert.client.running import RunningJob, ended
from durabert.client.schedules import Schedules
from durabert.client.status import experiment_view, is_experiment, spec_of
from durabert.client.sweeps import (
    RunningSweep,
    find_sweep,
    find_trial,
    start_sweep,
    sweep_spec,
    sweep_statuses,
)
from durabert.client.views import ExperimentView, Resumed, RunView, Started
from durabert.client.wording import (
    OTHER_NAME,
    advice,
    details,
    difference,
    makes_checkpoints,
    summary,
    to_train_on,
)
from durabert.connection import TaskQueues, connect, explicit_profile, plain_profile
from durabert.contract import (
    CANCEL_RUN_UPDATE,
    EVAL_WORKFLOW,
    PATTERNS,
    SEARCH_ATTRIBUTES,
    SPEC_DIGEST_MEMO,
    STARTED_BY_MEMO,
)
from durabert.engine import Engine, home_directory
from durabert.errors import NameInUse, RunNotFound, RunNotUsable, SpecInvalid
from durabert.specs import (
    BatchInferenceRequest,
    EvaluationRequest,
    EvaluationResult,
    ExperimentSpec,
    ExportRequest,
    ExportResult,
    FineTuneResult,
    InferenceRequest,
    InferenceResult,
    RunOutcome,
    SweepSpec,
    checked_run,
)
from durabert.specs.base import RUN_SEPARATOR
from durabert.specs.registry import ModelRef, PromotionRequest, require_metrics
from durabert.store.objects import open_store
from durabert.workflows.visibility import search_attributes

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from temporalio.client import Client as TemporalClient

DEFAULT_PATTERN: Final = next(iter(PATTERNS))

POLL_INTERVAL: Final = timedelta(seconds=0.5)
"""How often a watched experiment is described; heartbeats reach the server once a second."""


class Client:
    """Start, follow and end experiments.

    Make one with ``Client.connect``; use it inside ``async with``.
    """

    def __init__(
        self, temporal: TemporalClient, *, queues: TaskQueues | None = None, engine: Engine | None = None
    ) -> None:
        self.temporal = temporal
        self.queues = queues or TaskQueues.from_environment()
        self.engine = engine

    @classmethod
    @asynccontextmanager
    async def connect(
        cls,
        *,
        profile: str | None = None,
        home: Path | None = None,
        worker: bool = True,
        queues: TaskQueues | None = None,
        on_starting: Callable[[], None] | None = None,
    ) -> AsyncIterator[Client]:
        """Connect to the server of a profile, else to this home's embedded engine, starting it if needed.

        Args:
            profile: name of a connection profile; default ``TEMPORAL_PROFILE`` or ``TEMPORAL_ADDRESS``.
            home: home directory of the embedded engine; default ``DURABERT_HOME``, else ``./.durabert``.
            worker: whether the embedded engine needs its worker; a remote server brings its own.
            queues: task queues; default from the environment.
            on_starting: called before an engine is started.

        Raises:
            EngineUnavailable: no server answers.
            StoreInvalid: the embedded engine's worker could not use the artifact store.
        """
        chosen = explicit_profile(profile)
        if chosen is not None:
            with server_answers():
                yield cls(await connect(chosen), queues=queues)
            return
        home = home_directory(home)
        if worker:
            # Its worker would find out, too, but could tell it in its log alone.
            await asyncio.to_thread(open_store(None, home=home).check)
        engine = await asyncio.to_thread(
            Engine.attach,
            home,
            worker=worker,
            search_attributes=SEARCH_ATTRIBUTES,
            on_starting=on_starting,
        )
        try:
            with server_answers():
                yield cls(await connect(plain_profile(engine.info.address)), queues=queues, engine=engine)
        finally:
            engine.close()

    async def start(self, spec: ExperimentSpec, *, pattern: str = DEFAULT_PATTERN) -> Started:
        """Start an experiment, or join it if the same spec was started under this name before.

        Args:
            spec: what to train.
            pattern: ``bert_checkpointing``, ``bert_finetune``, which makes neither snapshots nor
                checkpoints, or ``bert_eval``, which evaluates each run as well.

        Raises:
            NameInUse: the name belongs to another spec that runs or has completed.
            SpecInvalid: there is no such pattern, or it cannot do what the spec asks for.
        """
        if pattern not in PATTERNS:
            raise SpecInvalid(f"pattern is {pattern!r}, but should be {' or '.join(PATTERNS)}")
        if spec.evaluations and PATTERNS[pattern] != EVAL_WORKFLOW:
            raise SpecInvalid(
                f"evaluations has {len(spec.evaluations)} sets, but the pattern {pattern!r} evaluates "
                "nothing; use bert_eval"
            )
        if spec.start_from is not None and not makes_checkpoints(PATTERNS[pattern]):
            raise SpecInvalid(
                f"start_from is {spec.start_from.run!r}, but the pattern {pattern!r} makes no checkpoints to "
                f"begin from or to go on with; use {DEFAULT_PATTERN}"
            )
        try:
            await self._start(spec, PATTERNS[pattern], WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY)
        except WorkflowAlreadyStartedError:
            await self._require_same(spec)
            return Started(spec.name, joined=True)
        return Started(spec.name, joined=False)

    async def _start(
        self, spec: ExperimentSpec, workflow: str, reuse: WorkflowIDReusePolicy, *, queue: str | None = None
    ) -> None:
        await self.temporal.start_workflow(
            workflow,
            spec,
            id=spec.name,
            task_queue=queue or self.queues.train,
            id_reuse_policy=reuse,
            id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
            memo={SPEC_DIGEST_MEMO: spec.digest(), STARTED_BY_MEMO: who()},
            search_attributes=search_attributes(spec) if await self._is_searchable() else None,
            static_summary=summary(spec),
            static_details=details(spec),
        )

    async def status(self, name: str) -> ExperimentView:
        """Return what is so of an experiment, or of the experiment of a run.

        Raises:
            RunNotFound: there is none of that name.
        """
        handle, description = await self._experiment(name)
        return _with_run(experiment_view(description, await handle.fetch_history()), name)

    async def run_status(self, run: str) -> RunView:
        """Return what is so of one run.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: the name is an experiment of several runs.
        """
        view = await self.status(run)
        found = [candidate for candidate in view.runs if candidate.run == run]
        if found:
            return found[0]
        if run == view.name:
            names = ", ".join(candidate.run for candidate in view.runs)
            raise RunNotUsable(f"{run!r} is an experiment of {len(view.runs)} runs; name one of {names}")
        raise RunNotFound(run)

    async def watch(self, name: str) -> AsyncIterator[ExperimentView]:
        """Yield the state of an experiment, again and again, until it has ended; the last one is final.

        Raises:
            RunNotFound: there is none of that name.
        """
        handle, description = await self._experiment(name)
        history = await handle.fetch_history()
        while True:
            view = _with_run(experiment_view(description, history), name)
            yield view
            if view.ended is not None:
                return
            await asyncio.sleep(POLL_INTERVAL.total_seconds())
            try:
                description = await handle.describe()
                if description.history_length != len(history.events):
                    history = await handle.fetch_history()
            except RPCError:
                if self.engine is None:
                    raise
                # The engine's host was killed; started again, it has its runs on disk.
                await asyncio.to_thread(self.engine.revive)

    async def wait(self, name: str) -> ExperimentView:
        """Wait until an experiment has ended and return its final state, whatever it is."""
        handle, _ = await self._experiment(name)
        try:
            await ended(handle, self.engine)
        except WorkflowFailureError:
            # How it ended stands in the view.
            return await self.status(name)
        return await self.status(name)

    async def experiments(self) -> list[ExperimentView]:
        """Return every experiment that the server knows, the newest first."""
        query = f"WorkflowType IN ({', '.join(repr(kind) for kind in PATTERNS.values())})"
        # A name that was used again after a failure is listed once an execution.
        names = dict.fromkeys([found.id async for found in self.temporal.list_workflows(query)])
        views = []
        for name in names:
            # What another client has started with an argument that is no experiment has failed at once.
            with contextlib.suppress(ApplicationError):
                views.append(await self.status(name))
        return views

    async def cancel(self, name: str) -> ExperimentView:
        """Cancel an experiment or one run of it, and return its state once no process of it is left.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: it has already ended.
        """
        handle, _ = await self._experiment(name)
        view = await self.status(name)
        targets = [run for run in view.runs if name in (run.run, view.name)]
        if view.ended or all(run.ended for run in targets):
            raise RunNotUsable(f"{name!r} has already ended: {targets[0].status}")
        if len(targets) == len(view.runs):
            await handle.cancel()
            return await self.wait(view.name)
        try:
            await handle.execute_update(CANCEL_RUN_UPDATE, name, result_type=RunOutcome)
        except WorkflowUpdateFailedError as error:
            raise restored(error.cause) from None
        return await self.status(view.name)

    async def pause(self, name: str) -> ExperimentView:
        """Pause an experiment or one run of it: its device is free when this returns, and it stays open.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: it has ended, waits for its turn, or is paused already.
            EngineUnavailable: the server cannot pause.
        """
        await self.status(name)
        handle, _ = await self._experiment(name)
        await pause(self.temporal, handle, name)
        return await self.status(name)

    async def resume(self, name: str, *, queue: str | None = None) -> Resumed:
        """Let a paused run go on, or a cancelled or failed experiment from its newest checkpoints.

        Args:
            name: an experiment or a run.
            queue: task queue to go on on; default: the one that it was on, or that of this client.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: it has completed, or it ended inside an experiment that still runs, or it is to
                change its queue while it runs.
        """
        handle, description = await self._experiment(name)
        view = await self.status(name)
        targets = [run for run in view.runs if name in (run.run, view.name)]
        if view.ended is None:
            if all(run.ended for run in targets):
                raise RunNotUsable(
                    f"run {name!r} is {targets[0].status}, and its experiment {view.name!r} still runs; "
                    "resume it when that has ended"
                )
            how = await let_go_on(self.temporal, handle, name, queue=queue)
            if how == "running" and queue is not None:
                raise RunNotUsable(
                    f"{name!r} is running; pause it first, then resume it with --queue {queue}"
                )
            return Resumed(view.name, how)
        if all(run.status == "completed" for run in targets):
            raise RunNotUsable(
                f"{name!r} has completed" + to_train_on(targets[0].run, description.workflow_type)
            )
        spec = spec_of(await handle.fetch_history())
        reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
        try:
            await self._start(spec, description.workflow_type, reuse, queue=queue)
        except WorkflowAlreadyStartedError:
            # Somebody else was faster.
            return Resumed(view.name, "running")
        return Resumed(view.name, "restarted")

    async def predict(self, request: InferenceRequest) -> InferenceResult:
        """Predict with the model of a finished run.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
        """
        return await (await self.start_prediction(request)).result()

    async def start_prediction(self, request: InferenceRequest) -> RunningJob[InferenceResult]:
        """Start a prediction that may take long, and return what follows it.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
        """
        await self._require_model(request.run)
        return await start_prediction(self.temporal, request, queue=self.queues.inference, engine=self.engine)

    async def export(self, request: ExportRequest) -> ExportResult:
        """Write the model of a finished run to a directory that other tools load.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
            ExportRefused: the exported model does not predict as the trained one does.
        """
        return await (await self.start_export(request)).result()

    async def start_export(self, request: ExportRequest) -> RunningJob[ExportResult]:
        """Start an export, and return what follows it.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
        """
        await self._require_model(request.run)
        return await start_export(self.temporal, request, queue=self.queues.inference, engine=self.engine)

    async def start_promotion(self, request: PromotionRequest) -> RunningPromotion:
        """Start a promotion, or join it if the same one waits for a decision.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
            SpecInvalid: a gate asks for a metric that the run does not have.
            PromotionPending: another promotion to the alias is open.
        """
        result = await self._require_model(request.run)
        if result is not None:
            require_metrics(request, result.metrics)
        return await start_promotion(self.temporal, request, queue=self.queues.inference, engine=self.engine)

    async def promotion(self, ref: ModelRef) -> RunningPromotion:
        """Return the last promotion to an alias.

        Raises:
            PromotionNotOpen: there was none.
        """
        return await find_promotion(self.temporal, ref, engine=self.engine)

    @property
    def schedules(self) -> Schedules:
        """The schedules that retrain; their firings are worked on where experiments are."""
        return Schedules(self.temporal, queue=self.queues.train, is_searchable=self._is_searchable)

    async def evaluate(self, request: EvaluationRequest) -> EvaluationResult:
        """Evaluate a finished run, or find the evaluation that was made before.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
            UserError: the data do not fit the model.
        """
        return await (await self.start_evaluation(request)).result()

    async def start_evaluation(self, request: EvaluationRequest) -> RunningJob[EvaluationResult]:
        """Start an evaluation, or join it if the same one is running, and return what follows it.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
        """
        await self._require_model(request.run)
        return await start_evaluation(self.temporal, request, queue=self.queues.inference, engine=self.engine)

    async def start_batch(self, request: BatchInferenceRequest) -> RunningBatch:
        """Start a prediction on an input of any size, or join it if the same one is running.

        Raises:
            RunNotFound: there is no such run.
            RunNotUsable: it has no model.
        """
        await self._require_model(request.run)
        return await start_batch(self.temporal, request, queue=self.queues.inference, engine=self.engine)

    async def batch(self, name: str) -> RunningBatch:
        """Return a batch that was started before, by the id of its workflow.

        Raises:
            RunNotFound: there is none of that id.
        """
        return await find_batch(self.temporal, name, engine=self.engine)

    async def start_sweep(self, spec: SweepSpec) -> RunningSweep:
        """Start a search over configurations, or join it if the same was started under this name before.

        Raises:
            NameInUse: the name belongs to another sweep, or to an experiment.
        """
        return await self._start_sweep(spec)

    async def sweep(self, name: str) -> RunningSweep | None:
        """Return a sweep that was started before; none if there is none of that name."""
        return await find_sweep(self.temporal, name, engine=self.engine)

    async def sweeps(self) -> dict[str, str]:
        """Return the status of every sweep that the server knows, by its name, the newest first."""
        return await sweep_statuses(self.temporal)

    async def resume_sweep(self, sweep: RunningSweep) -> Resumed:
        """Let a paused sweep go on, or one that was cancelled or failed, with the trials that it has.

        Raises:
            RunNotUsable: it has completed.
        """
        view = await sweep.view()
        if view.status == "completed":
            raise RunNotUsable(f"sweep {sweep.name!r} has completed")
        if view.status == "paused":
            await sweep.set_paused(False)
            return Resumed(sweep.name, "unpaused")
        if not view.is_over:
            return Resumed(sweep.name, "running")
        spec = await sweep_spec(sweep)
        again = await self._start_sweep(spec, again=True)
        return Resumed(sweep.name, "running" if again.joined else "restarted")

    async def _start_sweep(self, spec: SweepSpec, *, again: bool = False) -> RunningSweep:
        return await start_sweep(
            self.temporal,
            spec,
            queue=self.queues.train,
            engine=self.engine,
            searchable=await self._is_searchable(),
            again=again,
        )

    async def history(self, name: str) -> WorkflowHistory:
        """Return the recorded history of an experiment or a prediction.

        Raises:
            RunNotFound: there is none of that name.
        """
        try:
            return await self.temporal.get_workflow_handle(name).fetch_history()
        except RPCError as error:
            # What cannot be an id, such as an empty one, is refused as an argument.
            if error.status in {RPCStatusCode.NOT_FOUND, RPCStatusCode.INVALID_ARGUMENT}:
                raise RunNotFound(name) from None
            raise

    async def _is_searchable(self) -> bool:
        # The embedded engine registers the attributes itself when it starts.
        return self.engine is not None or await register_search_attributes(self.temporal)

    async def _experiment(self, name: str) -> tuple[WorkflowHandle[Any, Any], Any]:
        checked_run(name)
        for candidate in dict.fromkeys([name, name.partition(RUN_SEPARATOR)[0]]):
            handle = self.temporal.get_workflow_handle(candidate)
            try:
                description = await handle.describe()
            except RPCError as error:
                if error.status is not RPCStatusCode.NOT_FOUND:
                    raise
                continue
            if is_experiment(description):
                return handle, description
        raise RunNotFound(name)

    async def _require_same(self, spec: ExperimentSpec) -> None:
        handle = self.temporal.get_workflow_handle(spec.name)
        description = await handle.describe()
        if not is_experiment(description):
            raise NameInUse(spec.name, difference=f"a workflow of type {description.workflow_type}")
        if await description.memo_value(SPEC_DIGEST_MEMO, None) == spec.digest():
            return
        other = spec_of(await handle.fetch_history())
        if other.digest() != spec.digest():
            completed = description.status is WorkflowExecutionStatus.COMPLETED
            extensible = completed and makes_checkpoints(description.workflow_type)
            raise NameInUse(
                spec.name,
                difference=difference(other, spec),
                advice=advice(other, spec) if extensible else OTHER_NAME,
            )

    async def _require_model(self, run: str) -> FineTuneResult | None:
        try:
            view = await self.run_status(run)
        except RunNotFound:
            trial = await find_trial(self.temporal, run)
            if trial is not None:
                if trial.status != "completed":
                    raise RunNotUsable(f"trial {run!r} has no model, it is {trial.status}") from None
                return None
            # The worker may have it all the same: a run can outlive the server's memory of it.
            if self.engine is None:
                return None
            raise
        if view.result is not None:
            return view.result
        if view.status == "failed":
            reason = f": {view.error.message}" if view.error else ""
            raise RunNotUsable(f"run {run!r} has no model, it failed{reason}")
        raise RunNotUsable(f"run {run!r} has no model, it is {view.status}")


def _with_run(view: ExperimentView, name: str) -> ExperimentView:
    if name != view.name and all(run.run != name for run in view.runs):
        raise RunNotFound(name)
    return view
