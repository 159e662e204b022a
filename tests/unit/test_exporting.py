"""Trained models as ONNX: the same logits, and a gate before anything is written."""

from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest

from durabert.bert import exporting
from durabert.bert.exporting import ExportFacts, export_hf, export_onnx, load_exported, onnx_sha256
from durabert.bert.loop import fine_tune
from durabert.bert.predict import Predictor
from durabert.bert.progress import Reporter
from durabert.errors import DependencyMissing, ExportRefused, LabelsInvalid, ModelInvalid
from durabert.specs import FineTuneConfig
from tests import tiny

TEXTS = [*tiny.sentiments(20, seed=5).texts, "good", "the film was " * 9, "", "bad " * 60]
DATA = tiny.training_data(tiny.sentiments(64), tiny.sentiments(40, seed=1))


def train(directory, family="bert", data=DATA, epochs=4, **options):
    """Write a base model and one fine-tuned from it; return the directory of the second."""
    base = tiny.build_model(directory / "base", family, **options)
    config = FineTuneConfig(
        model=str(base), epochs=epochs, batch_size=8, learning_rate=3e-3, max_length=32, precision="fp32"
    )
    fine_tune(config, data, output=directory / "model", report=lambda _: None, should_stop=lambda: False)
    return directory / "model"


def exported(model, directory, form="onnx", data=DATA, metric="accuracy"):
    directory.mkdir()
    return export_onnx(
        model, directory, run="films", format=form, data=data, metric=metric,
        reporter=Reporter(lambda _: None, lambda: False),
    )  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    # So long that it knows the labels: one that guesses has most of its texts near the border.
    data = tiny.training_data(tiny.sentiments(200), tiny.sentiments(40, seed=1))
    return train(tmp_path_factory.mktemp("bert"), data=data, epochs=8)


@pytest.fixture(scope="module")
def onnx(model, tmp_path_factory):
    directory = tmp_path_factory.mktemp("onnx") / "export"
    return directory, exported(model, directory)


def logits_of(predictor, texts=TEXTS, pairs=None):
    return predictor.logits(texts, pairs)[1]


@pytest.mark.parametrize("family", [family for family in tiny.FAMILIES if family != "bert"])
def test_every_family_gives_the_same_logits(family, tmp_path):
    model = train(tmp_path, family)

    facts = exported(model, tmp_path / "export")

    exact = Predictor.load(model, precision="fp32", device="cpu")
    assert np.abs(logits_of(load_exported(tmp_path / "export")) - logits_of(exact)).max() < 1e-4
    assert facts.parity.labels_equal == 1


def test_an_export_gives_the_logits_of_each_text_in_the_order_of_the_texts(model, onnx):
    exact = Predictor.load(model, precision="fp32", device="cpu")
    together = load_exported(onnx[0])

    assert np.abs(logits_of(together) - logits_of(exact)).max() < 1e-4
    alone = np.concatenate([logits_of(together, [text]) for text in TEXTS])
    assert np.abs(logits_of(together) - alone).max() < 1e-4
    assert logits_of(together, []).shape == (0, 2)


def test_an_export_says_what_it_is(model, onnx):
    directory, facts = onnx

    assert ExportFacts.read(directory) == facts
    document = json.loads((directory / "durabert.json").read_text())
    assert document["model_sha256"] == json.loads((model / "durabert.json").read_text())["model_sha256"]
    assert document["onnx_sha256"] == onnx_sha256(directory)
    assert document["parity"]["rows"] == 40
    assert document["parity"]["labels_equal"] == 1
    assert {"onnx", "onnxruntime", "onnxscript", "torch"} <= document["versions"].keys()
    assert sorted(path.name for path in directory.iterdir()) == [
        "README.md", "config.json", "durabert.json", "metrics.json", "model.onnx", "tokenizer.json",
        "tokenizer_config.json",
    ]  # fmt: skip
    assert "validation accuracy" in (directory / "README.md").read_text().partition("## Export")[2]
    usage = load_exported(directory).usage()
    assert (usage["engine"], usage["device"], usage["precision"]) == ("onnx", "cpu", "fp32")


def test_onnxruntime_alone_loads_an_export(model, onnx):
    import onnxruntime
    from transformers import AutoTokenizer

    session = onnxruntime.InferenceSession(str(onnx[0] / "model.onnx"), providers=["CPUExecutionProvider"])
    texts = ["the film was great", "awful"]
    encoded = AutoTokenizer.from_pretrained(onnx[0])(texts, padding=True, return_tensors="np")

    [logits] = session.run(None, dict(encoded))

    exact = Predictor.load(model, precision="fp32", device="cpu")
    assert np.abs(logits - logits_of(exact, texts)).max() < 1e-4


def test_weights_of_8_bits_predict_nearly_the_same(model, onnx, tmp_path):
    facts = exported(model, tmp_path / "export", "onnx-int8")

    rough = load_exported(tmp_path / "export")
    assert np.abs(logits_of(rough) - logits_of(load_exported(onnx[0]))).max() < 0.3
    assert 0 < facts.parity.largest_difference < 0.3
    assert rough.usage()["precision"] == "int8"
    assert not (tmp_path / "export" / "fp32").exists()


def test_pairs_are_told_apart(tmp_path):
    data = tiny.training_data(tiny.agreements(96), tiny.agreements(32, seed=1))
    model = train(tmp_path, data=data)

    exported(model, tmp_path / "export", data=data)

    pairs = tiny.agreements(12, seed=7)
    exact = Predictor.load(model, precision="fp32", device="cpu")
    both = [logits_of(one, pairs.texts, pairs.pairs) for one in (exact, load_exported(tmp_path / "export"))]
    assert np.abs(both[0] - both[1]).max() < 1e-4


def test_a_regression_is_exported(tmp_path):
    data = tiny.training_data(
        tiny.degrees(96), tiny.degrees(32, seed=1), task="regression", labels=("degree",)
    )
    model = train(tmp_path, data=data)

    facts = exported(model, tmp_path / "export", data=data, metric="pearson")

    assert facts.parity.labels_equal is None
    assert facts.parity.exported == pytest.approx(facts.parity.reference, abs=1e-5)


def test_a_model_that_was_quantized_to_death_is_refused(model, tmp_path, monkeypatch):
    def to_death(source, target):
        import onnx

        program = onnx.load(source)
        for tensor in program.graph.initializer:
            if tensor.data_type == onnx.TensorProto.FLOAT:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.round(values), tensor.name))
        onnx.save(program, target)

    monkeypatch.setattr(exporting, "quantize", to_death)

    with pytest.raises(ExportRefused) as refused:
        exported(model, tmp_path / "export", "onnx-int8")

    said = str(refused.value)
    assert said.startswith("the onnx-int8 export of run 'films' is refused: ")
    assert "of 40 validation rows get the label of the trained model" in said
    assert "its accuracy is 0." in said
    assert ExportFacts.read(tmp_path / "export") is None


def test_half_precision_of_torch_stands_the_gate(model):
    from durabert.bert.device import Compute
    from durabert.bert.loss import label_array
    from durabert.bert.parity import compare, require_parity

    if Compute.choose(device="cpu", precision="auto").precision != "bf16":
        pytest.skip("this processor does not multiply in bf16")
    rows = tiny.sentiments(400, seed=3)
    exact, half = (
        logits_of(Predictor.load(model, precision=precision, device="cpu"), rows.texts)
        for precision in ("fp32", "bf16")
    )

    report = compare(
        "binary", "accuracy", DATA.labels, label_array("binary", rows.labels),
        reference_NC=exact, exported_NC=half, data_sha256=DATA.sha256,
    )  # fmt: skip

    require_parity(report, what="bf16")
    assert 0 < report.largest_difference < 0.2


def test_a_type_that_cannot_be_exported_is_told_in_one_sentence(model, tmp_path, monkeypatch):
    def branch(self, input_ids, **_):
        if input_ids.sum() > 3:
            raise ValueError("it looks at its inputs")
        raise AssertionError

    monkeypatch.setattr("durabert.bert.onnx_export._Logits.forward", branch)

    with pytest.raises(ModelInvalid) as refused:
        exported(model, tmp_path / "export")

    said = str(refused.value)
    assert said.startswith("a model of type 'bert' cannot be exported to ONNX (")
    assert said.endswith("); use --format hf")
    assert "\n" not in said


def test_data_with_other_labels_are_refused(model, tmp_path):
    other = tiny.training_data(tiny.sentiments(64), tiny.sentiments(32), labels=("no", "yes"))

    with pytest.raises(LabelsInvalid, match="the labels no, yes, but run 'films' was trained on a binary"):
        exported(model, tmp_path / "export", data=other)


@pytest.mark.parametrize("library", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_library_is_named_with_its_extra(library, model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, library, None)

    with pytest.raises(DependencyMissing, match=rf"\({library}\) is not installed; .*durabert\[onnx\]"):
        exported(model, tmp_path / "export")


def test_an_hf_export_is_the_model_itself(model, tmp_path):
    (tmp_path / "export").mkdir()

    facts = export_hf(model, tmp_path / "export", run="films")

    for file in model.iterdir():
        if file.name != "durabert.json":
            assert (tmp_path / "export" / file.name).read_bytes() == file.read_bytes()
    assert ExportFacts.read(tmp_path / "export") == facts
    assert np.array_equal(logits_of(Predictor.load(tmp_path / "export")), logits_of(Predictor.load(model)))


@pytest.mark.parametrize("file", ["model.onnx", "durabert.json"])
def test_a_damaged_export_is_none(file, onnx, tmp_path):
    damaged = shutil.copytree(onnx[0], tmp_path / "damaged")
    content = (damaged / file).read_bytes()
    (damaged / file).write_bytes(content[:-9])

    assert ExportFacts.read(damaged) is None
    with pytest.raises(ModelInvalid, match="no whole ONNX model"):
        load_exported(damaged)
