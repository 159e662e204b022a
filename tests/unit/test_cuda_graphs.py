"""Gradients go to their places while a pass goes on; the graphs themselves need a GPU, see ``tests/gpu``."""

from __future__ import annotations

import pytest
import torch

from durabert.bert import cuda_graphs
from durabert.bert.forward import Forward
from durabert.bert.loss import Loss


class OnCpu(Forward):
    def logits(self, batch):
        return self.model[1](self.model[0](batch))


@pytest.fixture
def backward(monkeypatch):
    monkeypatch.setattr(torch.cuda, "MemPool", object)
    monkeypatch.setattr(torch.cuda, "Stream", object)
    torch.manual_seed(0)
    # The last one takes no part in the loss.
    model = torch.nn.Sequential(torch.nn.Linear(30, 30), torch.nn.Linear(30, 3), torch.nn.Linear(5, 5))
    return cuda_graphs.GpuBackward(OnCpu(model, None, None, None), Loss("multiclass", None, 0.0, "cpu"))


@pytest.fixture
def rows():
    return torch.randn((7, 30), generator=torch.Generator().manual_seed(1)), torch.arange(7) % 3


def expected(model, rows):
    inputs, labels = rows
    loss = torch.nn.functional.cross_entropy(model[1](model[0](inputs)), labels)
    return loss, torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)


@pytest.mark.parametrize("at_once", [2, 40, 2**22])
def test_gradients_are_those_of_torch_however_many_are_copied_together(backward, rows, monkeypatch, at_once):
    monkeypatch.setattr(cuda_graphs, "_AT_ONCE", at_once)
    model = backward._forward.model
    loss, gradients = expected(model, rows)
    assert backward(*rows, 7.0, begin=lambda: None).item() == pytest.approx(loss.item())
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            torch.testing.assert_close(parameter.grad, gradient)
        # A second pass would take its gradients twice.
        assert not parameter._backward_hooks


def test_gradients_that_weights_have_are_added_to_in_the_same_memory(backward, rows):
    model = backward._forward.model
    _, gradients = expected(model, rows)
    backward(*rows, 7.0, begin=lambda: None)
    places = [parameter.grad for parameter in model[0].parameters()]
    backward(*rows, 7.0, begin=lambda: None)
    for parameter, place, gradient in zip(model[0].parameters(), places, gradients, strict=False):
        assert parameter.grad is place
        torch.testing.assert_close(parameter.grad, 2 * gradient)


@pytest.mark.parametrize(("at_once", "copied_together"), [(40, [33]), (91, [93, 30])])
def test_not_all_gradients_are_there_twice_at_the_end_of_a_pass(
    backward, rows, monkeypatch, at_once, copied_together
):
    monkeypatch.setattr(cuda_graphs, "_AT_ONCE", at_once)
    sizes = []
    real = torch._foreach_copy_

    def copied(places, gradients):
        sizes.append(sum(gradient.numel() for gradient in gradients))
        real(places, gradients)

    monkeypatch.setattr(torch, "_foreach_copy_", copied)
    backward(*rows, 7.0, begin=lambda: None)
    # The second layer has 3 and 90 values, the first one 30 and 900: large ones go by themselves.
    assert sizes == copied_together
