"""Encoder layers as one operation: the logits and gradients of Transformers' own layers."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from durabert.bert import attention_kernels, fused, kernels
from durabert.bert.batches import PaddedLayout
from durabert.bert.dropout import Masks
from durabert.bert.fused_cpu import NO_DROPOUT
from durabert.bert.packed_attention import install as install_packing
from durabert.bert.packing import PackedLayout
from durabert.bert.threads import team
from tests.tiny import FAMILIES
from tests.unit.test_packing import CPU, classifier, logits_and_gradients, tokens

INDICES = np.array([3, 0, 5, 1, 7, 2, 6])
FUSED = ("bert", "roberta", "electra")


class WithMasks:
    """A layout whose batches carry where dropout comes from, as ``Forward`` gives it."""

    def __init__(self, layout, masks) -> None:
        self.layout, self.masks = layout, masks

    def batch(self, examples, indices):
        batch = self.layout.batch(examples, indices)
        batch.inputs["masks"] = self.masks
        return batch


def packed(found, masks):
    install_packing(found.model)
    fused.install(found.model)
    layout = PackedLayout(found.model.config.num_attention_heads, found.first_position, CPU)
    return WithMasks(layout, masks)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_transformers(tmp_path, monkeypatch, family):
    found = classifier(tmp_path / family, family)
    examples = tokens(types=found.uses_types)
    padded = PaddedLayout(found.model.config.pad_token_id, 64, CPU)
    expected, gradients = logits_and_gradients(found.model, padded, examples, INDICES)
    calls = []
    monkeypatch.setattr(fused, "_pass", counting(fused._pass, calls))

    logits, found_gradients = logits_and_gradients(found.model, packed(found, Masks()), examples, INDICES)

    assert len(calls) == (2 if family in FUSED else 0)
    torch.testing.assert_close(logits, expected, rtol=2e-4, atol=2e-4)
    for name, gradient in gradients.items():
        if gradient is not None:
            scale = max(1.0, float(gradient.abs().max()))
            torch.testing.assert_close(
                found_gradients[name], gradient, rtol=2e-4, atol=2e-4 * scale, msg=name
            )


def counting(function, calls):
    def counted(*arguments, **named):
        calls.append(1)
        return function(*arguments, **named)

    return counted


def test_longer_sequences_go_the_way_of_transformers(tmp_path, monkeypatch):
    found = classifier(tmp_path / "bert", "bert")
    examples = tokens(types=found.uses_types)
    layout = packed(found, Masks())
    expected, _ = logits_and_gradients(found.model, layout, examples, INDICES)
    monkeypatch.setattr(fused, "LONGEST", 32)
    calls = []
    monkeypatch.setattr(fused, "_pass", counting(fused._pass, calls))

    logits, _ = logits_and_gradients(found.model, layout, examples, INDICES)

    assert not calls
    torch.testing.assert_close(logits, expected, rtol=2e-4, atol=2e-4)


def test_the_gradient_with_dropout_agrees_with_finite_differences(tmp_path):
    found = classifier(tmp_path / "bert", "bert")
    masks = Masks()
    layout = packed(found, masks)
    for module in found.model.modules():
        if type(module) is torch.nn.Dropout:
            module.p = 0.3
    # These two stay outside of the layers, and with torch.
    found.model.dropout.p = found.model.bert.embeddings.dropout.p = 0.0
    examples = tokens(types=found.uses_types)

    def loss_and_gradients():
        masks.begin(1, 2, 3)
        logits, gradients = logits_and_gradients(found.model, layout, examples, INDICES)
        weights = torch.linspace(0.5, 2, logits.numel()).view(logits.shape)
        return float((logits * weights).sum()), gradients

    loss, gradients = loss_and_gradients()
    assert loss_and_gradients()[0] == loss
    layer = found.model.bert.encoder.layer[0]
    for parameter, name in (
        (layer.attention.self.query.weight, "bert.encoder.layer.0.attention.self.query.weight"),
        (layer.attention.self.value.bias, "bert.encoder.layer.0.attention.self.value.bias"),
        (layer.attention.output.LayerNorm.weight, "bert.encoder.layer.0.attention.output.LayerNorm.weight"),
        (layer.output.dense.bias, "bert.encoder.layer.0.output.dense.bias"),
        (layer.intermediate.dense.weight, "bert.encoder.layer.0.intermediate.dense.weight"),
    ):
        gradient = gradients[name].clone()
        direction = gradient / gradient.norm()
        step = 1e-2
        parameter.data.add_(direction, alpha=step)
        above, _ = loss_and_gradients()
        parameter.data.sub_(direction, alpha=2 * step)
        below, _ = loss_and_gradients()
        parameter.data.add_(direction, alpha=step)
        assert (above - below) / (2 * step) == pytest.approx(float(gradient.norm()), rel=0.02), name


def test_dropout_keeps_what_it_should_and_no_two_places_agree():
    site = Masks().site(0.25)
    ones = np.ones((256, 64), np.float32)
    out, total = np.empty_like(ones), np.empty_like(ones)
    moments = np.empty((2, 256), np.float32)

    def kept(site):
        kernels.dropout_add_norm(
            team(), ones, np.zeros_like(ones), np.ones(64, np.float32), np.zeros(64, np.float32),
            np.float32(1e-12), *site.key, site.dropped, site.scale, total, out, moments[0], moments[1],
        )  # fmt: skip
        return total != 0

    first = kept(site)
    assert first.mean() == pytest.approx(0.75, abs=0.015)
    assert set(np.unique(total)) == {np.float32(0), site.scale}
    # Neither rows nor columns hang together.
    for axis in (0, 1):
        neighbours = np.mean(first == np.roll(first, 1, axis=axis))
        assert neighbours == pytest.approx(0.75**2 + 0.25**2, abs=0.02)
    masks = Masks()
    draws = [kept(masks.site(0.25)) for _ in range(4)]
    for one, other in itertools.combinations(draws, 2):
        assert np.mean(one == other) == pytest.approx(0.75**2 + 0.25**2, abs=0.02)


def attended(queries, keys, values, starts, *, rows=128, heads=1, scaling=1.0, site=NO_DROPOUT):
    """Return what tokens attend to, (T, F); 7 where nothing is written."""
    out = np.full_like(queries, 7)
    projected = np.concatenate([queries, keys, values], axis=1)
    attention_kernels.attend(
        team(), projected, np.array(starts), heads, rows, np.float32(scaling), *site.key, site.dropped,
        site.scale, out,
    )  # fmt: skip
    return out


@pytest.mark.parametrize("values", [np.linspace(-90, 0, 1001), np.linspace(-1, 0, 1001)])
def test_weights_are_those_of_a_softmax(values):
    queries, keys, shown = (np.zeros((64, 64), np.float32) for _ in range(3))
    queries[:, 0], keys[:, 0] = 1, values[:64]
    # Nobody looks at what lies in no sequence.
    keys[50:] = np.inf
    np.fill_diagonal(shown, 1)

    weights = attended(queries, keys, shown, [0, 50], scaling=0.5)

    expected = torch.softmax(torch.from_numpy(values.astype(np.float32)[:50]) * 0.5, -1)
    np.testing.assert_allclose(weights[:50, :50], np.tile(expected, (50, 1)), rtol=1e-5, atol=1e-7)
    # There is nothing, neither to attend nor to be attended to.
    assert (weights[50:] == 7).all()
    assert (weights[:50, 50:] == 0).all()


@pytest.mark.parametrize("rows", [1, 128])
@pytest.mark.parametrize("width", [16, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_and_its_gradient_are_those_of_torch(dtype, width, rows):
    starts, heads = [0, 1, 4, 20, 37, 165], 3
    generator = torch.Generator().manual_seed(1)
    projected, gradient = (
        torch.randn(165, parts * heads * width, generator=generator).to(dtype) for parts in (3, 1)
    )
    attends = torch.tensor([place - start < rows for start, end in itertools.pairwise(starts)
                            for place in range(start, end)])  # fmt: skip
    exact = projected.double().requires_grad_()
    expected = torch.cat(
        [
            torch.nn.functional.scaled_dot_product_attention(
                *(part.view(-1, heads, width).transpose(0, 1) for part in exact[start:end].chunk(3, 1)),
                scale=0.3,
            ).transpose(0, 1).flatten(1)
            for start, end in itertools.pairwise(starts)
        ]
    )  # fmt: skip
    expected.backward(gradient.double() * attends[:, None])
    out, change = torch.empty_like(gradient), torch.empty_like(projected)
    site = NO_DROPOUT
    how = (np.array(starts), heads, rows, np.float32(0.3), *site.key, site.dropped, site.scale)

    attention_kernels.attend(team(), kernels.array_of(projected), *how, kernels.array_of(out))
    attention_kernels.attend_backward(
        team(), kernels.array_of(gradient), kernels.array_of(projected), *how, kernels.array_of(change)
    )

    tolerance = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-2}
    torch.testing.assert_close(out[attends].double(), expected.detach()[attends], **tolerance)
    torch.testing.assert_close(change.double(), exact.grad, **tolerance)
    assert (change[~attends, : heads * width] == 0).all()


def test_no_two_weights_of_attention_are_dropped_together():
    queries, shown = np.zeros((64, 128), np.float32), np.tile(np.eye(64, dtype=np.float32), 2)

    def kept(site):
        """Return it by head, token and token that it looks at."""
        return attended(queries, queries, shown, [0, 64], heads=2, site=site).reshape(64, 2, 64) * 64

    masks = Masks()
    site = masks.site(0.25)
    first = kept(site)
    assert set(np.unique(first)) == {np.float32(0), site.scale}
    assert (first != 0).mean() == pytest.approx(0.75, abs=0.015)
    by_chance = pytest.approx(0.75**2 + 0.25**2, abs=0.02)
    for axis in range(3):
        assert np.mean(first == np.roll(first, 1, axis=axis)) == by_chance
    assert np.mean(first == kept(masks.site(0.25))) == by_chance


def test_bfloat16_is_rounded_to_the_nearest_even():
    values = torch.randn(4096).view(64, 64)
    half = values.bfloat16()
    ones, zeros = torch.ones(64).bfloat16(), torch.zeros(64).bfloat16()
    total, out = torch.empty_like(half), torch.empty_like(half)
    moments = np.empty((2, 64), np.float32)
    bits = [kernels.array_of(tensor) for tensor in (half, torch.zeros_like(half), ones, zeros)]

    kernels.dropout_add_norm(
        team(), *bits, np.float32(1e-12), np.uint32(0), np.uint32(0), np.uint32(0), np.float32(1),
        kernels.array_of(total), kernels.array_of(out), moments[0], moments[1],
    )  # fmt: skip

    assert torch.equal(total, half)
    expected = torch.nn.functional.layer_norm(half.float(), (64,), eps=1e-12).bfloat16()
    # Sums in another order change the last bit of few.
    assert (out == expected).float().mean() > 0.99
