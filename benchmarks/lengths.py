"""What training costs over the length of the texts."""

from __future__ import annotations

import time

import numpy as np
import torch

from durabert.bert.batches import BatchOrder, PaddedLayout
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute
from durabert.bert.layout import choose_layout
from durabert.bert.loss import build_loss
from durabert.bert.model import MINILM, load_classifier, resolve_model
from durabert.bert.profile import ModelOperations
from durabert.bert.steps import Examples, StepReport, TrainPlan, TrainState, train
from durabert.bert.tokens import Tokens
from durabert.specs import FineTuneConfig

LENGTHS = (16, 64, 256, 512)
TOKENS_OF_BATCH = 2048
"""The same at each length, so that the cost of the optimizer is the same, too."""
WARM_UP, STEPS = 5, 15


def measure() -> dict[str, object]:
    """Tokens per second of training steps, MiniLM, all texts of a batch of one length."""
    with deterministic_kernels():
        return {f"{length}_tokens": round(_tokens_per_second(length)) for length in LENGTHS}


def _tokens_per_second(length: int) -> float:
    steps = _steps(length)
    for _ in range(WARM_UP):
        next(steps)
    began = time.perf_counter()
    tokens = sum(next(steps).num_tokens for _ in range(STEPS))
    return tokens / (time.perf_counter() - began)


def _steps(length: int):
    batch_size = TOKENS_OF_BATCH // length
    config = FineTuneConfig(batch_size=batch_size, max_length=512, epochs=1000, device="cpu")
    compute = Compute.choose(device="cpu", precision="auto")
    found = load_classifier(
        resolve_model(MINILM), task="binary", labels=("0", "1"), max_length=512, seed=config.seed
    )
    layout, _ = choose_layout(
        found.model, PaddedLayout(0, 512, compute.device), compute, first_position=found.first_position
    )
    found.model.get_input_embeddings().sparse = True
    examples = _examples(num=4 * batch_size, length=length)
    plan = TrainPlan(
        config=config, task="binary", label_names=("0", "1"), train=examples, validation=examples,
        loss=build_loss(
            config, task="binary", names=("0", "1"), labels=examples.labels, device=torch.device("cpu")
        ),
        metric="accuracy", compute=compute, layout=layout,
        order=BatchOrder(len(examples), batch_size, config.seed),
        operations=ModelOperations.of(found.model),
    )  # fmt: skip
    state = TrainState.fresh(found.model, plan)
    return (event for event in train(state, plan) if isinstance(event, StepReport))


def _examples(*, num: int, length: int) -> Examples:
    rng = np.random.default_rng(0)
    ids = rng.integers(1000, 20000, num * length).astype(np.int32)
    offsets = np.arange(num + 1, dtype=np.int64) * length
    return Examples(Tokens(ids, offsets, None, 0), rng.integers(0, 2, num))
