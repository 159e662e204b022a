"""Batches without padding: the logits and gradients of padded ones, for every family."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from durabert.bert.batches import PaddedLayout
from durabert.bert.device import Compute
from durabert.bert.dropout import MaskedDropout, Masks, replace_dropout
from durabert.bert.layout import choose_layout
from durabert.bert.model import load_classifier
from durabert.bert.packed_attention import install
from durabert.bert.packing import PackedLayout
from durabert.bert.tokens import Tokens
from tests.tiny import FAMILIES, build_model

CPU = torch.device("cpu")
COMPUTE = Compute.choose(device="cpu", precision="fp32")
LENGTHS = (7, 33, 3, 8, 20, 64, 9, 20)
WITHOUT_DROPOUT = {
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "roberta": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "electra": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "distilbert": {},
    # A window that most of the sequences are longer than.
    "modernbert": {"local_attention": 8, "global_attn_every_n_layers": 2},
}


def tokens(lengths=LENGTHS, *, vocabulary=40, types=False) -> Tokens:
    rng = np.random.default_rng(0)
    ids = rng.integers(5, vocabulary, sum(lengths)).astype(np.int32)
    kinds = rng.integers(0, 2, sum(lengths)).astype(np.int8) if types else None
    return Tokens(ids, np.concatenate([[0], np.cumsum(lengths)]), kinds, 0)


def classifier(directory, family, **options):
    found = load_classifier(
        build_model(directory, family, **{**WITHOUT_DROPOUT[family], **options}),
        task="multiclass", labels=("a", "b", "c"), max_length=64, seed=0,
    )  # fmt: skip
    for module in found.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return found


def logits_and_gradients(model, layout, examples, indices):
    model.train()
    model.zero_grad(set_to_none=True)
    logits = model(**layout.batch(examples, indices).inputs).logits
    weights = torch.linspace(0.5, 2, logits.numel(), dtype=logits.dtype).view(logits.shape)
    (logits * weights).sum().backward()
    return logits.detach(), {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_gradients_are_those_of_a_padded_batch(tmp_path, family, dtype, tolerance):
    found = classifier(tmp_path / family, family)
    model = found.model.to(dtype)
    indices = np.array([3, 0, 5, 1, 7, 2, 6])
    examples = tokens(types=found.uses_types)
    padded = PaddedLayout(model.config.pad_token_id, 64, CPU)
    expected, gradients = logits_and_gradients(model, padded, examples, indices)
    install(model)

    packed = PackedLayout(model.config.num_attention_heads, found.first_position, CPU)
    logits, found_gradients = logits_and_gradients(model, packed, examples, indices)

    torch.testing.assert_close(logits, expected, rtol=tolerance, atol=tolerance)
    for name, gradient in gradients.items():
        if gradient is None:
            assert found_gradients[name] is None
            continue
        scale = float(gradient.abs().max())
        torch.testing.assert_close(
            found_gradients[name], gradient, rtol=tolerance, atol=tolerance * max(scale, 1), msg=name
        )
    with torch.inference_mode():
        model.eval()
        again = model(**packed.batch(examples, indices).inputs).logits
    torch.testing.assert_close(again, expected, rtol=tolerance, atol=tolerance)


def test_the_mean_of_a_model_that_pools_so_is_over_its_own_tokens(tmp_path):
    found = classifier(tmp_path / "model", "modernbert", classifier_pooling="mean")
    model, examples, indices = found.model.double(), tokens(), np.arange(len(LENGTHS))
    padded = PaddedLayout(model.config.pad_token_id, 64, CPU)
    expected, _ = logits_and_gradients(model, padded, examples, indices)
    install(model)

    packed = PackedLayout(model.config.num_attention_heads, found.first_position, CPU)

    torch.testing.assert_close(logits_and_gradients(model, packed, examples, indices)[0], expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_packed(tmp_path, family):
    found = classifier(tmp_path / family, family)
    padded = PaddedLayout(found.model.config.pad_token_id, 64, CPU)

    layout, notices = choose_layout(found.model, padded, COMPUTE, first_position=found.first_position)

    assert isinstance(layout, PackedLayout)
    assert notices == []


def test_a_model_that_gives_other_logits_is_padded_and_says_so(tmp_path):
    found = classifier(tmp_path / "model", "bert")
    padded = PaddedLayout(found.model.config.pad_token_id, 64, CPU)

    layout, [notice] = choose_layout(found.model, padded, COMPUTE, first_position=3)

    assert layout is padded
    assert notice == (
        "batches are padded, as a model of type 'bert' cannot do without: "
        "it gives other logits without padding"
    )
    examples = tokens()
    assert found.model(**padded.batch(examples, np.arange(2)).inputs).logits.shape == (2, 3)


def test_a_model_without_the_interface_is_padded_and_says_so(tmp_path, monkeypatch):
    found = classifier(tmp_path / "model", "bert")
    padded = PaddedLayout(found.model.config.pad_token_id, 64, CPU)

    def refuse(name):
        raise ValueError(f"{name} is not supported\nmore")

    monkeypatch.setattr(found.model, "set_attn_implementation", refuse)
    layout, [notice] = choose_layout(found.model, padded, COMPUTE, first_position=0)

    assert layout is padded
    assert notice.endswith(": durabert_packed is not supported")


def test_there_are_few_shapes():
    layout, rng = PackedLayout(2, 0, CPU), np.random.default_rng(0)
    shapes = set()
    for _ in range(200):
        lengths = rng.integers(3, 65, 32)
        batch = layout.batch(tokens(lengths), np.arange(32))
        assert batch.inputs["input_ids"].shape[1] % 16 == 0
        shapes |= {(bucket.count, bucket.length) for bucket in batch.inputs["packing"].rows.buckets}
    assert {length for _, length in shapes} == {16, 32, 64}
    assert len(shapes) < 30


def test_masks_drop_the_share_that_is_asked_for_and_keep_the_mean():
    masks = Masks()
    masks.begin(3, 5, 0)
    drawn = masks.draw(torch.Size((1000, 1000)), 0.1, torch.float32)

    assert drawn.unique().tolist() == pytest.approx([0, 1 / 0.9], rel=1e-4)
    # Five standard deviations of a million draws.
    assert float((drawn == 0).double().mean()) == pytest.approx(0.1, abs=5 * 0.3 / 1000)
    assert float(drawn.double().mean()) == pytest.approx(1.0, abs=0.002)


def test_masks_are_a_pure_function_of_their_place():
    def drawn(*place):
        masks = Masks()
        masks.begin(*place)
        return torch.stack([masks.draw(torch.Size((8, 9)), 0.5, torch.float32) for _ in range(2)])

    assert torch.equal(drawn(1, 2, 0), drawn(1, 2, 0))
    assert not torch.equal(drawn(1, 2, 0)[0], drawn(1, 2, 0)[1])
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(drawn(1, 2, 0), drawn(*other))


@pytest.mark.parametrize(("p", "value"), [(0.0, 1.0), (1.0, 0.0)])
def test_masks_of_none_and_of_all(p, value):
    assert Masks().draw(torch.Size((100,)), p, torch.float32).unique().tolist() == [value]


def test_dropout_layers_are_replaced_and_rest_in_evaluation(tmp_path):
    model = load_classifier(
        build_model(tmp_path / "model", "bert"), task="binary", labels=("a", "b"), max_length=64, seed=0
    ).model
    replace_dropout(model, Masks())

    layers = [module for module in model.modules() if isinstance(module, torch.nn.Dropout)]
    assert layers
    assert {type(layer) for layer in layers} == {MaskedDropout}
    ones = torch.ones(100, 100)
    assert (layers[0].train()(ones) == 0).any()
    assert torch.equal(layers[0].eval()(ones), ones)


def test_a_batch_over_the_numbers_of_another_is_that_one():
    examples = tokens(types=True)
    layout = PackedLayout(2, 2, CPU)
    one, other = (layout.batch(examples, np.array(rows)) for rows in ([0, 3, 2], [2, 3, 6]))
    assert one.shape == other.shape
    flat = one.flat.clone()

    over = one.over(flat)
    flat.copy_(other.flat)

    for name in ("input_ids", "position_ids", "token_type_ids"):
        assert torch.equal(over.inputs[name], other.inputs[name])
    found, expected = over.inputs["packing"], other.inputs["packing"]
    assert torch.equal(found.first_B, expected.first_B)
    assert not torch.equal(found.first_B, one.inputs["packing"].first_B)
    assert torch.equal(found.sequence_T, expected.sequence_T)
    assert torch.equal(found.boundaries, expected.boundaries)


@pytest.mark.parametrize(
    ("num_tokens", "multiple"), [(1, 64), (431, 64), (1024, 64), (1025, 128), (8192, 512), (8193, 1024)]
)
def test_a_gpu_gets_few_shapes(num_tokens, multiple):
    assert PackedLayout(2, 0, torch.device("cuda"))._multiple(num_tokens) == multiple


def test_boundaries_are_where_sequences_and_what_fills_up_begin():
    packing = PackedLayout(2, 0, CPU).batch(tokens(), np.array([0, 1, 2])).inputs["packing"]

    # 3, 7 and 33 tokens, filled up to 48.
    assert packing.boundaries.tolist() == [0, 3, 10, 43, 48]
    assert (packing.longest, packing.longest_fill) == (64, 64)
