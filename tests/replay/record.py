"""Record the histories of this version's workflows: ``python -m tests.replay.record``.

Run it once for a release that changes what a workflow decides; older files stay as they are.
"""

from __future__ import annotations

import asyncio
import json
import socket
import tempfile
from pathlib import Path
from typing import Any

from temporalio.client import WorkflowHistory

from durabert.client import Client
from durabert.connection import connect, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import Engine
from durabert.specs import DataSpec, ExperimentSpec, FineTuneConfig, InferenceRequest
from durabert.version import __version__
from tests.real import until
from tests.workflow.conftest import serving

HISTORIES = Path(__file__).parent / "histories"


async def record() -> None:
    """Run every kind of course that a workflow can take, and keep its history."""
    with tempfile.TemporaryDirectory() as home:
        engine = Engine.attach(Path(home), worker=False, search_attributes=SEARCH_ATTRIBUTES)
        try:
            temporal = await connect(plain_profile(engine.info.address))
            async with serving(temporal, "recording") as bench:
                await _courses(bench.client)
        finally:
            engine.close()


async def _courses(client: Client) -> None:
    await _ended(client, "one-run", "minilm")
    await _ended(client, "two-runs", "minilm", "minilm")
    await _ended(client, "in-order", "minilm", "minilm", in_order=True)
    await _ended(client, "one-failed", "minilm", "missing")
    await _ended(client, "all-failed", "missing", "missing")
    await _ended(client, "retried", "flaky")
    await _cancelled(client, "cancelled", "cancelled", "endless")
    await _cancelled(client, "one-cancelled", "one-cancelled.1", "endless", "minilm")
    prediction = await client.start_prediction(InferenceRequest(run="one-run", texts=("good", "bad")))
    await prediction.result()
    _keep("prediction", await prediction.handle.fetch_history())


async def _start(client: Client, name: str, *models: str, in_order: bool = False) -> None:
    runs = tuple(FineTuneConfig(model=model) for model in models)
    spec = ExperimentSpec(name=name, data=DataSpec(source="reviews.csv"), runs=runs, in_order=in_order)
    await client.start(spec)


async def _ended(client: Client, name: str, *models: str, in_order: bool = False) -> None:
    await _start(client, name, *models, in_order=in_order)
    await client.wait(name)
    _keep(name, await client.history(name))


async def _cancelled(client: Client, name: str, target: str, *models: str) -> None:
    await _start(client, name, *models)

    async def running() -> bool:
        return any(run.run == target and run.status == "running" for run in (await client.status(name)).runs)

    await until(running, seconds=20, what=f"{target} runs")
    await client.cancel(target)
    view = await client.wait(name) if target != name else await client.status(name)
    assert view.ended is not None
    _keep(name, await client.history(name))


def _keep(name: str, history: WorkflowHistory) -> None:
    document = _anonymous(json.loads(history.to_json()))
    (HISTORIES / f"{__version__}-{name}.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def _anonymous(value: Any) -> Any:
    """Drop what tells whose machine it was: stack traces with paths, and the host in identities."""
    if isinstance(value, dict):
        return {key: _anonymous(item) for key, item in value.items() if key != "stackTrace"}
    if isinstance(value, list):
        return [_anonymous(item) for item in value]
    return value.replace(socket.gethostname(), "host") if isinstance(value, str) else value


if __name__ == "__main__":
    asyncio.run(record())
