"""Runs on a real S3 server that goes away, answers with errors, is slow, or is all that two hosts share."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest

from tests.chaos.training import at_step, finished, spec_for
from tests.real import alive, until
from tests.s3 import FaultProxy, S3Server

pytestmark = pytest.mark.long

GONE_SECONDS = float(os.environ.get("CHAOS_STORE_GONE_SECONDS", "60"))


@pytest.fixture
def server(tmp_path):
    server = S3Server(tmp_path / "s3")
    server.start()
    yield server
    server.stop()


def assert_same(view, undisturbed):
    trained, state = undisturbed
    [run] = view.runs
    assert run.status == "completed", run
    assert (run.result.model_sha256, run.result.state_sha256) == (trained.model_sha256, state)
    assert run.result.history == trained.history


async def test_a_store_that_is_gone_for_a_minute_costs_no_step(
    client,
    start_worker,
    reviews,
    tiny,
    server,
    undisturbed,
):
    start_worker(environment=server.environment())
    await client.start(spec_for("patient", reviews, tiny))
    await at_step(client, "patient", 60)

    server.stop()
    warned = []

    async def told() -> bool:
        progress = (await client.run_status("patient")).progress
        warned.extend(progress.warnings if progress else [])
        return warned

    await until(told, seconds=60, what="the run tells that the store does not answer")
    await asyncio.sleep(GONE_SECONDS)
    server.start()
    view = await finished(client, "patient", seconds=150)

    assert_same(view, undisturbed)
    assert len(view.runs[0].result.attempt_log) == 1


@pytest.mark.parametrize("mode", ["errors", "slow", "refusing", "losing"])
async def test_a_store_that_fails_for_a_while_costs_no_step(
    client,
    start_worker,
    reviews,
    tiny,
    server,
    undisturbed,
    mode,
):
    name = f"store-{mode}"
    with FaultProxy(server.port) as proxy:
        start_worker(environment=server.environment(proxy.port))
        await client.start(spec_for(name, reviews, tiny))
        await at_step(client, name, 60)
        proxy.mode = mode
        before = proxy.num_requests

        async def hit() -> bool:
            return proxy.num_requests > before + 2

        await until(hit, seconds=60, what="requests meet the fault")
        proxy.mode = "ok"
        view = await finished(client, name, seconds=150)

    assert_same(view, undisturbed)


async def test_a_run_moves_between_two_hosts_that_share_nothing_but_the_store(
    client,
    start_worker,
    reviews,
    tiny,
    server,
    tmp_path,
    home,
    undisturbed,
):
    first = start_worker(environment=server.environment())
    await client.start(spec_for("moving", reviews, tiny))
    before = await at_step(client, "moving", 60)
    os.kill(first.pid, signal.SIGKILL)

    async def gone() -> bool:
        return not alive(before.progress.process_id)

    await until(gone, seconds=10, what="the trainer of the dead worker ends")
    shutil.rmtree(home)
    other = tmp_path / "other home"
    start_worker(environment={**server.environment(), "DURABERT_HOME": str(other)})
    view = await finished(client, "moving", seconds=150)

    assert_same(view, undisturbed)
    assert view.runs[0].result.attempt_log[1].resumed_from >= (before.progress.checkpoint_step or 0)
    assert Path(view.runs[0].result.directory).is_relative_to(other)
