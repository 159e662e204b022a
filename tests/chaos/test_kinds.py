"""Trainings of three kinds, each killed at random: every one ends with the bits of the undisturbed one."""

from __future__ import annotations

import csv
import os
import random
import signal

import pytest

from tests.chaos.training import at_step, finished, spec_for, trained_directly
from tests.tiny import agreements, degrees, sentiments

RUNS = int(os.environ.get("CHAOS_RUNS", "1"))
KILLS = 2
KINDS = {
    "dropout": (sentiments, {}),
    "pair": (agreements, {}),
    "regression": (degrees, {"task": "regression"}),
}


def write_rows(path, make):
    """Write the rows that ``make`` invents, no text twice."""
    split = make(400)
    rows = {
        (text, *([] if split.pairs is None else [split.pairs[number]])): split.labels[number]
        for number, text in enumerate(split.texts)
    }
    header = ["text", "label"] if split.pairs is None else ["text", "text2", "label"]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *([*texts, label] for texts, label in rows.items())])
    return path


@pytest.mark.long
@pytest.mark.timeout(60 + 120 * RUNS)
@pytest.mark.parametrize("kind", KINDS)
async def test_every_run_that_was_killed_at_random_ends_with_the_same_bits(
    client, start_worker, tiny, tmp_path, kind
):
    make, fields = KINDS[kind]
    rows = write_rows(tmp_path / "rows.csv", make)
    expected, state = trained_directly(tmp_path, spec_for("calm", rows, tiny, epochs=36, **fields))
    assert expected.steps > 700
    rng = random.Random(os.environ.get("CHAOS_SEED", kind))
    worker = start_worker()
    equal = 0
    for number in range(RUNS):
        name = f"{kind}-{number}"
        await client.start(spec_for(name, rows, tiny, epochs=36, **fields))
        for attempt, step in enumerate(sorted(rng.sample(range(1, 400), KILLS)), start=1):
            view = await at_step(client, name, step, attempt=attempt)
            # Of ten runs, one loses a worker with its trainer.
            if number % 10 == 0 and attempt == 1:
                os.kill(worker.pid, signal.SIGKILL)
                worker = start_worker()
            else:
                os.kill(view.progress.process_id, signal.SIGKILL)
        [run] = (await finished(client, name)).runs
        assert run.status == "completed", run
        result = run.result
        assert len(result.attempt_log) == KILLS + 1, "every kill has hit"
        assert result.num_threads == expected.num_threads, "products of torch differ by it"
        equal += (result.model_sha256, result.state_sha256, result.metrics, result.history) == (
            expected.model_sha256, state, expected.metrics, expected.history,
        )  # fmt: skip
    print(f"{kind}: {equal} of {RUNS} runs equal")
    assert equal == RUNS
