"""The optimizer, clipping, and the learning rate."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest
import torch
from torch import nn

from durabert.bert.adamw import parameter_groups
from durabert.bert.optim import build_optimizer, learning_rate


def rates(schedule, *, steps=20, warmup_ratio=0.2):
    return [
        learning_rate(step, steps, peak=1.0, warmup_ratio=warmup_ratio, schedule=schedule)
        for step in range(steps)
    ]


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_the_warm_up_rises_from_the_first_step_to_the_peak(schedule):
    assert rates(schedule)[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_falls_and_the_last_step_still_learns(schedule):
    after = rates(schedule)[4:]
    assert all(later < earlier for earlier, later in itertools.pairwise(after))
    assert 0 < after[-1] < 0.1


def test_half_way_down_linear_and_cosine_are_at_half():
    assert rates("linear")[12] == pytest.approx(0.5)
    assert rates("cosine")[12] == pytest.approx(0.5)


def test_a_constant_rate_stays_at_the_peak():
    assert set(rates("constant", warmup_ratio=0)) == {1.0}


@pytest.mark.parametrize("warmup_ratio", [0.0, 1.0])
def test_a_training_of_one_step_has_a_rate(warmup_ratio):
    assert rates("linear", steps=1, warmup_ratio=warmup_ratio) == [1.0]


def test_biases_and_norms_do_not_decay():
    model = nn.Sequential(nn.Embedding(4, 3), nn.Linear(3, 2), nn.LayerNorm(2))
    optimizer = build_optimizer(model, weight_decay=0.1, device=torch.device("cpu"))
    decaying, exempt = optimizer.param_groups
    assert decaying["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(parameter)] for parameter in decaying["params"]] == ["0.weight", "1.weight"]
    assert [names[id(parameter)] for parameter in exempt["params"]] == ["1.bias", "2.weight", "2.bias"]


class Plain:
    """AdamW as torch has it, one operation after the other."""

    def __init__(self, model):
        groups = parameter_groups(model, weight_decay=0.1)
        self.optimizer = torch.optim.AdamW(groups, lr=0.01)
        self.model = model

    def step(self, clip_norm):
        largest = float("inf") if clip_norm is None else clip_norm
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        self.optimizer.step()


class Ours:
    def __init__(self, model):
        self.optimizer = build_optimizer(model, weight_decay=0.1, device=torch.device("cpu"))
        self.model = model
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01

    def step(self, clip_norm):
        gradients = {one: one.grad for one in self.model.parameters() if one.grad is not None}
        norm = self.optimizer.gradient_norm(gradients)
        dense = [gradient.to_dense().flatten() for gradient in gradients.values()]
        assert norm == pytest.approx(float(torch.cat(dense).norm()), rel=1e-6)
        self.optimizer.update(gradients, norm=norm, clip_norm=clip_norm)


def stepped(kind, *, sparse: bool, clip_norm: float | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 100, sparse=sparse), nn.Linear(100, 99))
    optimizer = kind(model)
    for step in range(4):
        model.zero_grad(set_to_none=True)
        # Two pieces of a batch, and tokens that come more than once.
        for piece in range(2):
            model(torch.tensor([1, 3, 3, 7 + step + piece])).sigmoid().square().sum().backward()
        optimizer.step(clip_norm)
    moments = {
        f"{kind} {name}": optimizer.optimizer.state[parameter][kind]
        for name, parameter in model.named_parameters()
        for kind in ("exp_avg", "exp_avg_sq", "step")
    }
    return {name: tensor.detach().clone() for name, tensor in {**model.state_dict(), **moments}.items()}


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize("clip_norm", [None, 0.05, 1000.0])
def test_a_step_is_that_of_torch(clip_norm, sparse):
    expected = stepped(Plain, sparse=False, clip_norm=clip_norm)

    for name, tensor in stepped(Ours, sparse=sparse, clip_norm=clip_norm).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7, msg=name)


def test_what_memory_held_before_the_first_step_is_of_no_account():
    expected = stepped(Ours, sparse=True, clip_norm=None)
    # Has torch fill memory that it hands out with NaN.
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        found = stepped(Ours, sparse=True, clip_norm=None)
    finally:
        torch.use_deterministic_algorithms(False)

    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.items())


def test_a_row_whose_second_moment_vanished_moves_on_after_a_resume():
    gone_on, resumed = (nn.Embedding(4, 8, sparse=True) for _ in range(2))
    for model in (gone_on, resumed):
        nn.init.zeros_(model.weight)
    before = Ours(gone_on)
    # The square of such a gradient is 0 in float32.
    (gone_on(torch.tensor([1])).sum() * 1e-30).backward()
    before.step(None)
    after = Ours(resumed)
    resumed.load_state_dict(gone_on.state_dict())
    state = before.optimizer.state[gone_on.weight]
    after.optimizer.state[resumed.weight] = {kind: tensor.clone() for kind, tensor in state.items()}
    assert not state["exp_avg_sq"].any()

    for one in (before, after):
        one.model.zero_grad(set_to_none=True)
        one.model(torch.tensor([2])).sum().backward()
        one.step(None)

    assert torch.equal(gone_on.weight, resumed.weight)


def test_the_number_of_threads_changes_no_bit_of_a_step():
    threads = torch.get_num_threads()
    computed = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            computed.append(stepped(Ours, sparse=True, clip_norm=None))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(tensor, computed[1][name]) for name, tensor in computed[0].items())


def test_the_weights_in_half_precision_are_those_of_the_step():
    model = nn.Linear(64, 64)
    half = torch.zeros(64, 64).bfloat16()
    optimizer = build_optimizer(
        model, weight_decay=0.1, device=torch.device("cpu"), halves={model.weight: half}
    )
    optimizer.param_groups[0]["lr"] = 0.01
    gradient = torch.randn(64, 64).bfloat16()

    optimizer.update({model.weight: gradient}, norm=1.0, clip_norm=None)

    assert torch.equal(half, model.weight.detach().bfloat16())


def test_a_number_that_is_none_stays_visible_in_norm_and_weights():
    model = nn.Linear(64, 1)
    optimizer = build_optimizer(model, weight_decay=0.1, device=torch.device("cpu"))
    gradient = torch.full((1, 64), float("nan"))
    assert optimizer.gradient_norm({model.weight: gradient}) != optimizer.gradient_norm(
        {model.weight: gradient}
    )
    for value in (float("inf"), float("-inf")):
        assert optimizer.gradient_norm({model.weight: torch.full((1, 64), value)}) == float("inf")


def test_a_process_that_is_forked_from_one_with_threads_makes_steps():
    code = """
import os, torch
from durabert.bert import compiled
from durabert.bert.adamw import CpuAdamW

def step():
    model = torch.nn.Linear(100, 100)
    optimizer = CpuAdamW(model, weight_decay=0.1)
    gradients = {model.weight: torch.ones(100, 100)}
    optimizer.update(gradients, norm=optimizer.gradient_norm(gradients), clip_norm=None)

# Matrices on which torch itself uses no threads, which do not survive a fork either.
torch.set_num_threads(2)
step()
child = os.fork()
if child == 0:
    step()
    os._exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
