"""Trainings on a GPU that are killed at random: every one ends with the bits of the undisturbed one."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.gpu.killed import EPOCHS, EVERY, KINDS, STEPS_PER_EPOCH, train
from tests.tiny import build_model

RUNS = int(os.environ.get("GPU_RUNS", "3"))
AT_ONCE = 8
KILLS = 2


def attempt(processes, *given, kill_at=None):
    """Train until the end, or until a step at which the process is killed; return what it told."""
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = processes.Process(target=train, args=(*given, theirs))
    process.start()
    theirs.close()
    last = 0
    try:
        while True:
            kind, told = ours.recv()
            if kind == "done":
                assert kill_at is None, "the kill has hit"
                return told
            last = told
            if kill_at is not None and told >= kill_at:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                assert process.exitcode == -signal.SIGKILL
                return last
    finally:
        process.kill()
        process.join()


@pytest.mark.timeout(60 + 30 * RUNS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_run_that_was_killed_at_random_ends_with_the_same_bits(tmp_path, kind):
    model = build_model(
        tmp_path / "bert", "bert", hidden_size=128, num_attention_heads=4, initializer_range=0.05
    )
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["tests.gpu.killed"])
    _, device, notices, expected = attempt(processes, tmp_path / "calm", model, kind, 1)
    assert device.startswith("cuda")
    assert not [notice for notice in notices if "captur" in notice or "padded" in notice]

    def killed(number):
        rng = random.Random(f"{kind} {number}")
        directory = tmp_path / f"killed-{number}"
        steps = sorted(rng.sample(range(EVERY + 1, EPOCHS * STEPS_PER_EPOCH * 3 // 4), KILLS))
        for turn, step in enumerate(steps, start=1):
            attempt(processes, directory, model, kind, turn, kill_at=step)
        begun_at, _, _, found = attempt(processes, directory, model, kind, KILLS + 1)
        assert begun_at > 0, "it went on from a checkpoint"
        return found == expected

    with ThreadPoolExecutor(AT_ONCE) as pool:
        equal = sum(pool.map(killed, range(RUNS)))
    print(f"{kind}: {equal} of {RUNS} runs equal")
    assert equal == RUNS
