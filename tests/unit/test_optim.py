"""The optimizer, the learning rate and clipping."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn

from durabert.bert.optim import build_optimizer, clip_gradient, learning_rate


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
    optimizer = build_optimizer(model, weight_decay=0.1)
    decaying, exempt = optimizer.param_groups
    assert decaying["weight_decay"] == 0.1
    assert exempt["weight_decay"] == 0.0
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(parameter)] for parameter in decaying["params"]] == ["0.weight", "1.weight"]
    assert [names[id(parameter)] for parameter in exempt["params"]] == ["1.bias", "2.weight", "2.bias"]


def test_a_long_gradient_is_clipped_to_the_norm_over_all_parameters():
    parameters = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))]
    parameters[0].grad, parameters[1].grad = torch.tensor([2.0, 1.0]), torch.tensor([2.0])
    assert clip_gradient(parameters, clip_norm=1.5) == pytest.approx(3.0)
    assert torch.cat([parameter.grad for parameter in parameters]).tolist() == pytest.approx([1, 0.5, 1])


@pytest.mark.parametrize("clip_norm", [None, 5.1])
def test_a_short_gradient_and_one_without_limit_stay_as_they_are(clip_norm):
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.tensor([3.0, 4.0])
    assert clip_gradient([parameter], clip_norm=clip_norm) == pytest.approx(5.0)
    assert parameter.grad.tolist() == [3.0, 4.0]


def stepped(*, sparse: bool, clip_norm: float | None) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(50, 4, sparse=sparse), nn.Linear(4, 2)).double()
    optimizer = build_optimizer(model, weight_decay=0.1)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    for step in range(4):
        optimizer.zero_grad(set_to_none=True)
        # Two pieces of a batch, and tokens that come more than once.
        for piece in range(2):
            model(torch.tensor([1, 3, 3, 7 + step + piece])).square().sum().backward()
        norm = float(optimizer.gradient_norm())
        if sparse:
            optimizer.update(norm=norm, clip_norm=clip_norm)
        else:
            clip_gradient(list(model.parameters()), clip_norm=clip_norm)
            optimizer.step()
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("clip_norm", [None, 0.5, 1000.0])
def test_a_step_with_a_sparse_gradient_is_that_with_a_dense_and_clipped_one(clip_norm):
    expected = stepped(sparse=False, clip_norm=clip_norm)

    for name, tensor in stepped(sparse=True, clip_norm=clip_norm).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-7)


def test_the_norm_of_a_sparse_gradient_is_that_of_its_sums():
    embedding = nn.Embedding(9, 2, sparse=True)
    optimizer = build_optimizer(embedding, weight_decay=0.0)
    embedding(torch.tensor([4, 4, 4])).sum().backward()

    assert float(optimizer.gradient_norm()) == pytest.approx(3 * 2**0.5)
