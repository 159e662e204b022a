"""The kernels on a GPU, beside what torch computes in float32 or float64."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional

from durabert.bert.adamw import parameter_groups
from durabert.bert.dropout import Chance
from durabert.bert.fused_gpu import GpuHow
from durabert.bert.gpu_adamw import GpuAdamW

GPU = torch.device("cuda")
SHAPES = [(448, 768), (5, 96), (1000, 1024)]


class Layer(GpuHow):
    """As much of a layer as its norms need."""

    def __init__(self, p, *, number=1) -> None:
        self.chances, self.layer_number, self.epsilon = [0.0, p, p], number, np.float32(1e-12)
        self.masks = Chance(GPU)
        self.masks.begin(1, 2, 3)


def random(*shape):
    return torch.randn(shape, device=GPU).bfloat16()


def near(found, expected, *, error=0.01):
    assert (found.double() - expected.double()).norm() <= error * expected.double().norm()


@pytest.mark.parametrize(("rows", "size"), SHAPES)
@pytest.mark.parametrize("p", [0.0, 0.1])
def test_dropout_sum_and_norm_are_those_of_torch(rows, size, p):
    torch.manual_seed(0)
    layer = Layer(p)
    branch, trunk, scale, shift, gradient = (
        random(*s) for s in [(rows, size)] * 2 + [(size,)] * 2 + [(rows, size)]
    )
    ones = torch.ones_like(branch)
    kept = layer.add_norm(1, ones, torch.zeros_like(ones), scale, shift)[1].float()
    if p and rows * size > 10_000:
        assert (kept == 0).float().mean().item() == pytest.approx(p, abs=0.01)
    inputs = [one.double().requires_grad_() for one in (branch, trunk, scale, shift)]
    total = inputs[0] * (kept != 0) / (1 - p) + inputs[1]
    expected = functional.layer_norm(total, (size,), inputs[2], inputs[3], 1e-12)
    expected.backward(gradient.double())

    out, summed, moments = layer.add_norm(1, branch, trunk, scale, shift)
    of_trunk, of_branch, sums = layer.add_norm_back(1, gradient, summed, moments, scale)

    near(summed, total)
    near(out, expected)
    near(of_branch, inputs[0].grad)
    near(of_trunk, inputs[1].grad)
    near(sums[0], inputs[2].grad)
    near(sums[1], inputs[3].grad)
    near(sums[2], inputs[0].grad.sum(0), error=0.02)
    assert ((of_branch == 0) | (kept != 0)).all()
    near(layer.sum_tokens(gradient), gradient.double().sum(0))


def test_sites_and_keys_of_dropout_have_nothing_in_common():
    ones, size = torch.ones((512, 256), device=GPU).bfloat16(), 256
    scale = random(size)

    def kept(layer, number):
        return layer.add_norm(number, ones, torch.zeros_like(ones), scale, scale)[1] != 0

    layer = Layer(0.25)
    first = kept(layer, 1)
    assert torch.equal(first, kept(layer, 1))
    others = [kept(layer, 2), kept(Layer(0.25, number=2), 1), first.roll(1, 0), first.roll(1, 1)]
    layer.masks.begin(1, 2, 4)
    for other in [*others, kept(layer, 1)]:
        assert (first == other).float().mean().item() == pytest.approx(0.75**2 + 0.25**2, abs=0.01)


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_adamw_is_that_of_torch(clip_norm):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(700, 900), torch.nn.Embedding(50, 30)).to(GPU)
    reference = copy.deepcopy(model).double()
    halves = {one: one.detach().bfloat16() for one in model[0].parameters()}
    optimizer = GpuAdamW(model, weight_decay=0.1, halves=halves)
    expected = torch.optim.AdamW(parameter_groups(reference, weight_decay=0.1), lr=0.01)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    # Where they are does not change, as it is in a training.
    gradients = {
        one: torch.empty_like(one, dtype=torch.bfloat16 if one in halves else torch.float32)
        for one in model.parameters()
    }
    for _ in range(4):
        for (one, gradient), other in zip(gradients.items(), reference.parameters(), strict=True):
            gradient.copy_(torch.randn_like(one))
            other.grad = gradient.double()
        norm = optimizer.gradient_norm(gradients)
        exact = torch.nn.utils.get_total_norm([one.grad for one in reference.parameters()]).item()
        assert norm == pytest.approx(exact, rel=1e-6)
        if clip_norm is not None:
            for other in reference.parameters():
                other.grad *= clip_norm / exact
        optimizer.update(gradients, norm=norm, clip_norm=clip_norm)
        expected.step()
    for one, other in zip(model.parameters(), reference.parameters(), strict=True):
        near(one, other, error=1e-6)
        state, others = optimizer.state[one], expected.state[other]
        assert state["step"] == 4
        for kind in ("exp_avg", "exp_avg_sq"):
            near(state[kind], others[kind], error=1e-6)
    for one, half in halves.items():
        assert torch.equal(half, one.detach().bfloat16())


SIZES = (5, 17, 1, 60, 33)


class Attention(Layer):
    """As much of a layer as its attention needs; what fills up has three tokens."""

    def __init__(self, p, *, heads, width, longest) -> None:
        super().__init__(p)
        self.chances[0], self.scaling = p, np.float32(width**-0.5)
        ends = np.cumsum([0, *SIZES, 3])
        self.packing = SimpleNamespace(
            boundaries=torch.tensor(ends, dtype=torch.int32, device=GPU),
            longest=longest, longest_fill=longest, num_heads=heads,
        )  # fmt: skip


def attended(projected, heads, masks):
    """What torch computes in float64, sequence by sequence."""
    parts, begin = [], 0
    for number, size in enumerate(SIZES):
        own = projected[begin : begin + size].view(size, 3, heads, -1).permute(1, 2, 0, 3)
        weights = torch.softmax(own[0] @ own[1].mT * own.shape[-1] ** -0.5, -1)
        parts.append(
            ((weights if masks is None else weights * masks[number]) @ own[2]).transpose(0, 1).flatten(1)
        )
        begin += size
    return torch.cat(parts)


@pytest.mark.parametrize(("heads", "width"), [(12, 64), (3, 16), (12, 32)])
@pytest.mark.parametrize("longest", [64, 128, 256])
def test_attention_is_that_of_torch(heads, width, longest):
    torch.manual_seed(0)
    layer, tokens = Attention(0.0, heads=heads, width=width, longest=longest), sum(SIZES)
    projected, gradient = random(tokens + 3, 3 * heads * width), random(tokens + 3, heads * width)
    gradient[tokens:] = 0
    exact = projected.double().requires_grad_()
    expected = attended(exact, heads, None)
    expected.backward(gradient[:tokens].double())

    out, *saved = layer.attend(projected, keep=True)
    change = layer.attend_back(gradient, *saved)

    near(out[:tokens], expected)
    near(change, exact.grad)
    assert out.isfinite().all()
    assert (change[tokens:] == 0).all()


@pytest.mark.parametrize("longest", [64, 128])
def test_attention_drops_the_same_weights_on_the_way_back(longest):
    torch.manual_seed(0)
    heads, width, p = 4, 64, 0.1
    layer, tokens = Attention(p, heads=heads, width=width, longest=longest), sum(SIZES)
    projected, gradient = random(tokens + 3, 3 * heads * width), random(tokens + 3, heads * width)
    gradient[tokens:] = 0
    # Values that are the rows of an identity let the weights be seen.
    seen, begin, masks = projected.clone().view(-1, 3, heads, width), 0, []
    seen[:, 2] = 0
    for size in SIZES:
        seen[begin : begin + size, 2] = torch.eye(size, width, device=GPU)[:, None].bfloat16()
        begin += size
    weights, begin = layer.attend(seen.view(projected.shape), keep=True)[0].view(-1, heads, width), 0
    for size in SIZES:
        masks.append((weights[begin : begin + size, :, :size] != 0).transpose(0, 1) / (1 - p))
        begin += size
    kept = torch.cat([mask.flatten() for mask in masks]) > 0
    assert kept.float().mean().item() == pytest.approx(1 - p, abs=0.01)
    exact = projected.double().requires_grad_()
    expected = attended(exact, heads, masks)
    expected.backward(gradient[:tokens].double())

    out, *saved = layer.attend(projected, keep=True)

    near(out[:tokens], expected)
    near(layer.attend_back(gradient, *saved), exact.grad)
