"""How an experiment, or one run of it, is cancelled, paused and let go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temporalio.client import WorkflowUpdateFailedError

from durabert.client.failures import restored
from durabert.client.finding import ended_experiment, experiment_status, find_experiment
from durabert.client.pausing import let_go_on, pause
from durabert.client.views import ExperimentView, Resumed, RunView
from durabert.client.wording import to_train_on
from durabert.contract import CANCEL_RUN_UPDATE
from durabert.errors import RunNotUsable
from durabert.specs import RunOutcome

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.engine import Engine


async def cancel_experiment(temporal: TemporalClient, name: str, *, engine: Engine | None) -> ExperimentView:
    """Cancel an experiment or one run of it, and return its state once no process of it is left.

    Raises:
        RunNotFound: there is none of that name.
        RunNotUsable: it has already ended.
    """
    handle, _ = await find_experiment(temporal, name)
    view = await experiment_status(temporal, name)
    targets = _targets(view, name)
    if view.ended or all(run.ended for run in targets):
        raise RunNotUsable(f"{name!r} has already ended: {targets[0].status}")
    if len(targets) == len(view.runs):
        await handle.cancel()
        return await ended_experiment(temporal, view.name, engine=engine)
    try:
        await handle.execute_update(CANCEL_RUN_UPDATE, name, result_type=RunOutcome)
    except WorkflowUpdateFailedError as error:
        raise restored(error.cause) from None
    return await experiment_status(temporal, view.name)


async def pause_experiment(temporal: TemporalClient, name: str) -> ExperimentView:
    """Pause an experiment or one run of it, and return its state once its device is free.

    Raises:
        RunNotFound: there is none of that name.
        RunNotUsable: it has ended, waits for its turn, or is paused already.
        EngineUnavailable: the server cannot pause.
    """
    await experiment_status(temporal, name)
    handle, _ = await find_experiment(temporal, name)
    await pause(temporal, handle, name)
    return await experiment_status(temporal, name)


async def unpause_experiment(temporal: TemporalClient, name: str, *, queue: str | None) -> Resumed | None:
    """Let what is open of an experiment or one run of it go on; none if it is to be started again.

    Raises:
        RunNotFound: there is none of that name.
        RunNotUsable: it has completed, or it ended inside an experiment that still runs, or it is to
            change its queue while it runs.
    """
    handle, description = await find_experiment(temporal, name)
    view = await experiment_status(temporal, name)
    targets = _targets(view, name)
    if view.ended is not None:
        if all(run.status == "completed" for run in targets):
            raise RunNotUsable(
                f"{name!r} has completed" + to_train_on(targets[0].run, description.workflow_type)
            )
        return None
    if all(run.ended for run in targets):
        raise RunNotUsable(
            f"run {name!r} is {targets[0].status}, and its experiment {view.name!r} still runs; "
            "resume it when that has ended"
        )
    how = await let_go_on(temporal, handle, name, queue=queue)
    if how == "running" and queue is not None:
        raise RunNotUsable(f"{name!r} is running; pause it first, then resume it with --queue {queue}")
    return Resumed(view.name, how)


def _targets(view: ExperimentView, name: str) -> list[RunView]:
    return [run for run in view.runs if name in (run.run, view.name)]
