"""Training on a GPU: exact, also when it is left and gone on with, and with too little memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from durabert.bert.allocator import keep_freed_memory
from durabert.bert.batches import PaddedLayout
from durabert.bert.checkpoint import StateCopier, files_of, load_state
from durabert.bert.cuda_graphs import GpuBackward
from durabert.bert.determinism import deterministic_kernels
from durabert.bert.device import Compute
from durabert.bert.forward import Forward
from durabert.bert.loop import fine_tune
from durabert.bert.loss import Loss
from durabert.bert.metrics import best_metric
from durabert.bert.packed_attention import install
from durabert.bert.packing import PackedLayout
from durabert.bert.preparing import prepare
from durabert.bert.progress import Reporter
from durabert.bert.steps import StepReport, TrainState, train
from durabert.bert.weights import weights_sha256
from durabert.specs import FineTuneConfig
from tests.tiny import FAMILIES, agreements, build_model, degrees, sentiments, training_data
from tests.unit.test_packing import classifier, tokens

GPU = torch.device("cuda")
SMALL = {"hidden_size": 128, "num_attention_heads": 4, "intermediate_size": 256, "initializer_range": 0.05}
STEADY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
KINDS = {
    "dropout": (sentiments, {}),
    "pair": (agreements, {}),
    "regression": (degrees, {"task": "regression"}),
}


@pytest.fixture(autouse=True)
def exact():
    """Hold torch to exact kernels before it is asked for the first, as a training does."""
    with deterministic_kernels():
        yield


def config_for(directory, **fields):
    return FineTuneConfig.parse(
        {
            "model": str(directory), "epochs": 20, "batch_size": 16, "max_length": 64, "device": "cuda",
            "learning_rate": 1e-3, **fields,
        }
    )  # fmt: skip


def job(directory, *, make=sentiments, **fields):
    config = config_for(directory, **fields)
    of_task = {"task": "regression", "labels": ("score",)} if make is degrees else {}
    data = training_data(make(200), make(40, seed=1), **of_task)
    compute = Compute.choose(device="cuda", precision=config.precision)
    quiet = Reporter(lambda _: None, lambda: False)
    return prepare(config, data, compute, best_metric("auto", data.task), quiet)


def steps(state, plan, count):
    made = (event for event in train(state, plan) if isinstance(event, StepReport))
    return [next(made).loss for _ in range(count)]


def digest(state):
    moments = {
        f"{name}/{kind}": tensor
        for name, parameter in state.model.named_parameters()
        for kind, tensor in state.optimizer.state[parameter].items()
    }
    return weights_sha256(state.model.state_dict()), weights_sha256(moments)


def padded_in_fp32(model, loss, labels, examples, indices):
    """Return loss and gradients; of what autograd made nothing stays, which a capture could not do with."""
    padded = PaddedLayout(model.config.pad_token_id, 64, GPU)
    found = loss.sum(model(**padded.batch(examples, indices).inputs).logits, labels) / len(indices)
    found.backward()
    gradients = {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }
    model.zero_grad(set_to_none=True)
    return found.item(), gradients


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_gradients_in_bf16_are_near_those_of_padded_batches_in_fp32(tmp_path, family):
    found = classifier(tmp_path / family, family)
    loss, labels = Loss("multiclass", None, 0.0, "cuda"), torch.tensor([0, 1, 2, 1, 0, 2, 0], device=GPU)
    examples, indices = tokens(types=found.uses_types), np.array([3, 0, 5, 1, 7, 2, 6])
    model = found.model.to(GPU).train()
    expected_loss, expected = padded_in_fp32(model, loss, labels, examples, indices)
    install(model)
    packed = PackedLayout(model.config.num_attention_heads, found.first_position, GPU)
    forward = Forward.of(model, Compute.choose(device="cuda", precision="bf16"))
    forward.weights_changed()
    backward = GpuBackward(forward, loss)

    def gradients():
        names = {parameter: name for name, parameter in model.named_parameters()}
        return {names[one]: gradient.float() for one, gradient in forward.gradients().items()}

    batch = packed.batch(examples, indices)
    first = backward(batch, labels, 7.0, begin=lambda: None)
    once = gradients()
    forward.forget_gradients()
    # Other sequences of the same shape, then the same again.
    backward(packed.batch(examples, indices[::-1].copy()), labels, 7.0, begin=lambda: None)
    forward.forget_gradients()
    again = backward(batch, labels, 7.0, begin=lambda: None)

    assert backward.notice is None
    assert again.item() == first.item()
    assert first.item() == pytest.approx(expected_loss, abs=0.02)
    assert once.keys() == expected.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected.values()])
    error = torch.cat([(once[name] - gradient).flatten() for name, gradient in expected.items()])
    print(f"{family}: relative error of the gradient {float(error.norm() / whole.norm()):.4f}")
    assert error.norm() < 0.03 * whole.norm()
    for name, gradient in gradients().items():
        assert torch.equal(gradient, once[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_that_was_left_ends_with_the_bits_of_one_that_was_not(tmp_path, kind):
    make, fields = KINDS[kind]
    directory = build_model(tmp_path / "bert", "bert", **SMALL)
    whole = job(directory, make=make, **fields)
    assert whole.deterministic
    state = TrainState.fresh(whole.model, whole.plan)
    losses = steps(state, whole.plan, 30)
    assert state.on_gpu is not None
    assert state.on_gpu.notice is None

    half = job(directory, make=make, **fields)
    begun = TrainState.fresh(half.model, half.plan)
    first = steps(begun, half.plan, 17)
    files = {name: bytes(content) for name, content in files_of(StateCopier().copy(begun))}
    rest = job(directory, make=make, **fields)
    resumed = TrainState.fresh(rest.model, rest.plan)
    load_state(files, resumed, rest.plan)
    second = steps(resumed, rest.plan, 13)

    assert first + second == losses
    assert digest(resumed) == digest(state)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_other_precisions_train_padded(tmp_path, precision):
    directory = build_model(tmp_path / "bert", "bert", **SMALL)
    prepared = job(directory, precision=precision)
    state = TrainState.fresh(prepared.model, prepared.plan)
    losses = steps(state, prepared.plan, 120)
    assert isinstance(prepared.plan.layout, PaddedLayout)
    assert np.mean(losses[-9:]) < np.mean(losses[:9]) / 2


def test_a_batch_that_does_not_fit_is_computed_in_pieces(tmp_path, monkeypatch):
    directory = build_model(tmp_path / "bert", "bert", **SMALL, **STEADY)
    prepared = job(directory)
    real, struck = Forward.logits, []

    def small_memory(self, batch):
        if torch.is_grad_enabled() and len(batch.inputs["packing"].first_B) > 8:
            struck.append(1)
            # More than any card has.
            torch.empty(2**46, device=GPU)
        return real(self, batch)

    monkeypatch.setattr(Forward, "logits", small_memory)
    state = TrainState.fresh(prepared.model, prepared.plan)
    in_pieces = steps(state, prepared.plan, 60)
    monkeypatch.setattr(Forward, "logits", real)
    prepared = job(directory)
    whole = TrainState.fresh(prepared.model, prepared.plan)
    at_once = steps(whole, prepared.plan, 1)
    assert struck
    assert state.micro_batches == 2
    assert in_pieces[0] == pytest.approx(at_once[0], rel=0.02)
    assert np.mean(in_pieces[-5:]) < in_pieces[0]


def test_a_model_is_trained_and_its_profile_told(tmp_path):
    keep_freed_memory()
    directory = build_model(tmp_path / "bert", "bert", **SMALL)
    trained = fine_tune(
        config_for(directory, device="auto"),
        training_data(sentiments(200), sentiments(40, seed=1)),
        output=tmp_path / "model",
        report=lambda _: None,
        should_stop=lambda: False,
    )
    assert trained.device.startswith("cuda")
    assert (trained.precision, trained.deterministic) == ("bf16", True)
    assert not [notice for notice in trained.notices if "captur" in notice or "padded" in notice]
    assert trained.metrics["accuracy"] > 0.9
    assert trained.profile is not None
    assert 0 < trained.profile.flop_utilisation < 1
    assert 0 <= trained.profile.data_share < 1
    assert trained.peak_device_memory_mib > 0
