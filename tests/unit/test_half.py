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
