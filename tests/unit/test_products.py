"""Products on the tiles of AMX: those of torch in float64, rounded once, with any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from durabert.bert import attention_tiles, fused, fused_tiles, layer_tiles, products
from durabert.bert.device import Compute
from durabert.bert.forward import Forward
from durabert.bert.packed_attention import install as install_packing
from durabert.bert.packing import PackedLayout
from durabert.bert.products import ROWS, SUMMED
from durabert.bert.tiles import has_tiles
from tests.unit.test_packing import CPU, LENGTHS, classifier, tokens

needs_tiles = pytest.mark.skipif(not has_tiles(), reason="this processor has no AMX")
ROUNDED = 2**-8
"""Relative to a value that is rounded to bfloat16."""
SHAPES = [
    (16, 32, 64),
    (208, 384, 96),
    (48, SUMMED + 64, 32),
    (ROWS + 16, 64, 32),
    (2 * ROWS + 48, 32, 64),
]


def matrix(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def near(found, expected):
    scale = float(expected.abs().max())
    torch.testing.assert_close(found.double(), expected, rtol=ROUNDED, atol=ROUNDED * scale / 64)


def all_of(m, k, n):
    """Return what each function gives, and what torch gives in float64."""
    x, weight, bias = matrix(m, k), matrix(n, k, seed=1) / k**0.5, matrix(n, seed=2)
    gradient, added = matrix(m, n, seed=3), matrix(m, k, seed=4)
    before = (x.double() @ weight.double().t() + bias.double()).requires_grad_()
    after = functional.gelu(before)
    (slope,) = torch.autograd.grad(after.sum(), before)
    back = gradient.double() @ weight.double()
    found_slope, found_after = products.linear_gelu(x, weight, bias, keep=True)
    found_weights, found_bias = products.back_linear(gradient, x)
    expected = {
        "linear": before.detach(),
        "gelu": after.detach(),
        "gelu, not kept": after.detach(),
        "slope": slope,
        "back": back,
        "back, added": back + added.double(),
        "back, gelu": back * added.double(),
        "weights": gradient.double().t() @ x.double(),
        "bias": gradient.double().sum(0),
    }
    found = {
        "linear": products.linear(x, weight, bias),
        "gelu": found_after,
        "gelu, not kept": products.linear_gelu(x, weight, bias, keep=False)[1],
        "slope": found_slope,
        "back": products.back(gradient, weight),
        "back, added": products.back(gradient, weight, added=added),
        "back, gelu": products.back_gelu(gradient, weight, added),
        "weights": found_weights,
        "bias": found_bias,
    }
    return found, expected


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_those_of_torch(shape):
    found, expected = all_of(*shape)

    for name in expected:
        near(found[name], expected[name])


@needs_tiles
@pytest.mark.parametrize("shape", SHAPES)
def test_the_number_of_threads_changes_no_bit(shape, monkeypatch):
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(all_of(*shape)[0])
    finally:
        torch.set_num_threads(threads)

    for other in results[1:]:
        for name, value in results[0].items():
            assert torch.equal(value, other[name]), name


@needs_tiles
def test_rows_do_not_depend_on_those_beside_them():
    x, weight, bias = matrix(256, 64), matrix(96, 64, seed=1), matrix(96, seed=2)

    assert torch.equal(products.linear(x, weight, bias)[:48], products.linear(x[:48], weight, bias))


@needs_tiles
def test_products_of_a_library_between_them_are_not_disturbed():
    x, weight, bias = matrix(64, 64), matrix(64, 64, seed=1), matrix(64, seed=2)
    expected, alone = x @ weight, products.linear(x, weight, bias)

    for _ in range(3):
        assert torch.equal(products.linear(x, weight, bias), alone)
        assert torch.equal(x @ weight, expected)


@needs_tiles
def test_what_is_not_finite_stays_so_in_its_row():
    x, weight, bias = matrix(32, 64), matrix(64, 64, seed=1), matrix(64, seed=2)
    x[3, 5], x[4, 6] = float("nan"), float("inf")

    _, after = products.linear_gelu(x, weight, bias, keep=False)

    assert after[3].isnan().all()
    assert not after[4].isfinite().all()
    assert after[[*range(3), *range(5, 32)]].isfinite().all()


def test_what_does_not_fit_into_whole_tiles_is_left_to_a_library():
    fits = matrix(16, 32)
    assert products.takes(fits, fits, 64) == has_tiles()
    for other in (fits.float(), matrix(8, 32), matrix(16, 48), fits.half()):
        assert not products.takes(other, fits, 64)
    assert not products.takes(fits, fits.float(), 64)
    assert not products.takes(fits, fits, 48)
    weights = 16 * [matrix(32, 32)]
    assert fused_tiles.takes(fits, tuple(weights)) == has_tiles()
    for other in (fits.float(), matrix(8, 32), matrix(32, 16).t()):
        assert not fused_tiles.takes(other, tuple(weights))
    for place, other in ((0, matrix(16, 32)), (10, matrix(48, 32)), (5, matrix(32).float())):
        assert not fused_tiles.takes(fits, (*weights[:place], other, *weights[place + 1 :]))


@needs_tiles
@pytest.mark.parametrize(("width", "heads"), [(32, 4), (64, 2), (96, 1)])
@pytest.mark.parametrize("queries", [1, 512])
def test_attention_is_that_of_torch(width, heads, queries):
    sizes = [1, 2, 15, 16, 17, 31, 32, 33, 64, 100, 129, 300]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    projected = matrix(starts[-1], 3 * heads * width)
    out = torch.full((starts[-1], heads * width), float("nan"), dtype=torch.bfloat16)

    attention_tiles.attend(
        projected, starts, heads, queries=queries, scaling=np.float32(width**-0.5), out_TF=out
    )

    for first, last in itertools.pairwise(starts):
        parts = projected[first:last].double().view(-1, 3, heads, width).permute(1, 2, 0, 3)
        expected = functional.scaled_dot_product_attention(*parts)[:, :queries]
        found = out[first:last].view(-1, heads, width).transpose(0, 1)[:, :queries]
        torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.01)
        # Of no others, and nothing was written in their place.
        assert out[first + queries : last].isnan().all()


def model_in_bf16(directory, *, inner=128, count=16, dropout=0.0):
    """Return a model that fits into tiles, if its feed-forward does, and a batch of texts."""
    found = classifier(directory, "bert", hidden_size=64, intermediate_size=inner)
    for module in found.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    install_packing(found.model)
    forward = Forward.of(found.model, Compute(CPU, "bf16"))
    layout = PackedLayout(found.model.config.num_attention_heads, found.first_position, CPU)
    batch = layout.batch(tokens(2 * LENGTHS, types=found.uses_types), np.arange(count))
    return forward, batch


def counted(monkeypatch, module, names):
    """Return how often each function of a module is called from now on."""
    calls = dict.fromkeys(names, 0)

    def counting(name, function):
        def count(*arguments, **named):
            calls[name] += 1
            return function(*arguments, **named)

        return count

    for name in names:
        monkeypatch.setattr(module, name, counting(name, getattr(module, name)))
    return calls


def near_by_much(found, expected, *, beside=0.0):
    """Compare what has been rounded in each layer; what is nothing but rounding is small beside the rest."""
    assert float((found - expected).norm()) < 0.03 * max(float(expected.norm()), beside)


def all_near_by_much(found, expected):
    largest = max(float(gradient.to_dense().norm()) for gradient in expected.values())
    for parameter, gradient in expected.items():
        near_by_much(found[parameter].to_dense(), gradient.to_dense(), beside=largest / 10)


@needs_tiles
@pytest.mark.parametrize("inner", [128, 112])
def test_a_model_learns_with_tiles_what_it_learns_without(tmp_path, monkeypatch, inner):
    forward, batch = model_in_bf16(tmp_path / "bert", inner=inner)
    forward.model.eval()
    whole = counted(monkeypatch, layer_tiles, ("forward", "backward"))
    names = ("linear", "linear_gelu", "back", "back_gelu", "back_linear")
    calls = counted(monkeypatch, products, names)
    logits, gradients = learned(forward, batch)
    layers = forward.model.config.num_hidden_layers
    # Feed-forward of another width is torch's: two products there, two back and two of weights.
    assert list(whole.values()) == ([layers, layers] if inner == 128 else [0, 0])
    a_layer = [0, 0, 0, 0, 0] if inner == 128 else [2, 0, 2, 0, 2]
    assert list(calls.values()) == [layers * count for count in a_layer]

    monkeypatch.setattr(fused_tiles, "takes", lambda *_: False)
    if inner == 128:
        by_parts, of_parts = learned(forward, batch)
        assert list(calls.values()) == [layers * count for count in (3, 1, 3, 1, 4)]
        assert torch.equal(by_parts, logits)
        for parameter, gradient in of_parts.items():
            assert torch.equal(gradients[parameter].to_dense(), gradient.to_dense())
    monkeypatch.setattr(products, "takes", lambda *_: False)
    expected, of_torch = learned(forward, batch)

    near_by_much(logits, expected)
    all_near_by_much(gradients, of_torch)


@needs_tiles
@pytest.mark.parametrize("count", [3, 7, 16])
def test_a_layer_as_a_whole_drops_what_its_parts_drop(tmp_path, monkeypatch, count):
    forward, batch = model_in_bf16(tmp_path / "bert", count=count, dropout=0.2)
    forward.model.train()
    forward.begin(1, 2, 3)
    logits, gradients = learned(forward, batch)
    assert not torch.equal(learned(forward, batch)[0], logits)
    monkeypatch.setattr(fused_tiles, "takes", lambda *_: False)
    forward.begin(1, 2, 3)

    expected, of_parts = learned(forward, batch)

    near_by_much(logits, expected)
    all_near_by_much(gradients, of_parts)
    # The last layer goes on with so many tokens, which the products of a part take by 16 alone.
    if count % 16 == 0:
        assert torch.equal(logits, expected)
        for parameter, gradient in of_parts.items():
            assert torch.equal(gradients[parameter].to_dense(), gradient.to_dense())


def learned(forward, batch):
    """Return logits, and gradients by parameter."""
    forward.forget_gradients()
    logits = forward.logits(batch)
    (logits * torch.linspace(0.5, 2, logits.numel()).view(logits.shape)).sum().backward()
    return logits.detach(), {one: gradient.float() for one, gradient in forward.gradients().items()}


@needs_tiles
@pytest.mark.parametrize("longest", [16, 128])
def test_a_model_scores_with_tiles_as_without(tmp_path, monkeypatch, longest):
    forward, batch = model_in_bf16(tmp_path / "bert")
    monkeypatch.setattr(fused, "LONGEST", longest)
    whole = counted(monkeypatch, layer_tiles, ["forward"])
    scores = forward.score(batch)
    assert whole == {"forward": forward.model.config.num_hidden_layers}

    monkeypatch.setattr(fused_tiles, "takes", lambda *_: False)
    calls = counted(monkeypatch, attention_tiles, ["attend"])
    assert (forward.score(batch) == scores).all()
    assert calls == {"attend": forward.model.config.num_hidden_layers}

    monkeypatch.setattr(products, "takes", lambda *_: False)
    monkeypatch.setattr(attention_tiles, "takes", lambda *_: False)
    expected = forward.score(batch)

    near_by_much(torch.from_numpy(scores), torch.from_numpy(expected))


@needs_tiles
def test_texts_that_are_too_long_for_the_way_back_are_learned_by_the_layers_of_transformers(
    tmp_path, monkeypatch
):
    forward, batch = model_in_bf16(tmp_path / "bert")
    monkeypatch.setattr(fused, "LONGEST", 16)
    calls = counted(monkeypatch, fused, ["_pass"])

    forward.logits(batch).sum().backward()

    assert calls == {"_pass": 0}
