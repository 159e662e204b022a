"""Training: exact, honest about what it does, and able to learn each task."""

from __future__ import annotations

import copy
import json
import math
import os
import subprocess
import sys

import pytest
import torch

from durabert.bert import loop, steps
from durabert.bert.data import load_training_data
from durabert.bert.device import Compute, device_errors
from durabert.bert.loop import Stopped, fine_tune
from durabert.bert.profile import Laps
from durabert.bert.progress import Reporter, TrainingMeter
from durabert.bert.steps import EpochReport, StepReport, TrainState, train
from durabert.bert.weights import stored_sha256, weights_sha256
from durabert.errors import (
    DeviceFault,
    DeviceMissing,
    LabelsInvalid,
    ModelNotFound,
    OutOfMemory,
    SpecInvalid,
    StoreUnavailable,
    TrainingDiverged,
)
from durabert.specs import DataSpec, FineTuneConfig
from tests import tiny


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny.build_model(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def calm_bert(tmp_path_factory):
    """A model without dropout learns small tasks in few steps."""
    return tiny.build_model(
        tmp_path_factory.mktemp("calm"), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )


def config_for(model, **fields):
    defaults = {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "max_length": 32, "precision": "fp32"}
    return FineTuneConfig(model=str(model), **{**defaults, **fields})


def tune(config, data, output, *, reports=None, should_stop=lambda: False):
    return fine_tune(
        config,
        data,
        output=output,
        report=(reports.append if reports is not None else lambda _: None),
        should_stop=should_stop,
    )


def prepared(config, data):
    """A training before its first step."""
    compute = Compute.choose(device="cpu", precision=config.precision)
    reporter = Reporter(lambda _: None, lambda: False)
    job = loop.prepare(config, data, compute, "accuracy", reporter)
    return TrainState.fresh(job.model, job.plan), job.plan


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_the_same_training_gives_the_same_bits(bert, tmp_path, precision):
    data = tiny.sentiment_data(test=True)
    config = config_for(bert, precision=precision, gradient_accumulation=2)
    one = tune(config, data, tmp_path / "one")
    torch.rand(7)
    other = tune(config, data, tmp_path / "other")
    assert one.model_sha256 == other.model_sha256
    assert one.history == other.history
    assert one.test_metrics == other.test_metrics
    assert one.deterministic


def test_another_seed_gives_another_model(bert, tmp_path):
    data = tiny.sentiment_data()
    digests = {tune(config_for(bert, seed=seed), data, tmp_path / "out").model_sha256 for seed in (1, 2)}
    assert len(digests) == 2


@pytest.mark.parametrize("cut", [1, 6, 7, 11])
def test_a_copied_state_goes_on_to_the_same_bits(bert, cut):
    state, plan = prepared(config_for(bert), tiny.sentiment_data())
    events = train(state, plan)
    while state.step < cut:
        next(events)
    middle = copy.deepcopy(state)
    for _ in events:
        pass
    torch.rand(7)
    for _ in train(middle, plan):
        pass
    assert weights_sha256(middle.model.state_dict()) == weights_sha256(state.model.state_dict())
    assert weights_sha256(middle.best.weights.tensors) == weights_sha256(state.best.weights.tensors)
    assert middle.history == state.history


def test_a_state_cut_off_in_a_validation_validates_again(bert):
    state, plan = prepared(config_for(bert), tiny.sentiment_data())
    events = train(state, plan)
    while state.step < plan.steps_per_epoch:
        next(events)
    next(events)
    middle = copy.deepcopy(state)
    assert middle.history == []
    first = next(event for event in train(middle, plan) if isinstance(event, EpochReport))
    assert first.result.epoch == 1


@pytest.mark.parametrize("weights", [None, "balanced"])
def test_accumulated_micro_batches_equal_the_whole_batch(calm_bert, weights):
    data = tiny.sentiment_data(90)
    computed = []
    for parts in (1, 3, 7):
        config = config_for(calm_bert, batch_size=18, gradient_accumulation=parts, class_weights=weights)
        state, plan = prepared(config, data)
        loss = steps._backward(state, plan, plan.order.indices(0), Laps())
        gradients = {name: parameter.grad.to_dense() for name, parameter in state.model.named_parameters()}
        computed.append((loss.item(), gradients))
    (loss, gradients), *others = computed
    for other_loss, others_gradients in others:
        assert other_loss == pytest.approx(loss, rel=1e-5)
        for name, gradient in gradients.items():
            torch.testing.assert_close(others_gradients[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


def assert_profile(result):
    profile = result.profile
    shares = [profile.data_share, profile.forward_share, profile.backward_share, profile.optimizer_share]
    assert all(share > 0 for share in shares)
    assert 0.5 < sum(shares) <= 1
    assert profile.checkpoint_share == 0
    assert profile.flop_utilisation == pytest.approx(profile.model_gflops / profile.peak_gflops)
    assert 0 < profile.flop_utilisation < 1


def test_the_operations_of_a_step_are_those_of_its_products(bert):
    state, plan = prepared(config_for(bert, batch_size=4), tiny.sentiment_data(8))
    report = next(event for event in train(state, plan) if isinstance(event, StepReport))
    lengths = plan.train.tokens.lengths[plan.order.indices(0)]
    # Two layers: four products of 32 x 32 and two of 32 x 64; 6 operations a weight and a token.
    weights = 2 * (4 * 32 * 32 + 2 * 32 * 64)
    attention = 12 * 2 * 32 * int((lengths**2).sum())
    assert report.num_tokens == lengths.sum()
    assert report.operations == 6 * weights * lengths.sum() + attention


def test_a_result_says_what_was_done(bert, tmp_path):
    data = tiny.sentiment_data(100, test=True)
    result = tune(config_for(bert, max_length=8), data, tmp_path / "out")
    assert (result.steps, result.epochs) == (14, 2)
    assert [(epoch.epoch, epoch.step) for epoch in result.history] == [(1, 7), (2, 14)]
    assert result.train_loss == result.history[-1].train_loss
    assert result.metrics == result.history[result.best_epoch - 1].metrics
    assert result.rows.model_dump() == {"train": 100, "validation": 32, "test": 16}
    assert (result.device, result.precision) == ("cpu", "fp32")
    assert result.peak_device_memory_mib is None
    assert 50 < result.peak_memory_mib < 20_000
    assert result.examples_per_second == pytest.approx(200 / result.train_seconds)
    assert_profile(result)
    assert {"durabert", "torch", "transformers"} <= set(result.versions)
    assert result.model_sha256 == stored_sha256(tmp_path / "out")
    assert [notice.split(":")[0] for notice in result.notices] == ["train", "validation", "test"]
    assert "texts are longer than max_length 8 tokens and were truncated" in result.notices[0]


def test_the_weights_of_the_best_epoch_are_kept_and_written(bert, tmp_path):
    # So slow that no prediction changes: all epochs are equally good, and the first of them is kept.
    config = config_for(bert, epochs=3, learning_rate=1e-5)
    state, plan = prepared(config, tiny.sentiment_data())
    digests = [
        weights_sha256(state.model.state_dict())
        for event in train(state, plan)
        if isinstance(event, EpochReport)
    ]
    assert len(set(digests)) == 3
    assert state.best.epoch == 1
    assert weights_sha256(state.best.weights.tensors) == digests[0]
    result = tune(config, tiny.sentiment_data(), tmp_path / "out")
    assert (result.best_epoch, result.model_sha256) == (1, digests[0])


def test_early_stopping_ends_after_epochs_without_improvement(bert, tmp_path):
    config = config_for(bert, epochs=9, early_stopping_patience=2, learning_rate=1e-12)
    result = tune(config, tiny.sentiment_data(32), tmp_path / "out")
    assert (result.best_epoch, result.epochs, result.steps) == (1, 3, 6)


def test_a_loss_that_should_be_low_picks_the_lowest(bert, tmp_path):
    result = tune(config_for(bert, best_metric="loss", epochs=3), tiny.sentiment_data(48), tmp_path / "out")
    losses = [epoch.metrics["loss"] for epoch in result.history]
    assert result.metric == "loss"
    assert result.metrics["loss"] == min(losses)


def test_a_binary_task_is_learned(calm_bert, tmp_path):
    data = tiny.training_data(tiny.sentiments(192), tiny.sentiments(64, seed=1))
    result = tune(config_for(calm_bert, epochs=5, batch_size=8), data, tmp_path / "out")
    assert result.history[-1].train_loss < 0.6 * result.history[0].train_loss
    assert result.metrics["accuracy"] > 0.9


def test_the_second_text_of_a_pair_is_read(calm_bert, tmp_path):
    data = tiny.training_data(tiny.agreements(256), tiny.agreements(64, seed=1))
    result = tune(config_for(calm_bert, epochs=5, batch_size=8), data, tmp_path / "out")
    assert result.metrics["accuracy"] > 0.9


def test_a_regression_is_learned(calm_bert, tmp_path):
    data = tiny.training_data(
        tiny.degrees(256), tiny.degrees(64, seed=1), task="regression", labels=("degree",)
    )
    result = tune(config_for(calm_bert, epochs=6, batch_size=8), data, tmp_path / "out")
    assert result.metric == "pearson"
    assert result.metrics["pearson"] > 0.8
    assert result.history[-1].train_loss < 0.5 * result.history[0].train_loss


def test_a_multilabel_task_is_learned(calm_bert, tmp_path):
    data = tiny.training_data(
        tiny.topics(256), tiny.topics(64, seed=1), task="multilabel", labels=("good", "bad", "music")
    )
    result = tune(config_for(calm_bert, epochs=4, batch_size=8), data, tmp_path / "out")
    assert result.metric == "f1_micro"
    assert result.metrics["f1_micro"] > 0.9


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_every_family_trains_and_serves_in_a_transformers_pipeline(tmp_path, family):
    from transformers import pipeline

    model = tiny.build_model(tmp_path / family, family)
    result = tune(config_for(model, epochs=1), tiny.sentiment_data(32), tmp_path / "out")
    assert all(math.isfinite(value) for value in result.metrics.values())
    classify = pipeline("text-classification", model=str(tmp_path / "out"), top_k=None, device="cpu")
    (answer,) = classify(["the film was " + "very " * 100 + "good"], truncation=True)
    assert {entry["label"] for entry in answer} == {"bad", "good"}


def test_a_model_directory_explains_itself(bert, tmp_path):
    data = tiny.sentiment_data(48, test=True)
    result = tune(config_for(bert), data, tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith('---\nlibrary_name: "transformers"\n')
    for fact in (data.sha256, result.model_sha256, "| learning_rate | 0.003 |", "| validation accuracy |"):
        assert fact in card
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert len(metrics["history"]) == 2
    assert metrics["validation"]["values"] == result.metrics
    assert sum(map(sum, metrics["validation"]["confusion"])) == 32
    assert set(metrics["test"]["per_class"]) == {"bad", "good"}
    facts = json.loads((tmp_path / "out" / "durabert.json").read_text())
    assert facts == {
        "task": "binary",
        "labels": ["bad", "good"],
        "text_columns": ["text"],
        "max_length": 32,
        "model_sha256": result.model_sha256,
    }


def test_an_earlier_model_is_replaced_whole(bert, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "old.bin").write_bytes(b"old")
    tune(config_for(bert, epochs=1), tiny.sentiment_data(32), output)
    assert not (output / "old.bin").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_progress_tells_phases_steps_and_metrics(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("durabert.bert.progress.INTERVAL", 0.0)
    reports = []
    tune(config_for(bert), tiny.sentiment_data(64, test=True), tmp_path / "out", reports=reports)
    phases = [report.phase for report in reports]
    changes = [phase for number, phase in enumerate(phases) if number == 0 or phases[number - 1] != phase]
    assert changes == [
        "loading model", "tokenizing", "training", "validating", "training", "validating", "saving",
    ]  # fmt: skip
    done = [report.step for report in reports]
    assert done == sorted(done)
    assert done[-1] == reports[-1].steps == 8
    first = next(report for report in reports if report.step == 1)
    assert (first.epoch, first.epochs) == (1, 2)
    assert min(first.loss, first.learning_rate, first.examples_per_second, first.eta_seconds) > 0
    assert first.tokens_per_second > first.examples_per_second
    assert reports[-1].eta_seconds == 0.0
    assert reports[-1].metrics.keys() == {"accuracy", "f1_macro", "f1_micro", "mcc", "loss"}


def test_the_first_step_and_each_epoch_are_reported_however_quick(bert, tmp_path, monkeypatch):
    monkeypatch.setattr("durabert.bert.progress.INTERVAL", 1e9)
    reports = []
    tune(config_for(bert), tiny.sentiment_data(64), tmp_path / "out", reports=reports)
    assert 1 in [report.step for report in reports]
    assert [len(report.metrics) > 0 for report in reports if report.phase == "validating"] == [
        False, True, True, True,
    ]  # fmt: skip


def test_a_phase_that_was_there_before_waits_for_the_next_report_once_a_job_is_old(monkeypatch):
    monkeypatch.setattr("durabert.bert.progress.INTERVAL", 1e9)
    told = {}
    for seconds in (1e9, 0.0):
        monkeypatch.setattr("durabert.bert.progress.YOUNG_SECONDS", seconds)
        reports = []
        reporter = Reporter(reports.append, lambda: False)
        for phase in ("training", "validating", "training", "validating", "saving"):
            reporter.phase(phase)
            reporter.tick()
        told[seconds] = [report.phase for report in reports]
    assert told[1e9] == ["training", "validating", "training", "validating", "saving"]
    assert told[0.0] == ["training", "validating", "saving"]


def test_the_time_to_the_end_counts_validations():
    meter = TrainingMeter(num_steps=10, num_validations=2, validation_share=0.6, steps_per_epoch=5)
    assert meter.fields()["eta_seconds"] is None
    meter.step(loss=1.0, seconds=2.0, examples=4, tokens=40)
    assert meter.fields()["eta_seconds"] == pytest.approx(9 * 2 + 2 * (5 * 2 * 0.6 / 3))
    assert meter.fields()["tokens_per_second"] == pytest.approx(20)
    meter.validation(7.0)
    assert meter.fields()["eta_seconds"] == pytest.approx(9 * 2 + 7)


@pytest.mark.parametrize("asked", [1, 3, 5, 9])
def test_a_stop_leaves_nothing_behind(bert, tmp_path, asked):
    times = []

    def should_stop():
        times.append(1)
        return len(times) >= asked

    with pytest.raises(Stopped):
        tune(config_for(bert), tiny.sentiment_data(), tmp_path / "out", should_stop=should_stop)
    assert len(times) == asked
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_training_names_the_step_and_keeps_the_last_good_weights(bert):
    state, plan = prepared(config_for(bert, clip_norm=None), tiny.sentiment_data())
    events = train(state, plan)
    next(events)
    before = weights_sha256({k: v for k, v in state.model.state_dict().items() if "LayerNorm" not in k})
    moments = {one: moment["exp_avg"].clone() for one, moment in state.optimizer.state.items()}
    with torch.no_grad():
        state.model.bert.embeddings.LayerNorm.weight.fill_(float("nan"))
    with pytest.raises(
        TrainingDiverged, match="diverged at step 2: the loss is nan and the gradient norm nan"
    ):
        next(events)
    after = weights_sha256({k: v for k, v in state.model.state_dict().items() if "LayerNorm" not in k})
    assert after == before
    assert state.step == 1
    for one, moment in state.optimizer.state.items():
        assert torch.equal(moment["exp_avg"], moments[one])


def test_predictions_that_are_not_finite_are_divergence(bert):
    state, plan = prepared(config_for(bert), tiny.sentiment_data(16))
    events = train(state, plan)
    next(events)
    with torch.no_grad():
        state.model.classifier.bias.fill_(float("inf"))
    with pytest.raises(TrainingDiverged, match="the predictions after step 1 are not finite"):
        list(events)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({"max_length": 65}, SpecInvalid, "max_length is 65, but should be at most 64"),
        ({"best_metric": "pearson"}, SpecInvalid, "best_metric is 'pearson'"),
        ({"class_weights": {"nice": 2.0}}, LabelsInvalid, "weight for 'nice'"),
        ({"device": "cuda:7"}, DeviceMissing, "device 'cuda:7' is not on this machine; it has .*'cpu'"),
        ({"device": "cpu", "precision": "fp16"}, SpecInvalid, "'fp16', which needs a CUDA device"),
        ({"model": "./no-model"}, ModelNotFound, "'./no-model' does not exist"),
    ],
)
def test_a_mistake_is_refused_before_anything_is_written(bert, tmp_path, fields, error, message):
    config = config_for(bert).model_copy(update=fields)
    with pytest.raises(error, match=message):
        tune(config, tiny.sentiment_data(32), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_bf16_needs_hardware_that_computes_in_it(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert Compute.choose(device="cpu", precision="auto").precision == "fp32"
    with pytest.raises(SpecInvalid, match="precision is 'bf16', but 'cpu' on this machine"):
        Compute.choose(device="cpu", precision="bf16")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert Compute.choose(device="cpu", precision="auto").precision == "bf16"


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered\nCUDA kernel"), DeviceFault),
        (RuntimeError("CUDA error: device-side assert triggered"), RuntimeError),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), RuntimeError),
    ],
)
def test_what_torch_raises_is_told_apart(raised, expected):
    with pytest.raises(expected) as caught, device_errors(Compute(torch.device("cpu"), "fp32")):
        raise raised
    assert type(caught.value) is expected
    assert "\n" not in str(caught.value)


def test_a_kernel_without_a_deterministic_form_is_admitted(bert, tmp_path, monkeypatch):
    from transformers import BertForSequenceClassification

    forward = BertForSequenceClassification.forward

    def demanding(self, *args, **kwargs):
        if torch.are_deterministic_algorithms_enabled():
            raise RuntimeError("this_backward does not have a deterministic implementation")
        return forward(self, *args, **kwargs)

    demanding.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(BertForSequenceClassification, "forward", demanding)
    result = tune(config_for(bert, epochs=1), tiny.sentiment_data(32), tmp_path / "out")
    assert not result.deterministic


def test_torch_is_left_as_it_was(bert, tmp_path):
    assert not torch.are_deterministic_algorithms_enabled()
    tune(config_for(bert, epochs=1), tiny.sentiment_data(32), tmp_path / "out")
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_a_full_disk_is_no_bug_and_leaves_nothing(bert, tmp_path, monkeypatch):
    from transformers import BertForSequenceClassification

    def no_space(self, directory, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(BertForSequenceClassification, "save_pretrained", no_space)
    with pytest.raises(StoreUnavailable, match="the disk is full"):
        tune(config_for(bert, epochs=1), tiny.sentiment_data(32), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


QUIET = """
import sys
from pathlib import Path
from tests import tiny
from durabert.bert.loop import fine_tune
from durabert.specs import FineTuneConfig
config = FineTuneConfig(model=sys.argv[1], epochs=1, max_length=32)
output = Path(sys.argv[2])
fine_tune(config, tiny.sentiment_data(16), output=output, report=lambda _: None, should_stop=lambda: False)
"""


def test_training_prints_nothing(bert, tmp_path):
    run = subprocess.run(
        [sys.executable, "-W", "always", "-c", QUIET, str(bert), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert (run.stdout, run.stderr) == ("", "")


def test_minilm_learns_sentiment(sst2, tmp_path):
    data = load_training_data(
        DataSpec(source=str(sst2 / "train.tsv"), validation=str(sst2 / "validation.tsv")),
        max_train_rows=320,
        max_eval_rows=100,
    )
    config = FineTuneConfig(epochs=1, learning_rate=3e-4, max_length=48)
    result = tune(config, data, tmp_path / "out")
    assert result.metrics["accuracy"] > 0.65
