"""What TPE takes to choose a configuration, and how large the request is, over the number of known trials.

In milliseconds of one core, so that other work on the machine does not count.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks.figures import summary
from benchmarks.sweep import SPACE
from benchmarks.sweep_score import score
from durabert.activities.suggesting import suggested
from durabert.specs import KnownTrial, SuggestionRequest

Argument = TypeVar("Argument")

KNOWN = (10, 100, 300, 1000)
TIMES = 15


def measure() -> dict[str, object]:
    """Milliseconds of the first request to a worker, of one that follows another, and of reading; bytes."""
    suggested(_request(_made(KNOWN[0], random.Random(0))))
    return {f"known_{number}": _figures(number) for number in KNOWN}


def _figures(number: int) -> dict[str, object]:
    first, next_one, read = [], [], []
    for seed in range(TIMES):
        # Of a seed of its own, so that the worker has never seen them.
        trials = _made(number + 1, random.Random(f"{number} {seed}"))
        before, request = _request(trials[:-1]), _request(trials)
        first.append(_milliseconds(suggested, before))
        next_one.append(_milliseconds(suggested, request))
        written = request.model_dump_json()
        read.append(_milliseconds(SuggestionRequest.model_validate_json, written))
    return {
        "first_ms": summary(first),
        "next_ms": summary(next_one),
        "read_ms": summary(read),
        "kilobytes": round(len(written) / 1000, 1),
    }


def _milliseconds(call: Callable[[Argument], object], argument: Argument) -> float:
    began = time.process_time()
    call(argument)
    return (time.process_time() - began) * 1000


def _request(trials: list[KnownTrial]) -> SuggestionRequest:
    return SuggestionRequest(
        space=SPACE, algorithm="tpe", seed=42, number=len(trials) + 1, lower_is_better=False, known=trials
    )


def _made(number: int, chance: random.Random) -> list[KnownTrial]:
    trials = []
    for _ in range(number):
        rate, decay, batch = 10 ** chance.uniform(-6, -2), chance.uniform(0, 0.3), chance.choice((8, 16, 32))
        params = {"learning_rate": rate, "weight_decay": decay, "batch_size": batch}
        trials.append(KnownTrial(params=params, epochs=1, value=score(rate, decay, batch), complete=True))
    return trials
