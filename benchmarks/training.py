"""Training steps with batches packed and with batches padded, in turn, on the same rows in the same order."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from importlib.resources import files
from unittest import mock

from benchmarks.figures import summary
from durabert.bert import preparing
from durabert.bert.data import load_training_data
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute
from durabert.bert.metrics import best_metric
from durabert.bert.progress import Reporter
from durabert.bert.steps import StepReport, TrainState, train
from durabert.specs import DataSpec, FineTuneConfig

PAIRS, STEPS, WARM_UP = 5, 20, 30
CONFIG = FineTuneConfig(batch_size=32, epochs=100, device="cpu")


def measure() -> dict[str, object]:
    """Examples per second of MiniLM on the demo reviews, batch size 32, in the CPU's best precision."""
    with deterministic_kernels():
        packed, padded = steps(), steps(padded=True)
        for one in (packed, padded):
            _examples_per_second(one, WARM_UP)
        speeds = [
            (_examples_per_second(packed, STEPS), _examples_per_second(padded, STEPS)) for _ in range(PAIRS)
        ]
    return {
        "precision": Compute.choose(device="cpu", precision="auto").precision,
        "packed_examples_per_second": summary([one for one, _ in speeds]),
        "padded_examples_per_second": summary([other for _, other in speeds]),
        "ratio": round(statistics.median(one / other for one, other in speeds), 2),
    }


def steps(*, padded: bool = False) -> Iterator[StepReport]:
    """Yield steps of a training of MiniLM on the demo reviews, made as they are asked for."""
    data = load_training_data(DataSpec(source=str(files("durabert.demo") / "reviews")))
    compute = Compute.choose(device="cpu", precision="auto")
    reporter = Reporter(lambda _: None, lambda: False)
    choose = (lambda _, layout, *__, **___: (layout, [])) if padded else preparing.choose_layout
    with mock.patch.object(preparing, "choose_layout", choose):
        job = preparing.prepare(CONFIG, data, compute, best_metric("auto", data.task), reporter)
    state = TrainState.fresh(job.model, job.plan)
    return (event for event in train(state, job.plan) if isinstance(event, StepReport))


def _examples_per_second(made: Iterator[StepReport], count: int) -> float:
    began = time.perf_counter()
    examples = sum(next(made).num_examples for _ in range(count))
    return examples / (time.perf_counter() - began)
