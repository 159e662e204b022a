"""``durabert worker``, ``up`` and ``doctor``."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import typer
from pydantic import Field

from durabert.cli.output import print_json, say
from durabert.connection import TaskQueues, connect, explicit_profile, plain_profile
from durabert.contract import SEARCH_ATTRIBUTES
from durabert.engine import EngineInfo, home_directory, running, serve
from durabert.errors import EngineUnavailable
from durabert.specs import Wire
from durabert.warming import require_training_parts


class WorkerLimits(Wire):
    """How much a worker does at once, and how long it may take to leave."""

    slots: int | None = Field(default=None, ge=1, le=1024)
    """Runs at once; none: one a GPU, else one."""
    drain_seconds: float = Field(default=10, ge=0, le=7 * 24 * 3600, allow_inf_nan=False)
    """Time for running work to finish on SIGTERM."""


class Ports(Wire):
    """Where the embedded engine listens; none: any."""

    port: int | None = Field(default=None, ge=1, le=65535)
    """gRPC port of the Temporal server."""
    ui_port: int | None = Field(default=None, ge=1, le=65535)
    """Port of Temporal Web."""


def worker(
    train_queue: str | None,
    inference_queue: str | None,
    *,
    limits: WorkerLimits,
    profile: str | None,
) -> None:
    """Host the queues until SIGTERM."""
    queues = [queue for queue in (train_queue, inference_queue) if queue] or _default_queues()
    asyncio.run(_work(queues, limits, profile))


async def _work(queues: list[str], limits: WorkerLimits, profile_name: str | None) -> None:
    from durabert.worker import run_worker

    home = home_directory()
    profile = explicit_profile(profile_name)
    if profile is None:
        engine = running(home)
        if engine is None:
            raise EngineUnavailable(
                "there is no Temporal server to work for; set TEMPORAL_ADDRESS, give --profile, "
                "or keep an embedded one up with 'durabert up' (it brings its own worker)"
            )
        profile = plain_profile(engine.address)
    client = await connect(profile)

    def announce(names: list[str], num_slots: int) -> None:
        say(f"Worker {client.identity} at {profile.address}, home {home}")
        say(f"Task queues {', '.join(names)}; {num_slots} at a time")

    drain = timedelta(seconds=limits.drain_seconds)
    await run_worker(client, home=home, queues=queues, num_slots=limits.slots, drain=drain, on_ready=announce)
    say("Worker stopped; nothing of it is left running.")


def up(ports: Ports) -> None:
    """Keep engine and worker up until Ctrl-C."""
    require_training_parts()
    asyncio.run(_stay_up(ports))


async def _stay_up(ports: Ports) -> None:
    home = home_directory()

    def announce(info: EngineInfo) -> None:
        say(f"Engine up at {info.address}, home {home}")
        say(f"Temporal Web: {info.ui}")
        say("Ctrl-C stops it; runs that are not finished go on the next time.")

    await serve(
        home,
        search_attributes=SEARCH_ATTRIBUTES,
        port=ports.port,
        ui_port=ports.ui_port,
        on_starting=lambda: say("Starting the embedded Temporal server ..."),
        on_ready=announce,
    )
    say("Engine released; it stops as soon as no other command uses it.")


def doctor(*, profile: str | None, as_json: bool) -> int:
    """Print every check and what to do; return 1 if one failed."""
    from durabert.doctor import examine

    checks = asyncio.run(examine(profile))
    if as_json:
        print_json(check.model_dump() for check in checks)
    else:
        for check in checks:
            mark = {"ok": "ok  ", "warning": "warn", "failed": "FAIL"}[check.state]
            typer.echo(f"{mark}  {check.subject}: {check.finding}")
            if check.advice:
                typer.echo(f"      -> {check.advice}")
    return 1 if any(check.state == "failed" for check in checks) else 0


def _default_queues() -> list[str]:
    queues = TaskQueues.from_environment()
    return [queues.train, queues.inference]
