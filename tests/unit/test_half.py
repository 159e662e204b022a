"""Half precision beside fp32 weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from durabert.bert.batches import PaddedLayout
from durabert.bert.device import Compute
from durabert.bert.forward import Forward
from durabert.bert.half import HalfWeights
from durabert.bert.model import load_classifier
from durabert.bert.packed_attention import install as install_packing
from durabert.bert.packing import PackedLayout
from durabert.bert.tokens import Tokens
from tests.tiny import build_model

LAYOUT = PaddedLayout(0, 64, torch.device("cpu"))
TOKENS = Tokens(np.arange(5, 25, dtype=np.int32), np.array([0, 8, 20]), None, 0)


@pytest.fixture
def model(tmp_path):
    found = load_classifier(
        build_model(tmp_path / "model"), task="binary", labels=("a", "b"), max_length=64, seed=0
    )
    return found.model.eval()


def inputs():
    return LAYOUT.batch(TOKENS, np.arange(2)).inputs


def test_logits_and_gradients_are_near_those_of_full_precision(model):
    expected = model(**inputs()).logits
    expected.sum().backward()
    gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    half = HalfWeights(model, torch.bfloat16)

    logits = half(**inputs()).logits
    logits.float().sum().backward()
    half.take_gradients()

    assert logits.dtype == torch.bfloat16
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)
    length = max(float(gradient.norm()) for gradient in gradients.values())
    for name, parameter in model.named_parameters():
        assert parameter.dtype == parameter.grad.dtype == torch.float32
        assert (parameter.grad - gradients[name]).norm() < 0.05 * (gradients[name].norm() + 0.1 * length), (
            name
        )


def test_the_gradients_of_two_pieces_are_added_in_fp32(model):
    half = HalfWeights(model, torch.bfloat16)
    half(**inputs()).logits.float().sum().backward()
    half.take_gradients()
    once = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    half(**inputs()).logits.float().sum().backward()
    half.take_gradients()

    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, 2 * once[name], msg=name)


def test_changed_weights_are_taken_over(model):
    half = HalfWeights(model, torch.bfloat16)
    with torch.no_grad():
        model.classifier.bias.fill_(100.0)
    before = half(**inputs()).logits
    half.refresh()

    assert (half(**inputs()).logits - before > 50).all()


def test_a_model_that_is_called_by_itself_stays_in_full_precision(model):
    expected = model(**inputs()).logits
    half = HalfWeights(model, torch.bfloat16)
    half(**inputs())

    assert torch.equal(model(**inputs()).logits, expected)


def test_a_copy_has_weights_of_its_own(model):
    forward = Forward.of(model, Compute.choose(device="cpu", precision="auto"))
    twin = copy.deepcopy(forward)
    with torch.no_grad():
        twin.model.classifier.bias.fill_(100.0)
    twin.weights_changed()
    batch = LAYOUT.batch(TOKENS, np.arange(2))

    assert (twin.logits(batch) - forward.logits(batch) > 50).all()


def test_queries_keys_and_values_are_one_product_without_a_copy(model, monkeypatch):
    found = {}
    layout = PackedLayout(model.config.num_attention_heads, 0, torch.device("cpu"))
    install_packing(model)
    forward = Forward.of(model, Compute(torch.device("cpu"), "bf16"))
    model.eval()
    apart = HalfWeights(model, torch.bfloat16)
    copies = []
    cat = torch.cat
    monkeypatch.setattr(torch, "cat", lambda parts, *rest: copies.append(len(parts)) or cat(parts, *rest))

    for name, half in (("joined", forward.half), ("apart", apart)):
        copies.clear()
        batch = layout.batch(TOKENS, np.arange(2))
        logits = half(**batch.inputs, masks=forward.masks).logits
        logits.float().sum().backward()
        half.take_gradients()
        found[name] = logits, [parameter.grad for parameter in model.parameters()], list(copies)
        model.zero_grad(set_to_none=True)

    layers = model.config.num_hidden_layers
    assert (found["joined"][2], found["apart"][2]) == ([], 2 * layers * [3])
    for one, other in zip(found["joined"][1], found["apart"][1], strict=True):
        assert torch.equal(one, other)
    assert torch.equal(found["joined"][0], found["apart"][0])


def test_joined_weights_are_taken_over_when_they_have_changed(model):
    half = Forward.of(model, Compute(torch.device("cpu"), "bf16")).half
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    half.refresh()

    for master, weight in half.halves.items():
        assert torch.equal(weight, master.detach().bfloat16())
