"""The client: one object that knows the server, the queues and the names."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from temporalio.client import WorkflowHistory
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.batches import RunningBatch, find_batch, start_batch
from durabert.client.evaluations import start_evaluation
from durabert.client.exports import start_export
from durabert.client.failures import server_answers
from durabert.client.finding import (
    all_experiments,
    ended_experiment,
    experiment_status,
    require_model,
    run_status,
    watched,
)
from durabert.client.namespace import register_search_attributes
from durabert.client.predictions import start_prediction
from durabert.client.promotions import RunningPromotion, find_promotion, start_promotion
from durabert.client.running import RunningJob
from durabert.client.schedules import Schedules
from durabert.client.starting import DEFAULT_PATTERN, restart_experiment, start_experiment, workflow_for
from durabert.client.steering import cancel_experiment, pause_experiment, unpause_experiment
from durabert.client.sweeps import RunningSweep, find_sweep, resume_sweep, start_sweep, sweep_statuses
from durabert.client.views import ExperimentView, Resumed, RunView, Started
from durabert.connection import TaskQueues, connect, explicit_profile, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine, home_directory
from durabert.errors import RunNotFound
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
    SweepSpec,
)
from durabert.specs.registry import ModelRef, PromotionRequest, require_metrics
from durabert.store.objects import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from temporalio.client import Client as TemporalClient


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
        """Start an experiment, or join it if the same spec and pattern were started under this name before.

        Args:
            spec: what to train.
            pattern: ``bert_checkpointing``, ``bert_finetune``, which makes neither snapshots nor
                checkpoints, or ``bert_eval``, which evaluates each run as well.

        Raises:
            NameInUse: the name belongs to another spec or pattern that runs or has completed.
            SpecInvalid: there is no such pattern, or it cannot do what the spec asks for.
        """
        workflow = workflow_for(spec, pattern)
        return await start_experiment(
            self.temporal,
            spec,
            workflow,
            queue=self.queues.train,
            searchable=await self._is_searchable(),
        )

    async def status(self, name: str) -> ExperimentView:
        """Return what is so of an experiment, or of the experiment of a run.

        Raises:
            RunNotFound: there is none of that name.
        """
        return await experiment_status(self.temporal, name)

    async def run_status(self, run: str) -> RunView:
        """Return what is so of one run.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: the name is an experiment of several runs.
        """
        return await run_status(self.temporal, run)

    def watch(self, name: str) -> AsyncIterator[ExperimentView]:
        """Yield the state of an experiment, again and again, until it has ended; the last one is final.

        Raises:
            RunNotFound: there is none of that name.
        """
        return watched(self.temporal, name, engine=self.engine)

    async def wait(self, name: str) -> ExperimentView:
        """Wait until an experiment has ended and return its final state, whatever it is."""
        return await ended_experiment(self.temporal, name, engine=self.engine)

    async def experiments(self) -> list[ExperimentView]:
        """Return every experiment that the server knows, the newest first."""
        return await all_experiments(self.temporal)

    async def cancel(self, name: str) -> ExperimentView:
        """Cancel an experiment or one run of it, and return its state once no process of it is left.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: it has already ended.
        """
        return await cancel_experiment(self.temporal, name, engine=self.engine)

    async def pause(self, name: str) -> ExperimentView:
        """Pause an experiment or one run of it: its device is free when this returns, and it stays open.

        Raises:
            RunNotFound: there is none of that name.
            RunNotUsable: it has ended, waits for its turn, or is paused already.
            EngineUnavailable: the server cannot pause.
        """
        return await pause_experiment(self.temporal, name)

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
        resumed = await unpause_experiment(self.temporal, name, queue=queue)
        if resumed is not None:
            return resumed
        return await restart_experiment(
            self.temporal, name, queue=queue or self.queues.train, searchable=await self._is_searchable()
        )

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
        return await start_sweep(
            self.temporal,
            spec,
            queue=self.queues.train,
            engine=self.engine,
            searchable=await self._is_searchable(),
        )

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
        return await resume_sweep(
            self.temporal, sweep, queue=self.queues.train, searchable=await self._is_searchable()
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

    async def _require_model(self, run: str) -> FineTuneResult | None:
        return await require_model(self.temporal, run, engine=self.engine)
