"""Real processes killed for real: what the client sees, how long it takes, what is left."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from durabert.workflows.policies import HEARTBEAT_TIMEOUT
from tests.real import LONG, SHORT, alive, spec_for, training, until


async def gone(pid: int, *, seconds: float) -> float:
    async def check() -> bool:
        return not alive(pid)

    return await until(check, seconds=seconds, what=f"process {pid} is gone")


async def test_cancel_is_confirmed_when_the_process_is_gone(client, start_worker, reviews, tiny, home):
    start_worker()
    await client.start(spec_for("cancelled", reviews, tiny, **LONG))
    pid = (await training(client, "cancelled")).progress.process_id
    assert alive(pid)

    began = time.monotonic()
    view = await client.cancel("cancelled")
    seconds = time.monotonic() - began

    assert not alive(pid)
    assert view.status == "cancelled"
    assert seconds < 4, "2 s plus one step are promised; the rest is for a busy machine"
    assert list((home / "staging").iterdir()) == []


async def test_a_killed_trainer_is_replaced_within_seconds(client, start_worker, reviews, tiny):
    start_worker()
    await client.start(spec_for("killed", reviews, tiny, **LONG))
    pid = (await training(client, "killed")).progress.process_id

    os.kill(pid, signal.SIGKILL)
    began = time.monotonic()
    view = await training(client, "killed", attempt=2, seconds=20)
    seconds = time.monotonic() - began

    assert view.attempts == 2
    assert view.progress.process_id != pid
    assert view.last_error.type == "ProcessKilled"
    assert "SIGKILL" in view.last_error.message
    assert seconds < 10, "5 s are promised; the rest is for a busy machine"
    await client.cancel("killed")


async def test_a_killed_worker_takes_its_trainer_along_and_another_goes_on(
    client, start_worker, reviews, tiny
):
    first = start_worker()
    await client.start(spec_for("orphan", reviews, tiny, **LONG))
    pid = (await training(client, "orphan")).progress.process_id
    second = start_worker()

    os.kill(first.pid, signal.SIGKILL)
    began = time.monotonic()
    await gone(pid, seconds=5)
    limit = HEARTBEAT_TIMEOUT.total_seconds() + 10
    view = await training(client, "orphan", attempt=2, seconds=limit + 10)
    seconds = time.monotonic() - began

    assert view.worker.startswith(f"{second.pid}@")
    assert view.last_error.type == "WorkerLost"
    assert seconds < limit
    await client.cancel("orphan")


async def test_a_worker_told_to_stop_hands_its_run_over(client, start_worker, reviews, tiny):
    first = start_worker("--drain-seconds", "0")
    await client.start(spec_for("handed", reviews, tiny, **LONG))
    pid = (await training(client, "handed")).progress.process_id
    second = start_worker()
    await second.until_it_works()

    first.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    view = await training(client, "handed", attempt=2, seconds=30)
    seconds = time.monotonic() - began

    assert first.process.wait(10) == 0
    assert not alive(pid)
    assert view.worker.startswith(f"{second.pid}@")
    assert view.last_error.type == "WorkerStopping"
    assert seconds < 15, "far below the heartbeat time-out: it was handed over, not found missing"
    await client.cancel("handed")


async def test_a_worker_told_to_stop_lets_short_work_finish(client, start_worker, reviews, tiny):
    worker = start_worker("--drain-seconds", "60")
    # With checkpoints it would be handed over at once.
    spec = spec_for("drained", reviews, tiny, **{**SHORT, "epochs": 100})
    await client.start(spec, pattern="bert_finetune")
    await training(client, "drained")

    worker.process.send_signal(signal.SIGTERM)
    code = await asyncio.to_thread(worker.process.wait, 60)
    start_worker()
    view = await client.wait("drained")

    assert code == 0
    assert view.runs[0].status == "completed"
    assert view.runs[0].attempts == 1


async def test_one_slot_trains_one_run_at_a_time_and_two_workers_share(client, start_worker, reviews, tiny):
    start_worker("--slots", "1")
    names = ["shared-a", "shared-b"]
    # One after the other: of two that are started at once either may come first.
    await client.start(spec_for("shared-a", reviews, tiny, **LONG))
    await training(client, "shared-a")
    await client.start(spec_for("shared-b", reviews, tiny, **LONG))

    async def waits() -> bool:
        return (await client.run_status("shared-b")).status == "queued"

    await until(waits, seconds=30, what="shared-b waits for the slot")

    start_worker("--slots", "1")
    view = await training(client, "shared-b")

    assert view.worker != (await client.run_status("shared-a")).worker
    for name in names:
        await client.cancel(name)


async def test_an_interrupted_engine_goes_on_with_its_runs(tmp_path, reviews, tiny):
    from durabert.client import Client

    home = tmp_path / "laptop"
    async with Client.connect(home=home) as client:
        await client.start(spec_for("resumed", reviews, tiny, **LONG))
        pid = (await training(client, "resumed")).progress.process_id
        host = client.engine.info.host_pid
    await gone(pid, seconds=20)
    await gone(host, seconds=20)

    async with Client.connect(home=home) as client:
        view = await training(client, "resumed", attempt=2, seconds=60)
        assert view.last_error.type == "WorkerStopping"
        await client.cancel("resumed")


@pytest.mark.parametrize("victim", ["host_pid", "server_pid"])
async def test_a_killed_engine_process_loses_no_run(tmp_path, reviews, tiny, victim):
    from durabert.client import Client

    home = tmp_path / "laptop"
    async with Client.connect(home=home) as client:
        await client.start(spec_for("survivor", reviews, tiny, **LONG))
        pid = (await training(client, "survivor")).progress.process_id
        host = client.engine.info.host_pid
        os.kill(getattr(client.engine.info, victim), signal.SIGKILL)
        if victim == "host_pid":
            await gone(pid, seconds=10)
    await gone(host, seconds=30)

    async with Client.connect(home=home) as client:
        view = await client.run_status("survivor")
        assert not view.ended
        await client.cancel("survivor")


@pytest.mark.long
async def test_who_waits_for_a_run_outlasts_a_killed_engine(tmp_path, reviews, tiny):
    from durabert.client import Client

    async with Client.connect(home=tmp_path / "laptop") as client:
        await client.start(spec_for("survivor", reviews, tiny, **{**SHORT, "epochs": 100}))
        await training(client, "survivor")
        killed = client.engine.info.host_pid
        waiting = asyncio.create_task(client.wait("survivor"))
        os.kill(killed, signal.SIGKILL)

        view = await asyncio.wait_for(waiting, 120)

        assert client.engine.info.host_pid != killed
        assert view.status == "completed"
        assert view.runs[0].attempts > 1
