"""Runs with checkpoints under real faults: they end as if nothing had happened, and nothing is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from durabert.activities.certificate import certify
from durabert.activities.run_record import curve
from durabert.bert import checkpointing
from durabert.chaos import Plan
from durabert.errors import StoreUnavailable
from durabert.faults import VARIABLE
from durabert.store.checkpoints import RunCheckpoints
from durabert.store.objects import open_store
from tests.chaos.training import CONFIG, at_step, finished, spec_for, trained_directly
from tests.real import alive, training, until


@pytest.fixture
def faults(tmp_path):
    return Plan(tmp_path / "faults")


def assert_as_if_nothing_had_happened(view, undisturbed, home):
    trained, state = undisturbed
    [run] = view.runs
    assert run.status == "completed", run
    assert run.result.model_sha256 == trained.model_sha256
    assert run.result.state_sha256 == state
    assert run.result.history == trained.history
    assert run.result.metrics == trained.metrics
    objects = open_store(None, home=home) if not os.environ.get("DURABERT_STORE") else None
    if objects is not None:
        findings = list(certify(objects, home, run.run, replay_steps=None, report=lambda _: None))
        assert [one for one in findings if one.state != "ok"] == []
    assert list((home / "staging").iterdir()) == []


PLACES = (
    "checkpoint.file", "checkpoint.file written", "checkpoint.commit", "journal.append", "journal.appended",
    "checkpoint.committed", "checkpoint.delete", "result.file", "result.commit", "result.committed",
)  # fmt: skip


async def test_killed_at_each_step_of_a_commit(
    client, start_worker, reviews, tiny, home, faults, undisturbed
):
    for nth, place in enumerate(PLACES):
        faults.add(place, "kill", nth=2 + nth % 2 if place.startswith(("checkpoint", "journal")) else 1)
    start_worker(environment=faults.environment())

    await client.start(spec_for("committing", reviews, tiny))
    view = await finished(client, "committing", seconds=120)

    assert faults.num_struck() == len(faults.faults)
    assert_as_if_nothing_had_happened(view, undisturbed, home)
    # The last kill came after the run was published: the attempt after it found it finished.
    assert len(view.runs[0].result.attempt_log) == len(PLACES)
    assert view.runs[0].attempts == len(PLACES) + 1


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_killed_at_random_points_again_and_again(client, start_worker, reviews, tiny, home, tmp_path):
    kills = int(os.environ.get("CHAOS_KILLS", "5"))
    rng = random.Random(os.environ.get("CHAOS_SEED", "0"))
    # A step is seen up to a second late, some 200 steps: the last kill must come before the end.
    epochs = 30 * kills
    undisturbed = trained_directly(tmp_path / "calm", spec_for("calm", reviews, tiny, epochs=epochs))
    start_worker()
    await client.start(spec_for("hunted", reviews, tiny, epochs=epochs))
    steps = sorted(rng.sample(range(5, 5 * epochs), kills))
    resumed = []
    for attempt, step in enumerate(steps, start=1):
        before = await at_step(client, "hunted", step, attempt=attempt)
        began = time.monotonic()
        os.kill(before.progress.process_id, signal.SIGKILL)
        after = await training(client, "hunted", attempt=attempt + 1)
        resumed.append((before.progress.checkpoint_step or 0, after.progress.step, time.monotonic() - began))

    view = await finished(client, "hunted")

    assert_as_if_nothing_had_happened(view, undisturbed, home)
    log = view.runs[0].result.attempt_log
    assert len(log) == kills + 1
    for (committed, _, seconds), attempt in zip(resumed, log[1:], strict=True):
        assert (attempt.resumed_from or 0) >= committed, "the newest checkpoint is what it goes on from"
        assert seconds < 10, "5 s are promised; the rest is for a busy machine"


@pytest.mark.parametrize(
    ("phase", "nth"),
    [
        pytest.param("loading model", 1, marks=pytest.mark.long),
        pytest.param("tokenizing", 1, marks=pytest.mark.long),
        pytest.param("training", 1, marks=pytest.mark.long),
        pytest.param("validating", 2, marks=pytest.mark.long),
        pytest.param("saving", 1, marks=pytest.mark.long),
    ],
)
async def test_a_worker_told_to_stop_loses_no_step(
    client, start_worker, reviews, tiny, home, faults, undisturbed, phase, nth
):
    run = f"handed-{phase.replace(' ', '-')}"
    mark = faults.add(f"phase.{phase}", "hold", nth=nth)
    first = start_worker(environment=faults.environment())
    await client.start(spec_for(run, reviews, tiny, every=1_000_000))

    async def struck() -> bool:
        return mark.exists()

    await until(struck, seconds=60, what=f"the fault in phase {phase}")
    first.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.process.wait, 30) == 0
    journal = RunCheckpoints(open_store(None, home=home), run)
    committed = [entry.body["step"] for entry in journal.journal.read().of_kind("checkpoint")]
    start_worker()
    view = await finished(client, run)

    assert_as_if_nothing_had_happened(view, undisturbed, home)
    log = view.runs[0].result.attempt_log
    if phase in {"training", "validating", "saving"}:
        assert [one.ended for one in log] == ["WorkerStopping", None]
        assert (log[1].resumed_from or 0) == (committed[-1] if committed else 0)
        record = journal.journal.read()
        points = curve(journal, record, journal.kept(record)[-1])
        # A step that was made again would be a second point of the curve, or a gap in it.
        assert [point.step for point in points] == list(range(1, 841))
    assert phase not in {"validating", "saving"} or committed


@pytest.mark.long
async def test_a_frozen_attempt_that_wakes_disturbs_nobody(
    client, start_worker, reviews, tiny, home, undisturbed
):
    first = start_worker()
    await client.start(spec_for("frozen", reviews, tiny, epochs=CONFIG["epochs"]))
    view = await at_step(client, "frozen", 30)
    trainer = view.progress.process_id
    for pid in (first.pid, trainer):
        os.kill(pid, signal.SIGSTOP)
    start_worker()

    after = await training(client, "frozen", attempt=2, seconds=60)
    assert alive(trainer)
    for pid in (trainer, first.pid):
        os.kill(pid, signal.SIGCONT)

    async def gone() -> bool:
        return not alive(trainer)

    await until(gone, seconds=30, what="the superseded process ends")
    view = await finished(client, "frozen")

    assert after.last_error.type == "WorkerLost"
    assert_as_if_nothing_had_happened(view, undisturbed, home)
    assert len(view.runs[0].result.attempt_log) == 2


@pytest.mark.long
@pytest.mark.parametrize("harm", ["truncated", "emptied", "flipped", "newest two"])
async def test_a_damaged_checkpoint_is_named_and_passed_over(
    client, start_worker, reviews, tiny, home, undisturbed, harm
):
    name = f"damaged-{harm.replace(' ', '-')}"
    first = start_worker()
    await client.start(spec_for(name, reviews, tiny))
    await at_step(client, name, 100)
    first.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(first.process.wait, 30) == 0
    checkpoints = RunCheckpoints(open_store(None, home=home), name)
    kept = checkpoints.kept(checkpoints.journal.read())
    victims = kept[-2:] if harm == "newest two" else kept[-1:]
    for victim in victims:
        ref = next(ref for ref in victim.files if ref.name.startswith("optimizer"))
        file = home / "store/runs" / name / "files" / ref.sha256
        data = file.read_bytes()
        flipped = bytes([data[0] ^ 1]) + data[1:]
        file.write_bytes({"truncated": data[:-7], "emptied": b""}.get(harm, flipped))

    start_worker()
    view = await finished(client, name)

    trained, state = undisturbed
    [run] = view.runs
    assert run.status == "completed", run
    assert run.result.model_sha256 == trained.model_sha256
    assert run.result.state_sha256 == state
    assert run.result.history == trained.history
    passed = [notice for notice in run.result.notices if "passed over" in notice]
    assert all(f"step {one.step} " in notice for one, notice in zip(victims[::-1], passed, strict=True))
    expected = [one.step for one in kept if one not in victims]
    assert run.result.attempt_log[1].resumed_from == (expected[-1] if expected else None)


@pytest.mark.long
async def test_a_worker_lost_with_its_home_loses_at_most_an_interval(
    client, start_worker, reviews, tiny, tmp_path, home, undisturbed
):
    store = {"DURABERT_STORE": str(tmp_path / "elsewhere")}
    first = start_worker(environment=store)
    await client.start(spec_for("moved", reviews, tiny))
    before = await at_step(client, "moved", 60)
    os.kill(first.pid, signal.SIGKILL)

    async def gone() -> bool:
        return not alive(before.progress.process_id)

    await until(gone, seconds=10, what="the trainer of the dead worker ends")
    shutil.rmtree(home)
    start_worker(environment={**store, "DURABERT_HOME": str(tmp_path / "other home")})
    view = await finished(client, "moved", seconds=120)

    trained, state = undisturbed
    result = view.runs[0].result
    assert (result.model_sha256, result.state_sha256) == (trained.model_sha256, state)
    assert result.attempt_log[1].resumed_from >= before.progress.checkpoint_step
    assert Path(result.directory).is_relative_to(tmp_path / "other home")


async def test_a_poison_batch_ends_the_run_after_it_was_seen_twice(
    client, start_worker, reviews, tiny, faults
):
    faults.add("step.nan", "nan", when=29, times=100)
    start_worker(environment=faults.environment())
    await client.start(spec_for("poisoned", reviews, tiny))

    view = await finished(client, "poisoned")

    [run] = view.runs
    assert run.status == "failed"
    assert run.error.type == "TrainingDiverged"
    assert run.attempts == 2


@pytest.mark.long
async def test_a_loss_that_is_no_number_only_once_is_no_end(
    client, start_worker, reviews, tiny, home, faults, undisturbed
):
    faults.add("step.nan", "nan", nth=30)
    start_worker(environment=faults.environment())
    await client.start(spec_for("flickered", reviews, tiny))

    view = await finished(client, "flickered")

    assert faults.num_struck() == len(faults.faults)
    assert_as_if_nothing_had_happened(view, undisturbed, home)
    assert [one.ended for one in view.runs[0].result.attempt_log] == ["DivergenceSuspected", None]


@pytest.mark.long
async def test_a_full_disk_at_some_of_the_writes_costs_no_step(
    client, start_worker, reviews, tiny, home, faults, undisturbed
):
    for nth in range(4, 40, 9):
        faults.add("store.write", "enospc", nth=nth)
    start_worker(environment=faults.environment())
    await client.start(spec_for("full", reviews, tiny))

    view = await finished(client, "full", seconds=150)

    assert faults.num_struck() == len(faults.faults)
    assert_as_if_nothing_had_happened(view, undisturbed, home)


@pytest.mark.long
def test_a_full_disk_at_every_write_in_turn_changes_no_bit(tmp_path, reviews, tiny, monkeypatch):
    monkeypatch.setattr(checkpointing, "FIRST_PAUSE", 0.05)
    spec = spec_for("filled", reviews, tiny, epochs=3)
    expected, state = trained_directly(tmp_path / "calm", spec, every=6)
    for nth in itertools.count(1):
        plan = Plan(tmp_path / f"faults-{nth}")
        plan.add("store.write", "enospc", nth=nth)
        monkeypatch.setenv(VARIABLE, plan.environment()[VARIABLE])
        # It counts over the life of a process.
        monkeypatch.setattr("durabert.faults._reached", Counter())
        try:
            trained, found = trained_directly(tmp_path / str(nth), spec, every=6)
        except StoreUnavailable:
            # The claim itself could not be written: nothing has begun.
            assert nth <= 2
            continue
        if not plan.num_struck():
            break
        assert (trained.model_sha256, found) == (expected.model_sha256, state), f"write {nth}"
    assert nth > 20, "so many writes were struck"


@pytest.mark.long
async def test_too_little_memory_in_a_step_makes_smaller_pieces_and_no_new_attempt(
    client, start_worker, reviews, tiny, faults
):
    faults.add("step.backward", "oom", nth=50)
    start_worker(environment=faults.environment())
    await client.start(spec_for("narrow", reviews, tiny))

    view = await finished(client, "narrow")

    assert faults.num_struck() == len(faults.faults)
    result = view.runs[0].result
    assert result.micro_batches == 2
    assert len(result.attempt_log) == 1
    assert any("computed in 2 pieces" in notice for notice in result.notices)


async def test_pause_frees_the_device_and_resume_goes_on_with_no_step_lost(
    client, start_worker, reviews, tiny, home, undisturbed
):
    start_worker()
    await client.start(spec_for("rested", reviews, tiny, every=1_000_000))
    before = await at_step(client, "rested", 30)

    paused = await client.pause("rested")

    assert paused.runs[0].status == "paused"
    assert not alive(before.progress.process_id)
    assert (await client.resume("rested")).how == "unpaused"
    view = await finished(client, "rested")
    assert_as_if_nothing_had_happened(view, undisturbed, home)
    log = view.runs[0].result.attempt_log
    assert log[1].resumed_from == log[0].last_step >= 30


async def test_a_cancelled_run_is_resumed_from_its_last_step(
    client, start_worker, reviews, tiny, home, undisturbed
):
    start_worker()
    await client.start(spec_for("revived", reviews, tiny, every=1_000_000))
    before = await at_step(client, "revived", 30)
    began = time.monotonic()
    cancelled = await client.cancel("revived")
    seconds = time.monotonic() - began
    assert not alive(before.progress.process_id)
    assert cancelled.runs[0].status == "cancelled"
    assert seconds < 4, "2 s plus one step are promised; the rest is for a busy machine"

    assert (await client.resume("revived")).how == "restarted"
    view = await finished(client, "revived")

    assert_as_if_nothing_had_happened(view, undisturbed, home)
    log = view.runs[0].result.attempt_log
    assert log[1].resumed_from == log[0].last_step >= 30
