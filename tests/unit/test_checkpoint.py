"""Checkpoints of a training: canonical bytes, and a resumed run that ends as the undisturbed one."""

from __future__ import annotations

import contextlib
import copy
import ctypes
import dataclasses
import errno
import itertools
import json
import mmap
import os
import sys
import threading

import pytest
import torch

from durabert.bert.background import NICENESS
from durabert.bert.checkpoint import StateCopier, files_of, load_state
from durabert.bert.checkpointing import (
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    Checkpoints,
    CheckpointWriter,
)
from durabert.bert.curve import Point, from_parquet
from durabert.bert.loop import fine_tune
from durabert.bert.packing import PackedLayout
from durabert.bert.progress import Stopped
from durabert.bert.steps import TO_THE_END, StepReport, Stopping, TrainState, train
from durabert.errors import AttemptSuperseded, CheckpointNotUsable, StoreUnavailable, TrainingDiverged
from durabert.specs import FineTuneConfig
from tests.tiny import agreements, build_model, degrees, sentiment_data, training_data


class Shelf:
    """A sink that keeps everything, and fails when it is told to."""

    def __init__(self) -> None:
        self.commits: list[tuple[int, dict[str, bytes]]] = []
        self.trouble: list[Exception] = []
        self.left_out: list[set[str]] = []
        """Of each commit, the files that are those of the one before."""

    def commit(self, *, step, best_epoch, files):
        assert best_epoch is None or best_epoch > 0
        files = list(files)
        self.left_out.append({name for name, data in files if data is None})
        before = self.commits[-1][1] if self.commits else {}
        files = {name: before[name] if data is None else bytes(data) for name, data in files}
        if self.trouble:
            raise self.trouble.pop(0)
        self.commits.append((step, files))

    @property
    def newest(self) -> dict[str, bytes]:
        return {name: data for name, data in self.commits[-1][1].items() if name != "curve.parquet"}


DATA = {
    "dropout": (sentiment_data, {}),
    "pair": (lambda: training_data(agreements(64), agreements(16, seed=1)), {"hidden_dropout_prob": 0.0}),
    "regression": (
        lambda: training_data(degrees(64), degrees(16, seed=1), task="regression", labels=("score",)),
        {},
    ),
}


def config_for(model, **fields) -> FineTuneConfig:
    return FineTuneConfig.parse(
        {"model": str(model), "epochs": 3, "batch_size": 8, "max_length": 32, "learning_rate": 1e-3,
         "device": "cpu", "precision": "fp32", **fields}
    )  # fmt: skip


def run(
    config, data, output, *, shelf, stop_after=None, every=None, files=None, from_parent=False,
    stopping=TO_THE_END,
):  # fmt: skip
    asked = 0

    def should_stop():
        nonlocal asked
        asked += 1
        return stop_after is not None and asked > stop_after

    return fine_tune(
        config, data, output=output, report=lambda _: None, should_stop=should_stop,
        checkpoints=Checkpoints(shelf, every_steps=every, files=files, from_parent=from_parent),
        stopping=stopping,
    )  # fmt: skip


@pytest.mark.parametrize("every", [None, 5])
def test_a_training_that_stops_at_epochs_and_goes_on_ends_with_the_bits_of_one_at_once(tmp_path, tiny, every):
    config, data = config_for(tiny), sentiment_data(test=True)
    calm, shelf = Shelf(), Shelf()
    at_once = run(config, data, tmp_path / "calm", shelf=calm)

    first = run(config, data, tmp_path / "1", shelf=shelf, every=every, stopping=Stopping(1))
    again = run(config, data, tmp_path / "1", shelf=shelf, files=dict(shelf.newest), stopping=Stopping(1))
    second = run(config, data, tmp_path / "2", shelf=shelf, files=dict(shelf.newest), stopping=Stopping(2))
    steps = [step for step, _ in shelf.commits]
    whole = run(config, data, tmp_path / "3", shelf=shelf, files=dict(shelf.newest), stopping=Stopping(3))

    assert [one.finished for one in (first, again, second, whole)] == [False, False, False, True]
    assert [one.epochs for one in (first, again, second, whole)] == [1, 1, 2, 3]
    assert [first.history, second.history] == [at_once.history[:1], at_once.history[:2]]
    assert first.test_metrics is None, "test rows are for who is finished"
    assert not any((tmp_path / name).exists() for name in "12")
    assert steps[-1] == 2 * at_once.steps // 3
    assert again.model_sha256 == first.model_sha256
    assert whole.model_sha256 == at_once.model_sha256
    assert (whole.history, whole.test_metrics) == (at_once.history, at_once.test_metrics)
    assert shelf.newest == calm.newest


def test_the_best_weights_are_written_once(tmp_path, tiny):
    shelf = Shelf()

    run(config_for(tiny), sentiment_data(), tmp_path / "model", shelf=shelf, every=5)

    best = [json.loads(files["state.json"])["best"] for _, files in shelf.commits]
    epochs = [one and one["epoch"] for one in best]
    assert len(set(epochs)) > 2, "there was none, then one, then a better one"
    for before, epoch, left_out in zip([None, *epochs], epochs, shelf.left_out, strict=False):
        known = epoch is not None and epoch == before
        assert left_out == ({"best-0000.safetensors"} if known else set())


def test_a_training_is_stopped_after_the_epoch_that_is_worse_than_its_threshold(tmp_path, tiny):
    config, data = config_for(tiny), sentiment_data()
    whole = run(config, data, tmp_path / "whole", shelf=Shelf())
    values = [epoch.metrics["accuracy"] for epoch in whole.history]

    as_good = run(
        config, data, tmp_path / "as-good", shelf=Shelf(), stopping=Stopping(None, tuple(values[:1]))
    )
    worse = run(config, data, tmp_path / "worse", shelf=Shelf(), stopping=Stopping(None, (None, 1.1)))

    assert (as_good.finished, as_good.model_sha256) == (True, whole.model_sha256)
    assert (worse.finished, worse.epochs) == (False, 2)


def test_a_training_that_is_further_than_where_it_is_to_be_left_makes_no_step(tmp_path, tiny):
    config, data, shelf = config_for(tiny), sentiment_data(), Shelf()
    run(config, data, tmp_path / "1", shelf=shelf, stopping=Stopping(2))
    commits = list(shelf.commits)

    left = run(
        config, data, tmp_path / "2", shelf=shelf, files=dict(shelf.newest), stopping=Stopping(None, (1.1,))
    )

    assert (left.finished, left.epochs) == (False, 2)
    assert [step for step, _ in shelf.commits] == [step for step, _ in commits]


@pytest.mark.parametrize(("kind", "precision"), [*((kind, "fp32") for kind in DATA), ("dropout", "auto")])
def test_a_run_stopped_again_and_again_ends_with_the_same_bits(tmp_path, kind, precision):
    make, options = DATA[kind]
    config = config_for(build_model(tmp_path / "model", **options), precision=precision)
    data = make()
    calm = Shelf()
    undisturbed = run(config, data, tmp_path / "calm", shelf=calm)
    shelf = Shelf()
    trained, files, stops = None, None, 0
    while trained is None:
        try:
            trained = run(
                config, data, tmp_path / "hunted", shelf=shelf, stop_after=7 + 3 * stops, files=files
            )
        except Stopped:
            stops += 1
            files = shelf.newest if shelf.commits else None

    assert stops > 3
    assert trained.model_sha256 == undisturbed.model_sha256
    assert trained.metrics == undisturbed.metrics
    assert trained.history == undisturbed.history
    assert shelf.newest == calm.newest


def test_the_curve_of_a_stopped_run_has_no_gap_and_no_double_point(tmp_path, tiny):
    config, data = config_for(tiny), sentiment_data()
    shelf, files = Shelf(), None
    for stop_after in (12, 20, None):
        try:
            run(config, data, tmp_path / "out", shelf=shelf, stop_after=stop_after, every=4, files=files)
        except Stopped:
            files = shelf.newest
    calm = Shelf()
    run(config, data, tmp_path / "calm", shelf=calm)

    points = [point for _, one in shelf.commits for point in from_parquet(one["curve.parquet"])]
    expected = [point for _, one in calm.commits for point in from_parquet(one["curve.parquet"])]

    assert [point.step for point in points] == list(range(1, 37))
    assert [dataclasses.replace(point, seconds=0) for point in points] == [
        dataclasses.replace(point, seconds=0) for point in expected
    ]


def test_checkpoints_come_at_every_k_th_step_on_request(tmp_path, tiny):
    shelf = Shelf()

    run(config_for(tiny), sentiment_data(), tmp_path / "out", shelf=shelf, every=10)

    assert [step for step, _ in shelf.commits] == [10, 20, 30, 36]


@pytest.mark.skipif(sys.platform != "linux", reason="only on Linux a thread has a priority of its own")
def test_only_the_last_checkpoint_has_the_priority_of_the_training(tmp_path, tiny):
    class Ranked(Shelf):
        def commit(self, **checkpoint):
            super().commit(**checkpoint)
            priorities.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    ours = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    for stop_after in (None, 25):
        priorities, shelf = [], Ranked()
        with contextlib.suppress(Stopped):
            run(config_for(tiny), sentiment_data(), tmp_path, shelf=shelf, every=10, stop_after=stop_after)

        *before, last = priorities
        assert set(before) == {NICENESS}
        assert last == ours


def stopped_run(tmp_path, model, **fields):
    shelf = Shelf()
    with pytest.raises(Stopped):
        run(config_for(model, **fields), sentiment_data(), tmp_path / "out", shelf=shelf, stop_after=20)
    return shelf


def test_a_checkpoint_of_another_model_is_refused_by_name(tmp_path, tiny):
    shelf = stopped_run(tmp_path, tiny)
    wider = build_model(tmp_path / "wide", hidden_size=48)

    with pytest.raises(CheckpointNotUsable, match=r"another model.*has '.*' of shape"):
        run(config_for(wider), sentiment_data(), tmp_path / "out", shelf=Shelf(), files=shelf.newest)


def test_a_pickle_among_the_files_is_refused_unread(tmp_path, tiny):
    import pickle

    from durabert.errors import ArtifactDamaged

    shelf = stopped_run(tmp_path, tiny)
    files = {**shelf.newest, "model-0000.safetensors": pickle.dumps({"a": 1})}

    with pytest.raises(ArtifactDamaged, match="not in safetensors format"):
        run(config_for(tiny), sentiment_data(), tmp_path / "out", shelf=Shelf(), files=files)


def test_a_finished_parent_needs_a_larger_budget(tmp_path, tiny):
    shelf = Shelf()
    run(config_for(tiny), sentiment_data(), tmp_path / "out", shelf=shelf)

    with pytest.raises(CheckpointNotUsable, match="give more epochs"):
        run(
            config_for(tiny), sentiment_data(), tmp_path / "more", shelf=Shelf(), files=shelf.newest,
            from_parent=True,
        )  # fmt: skip
    longer = run(
        config_for(tiny, epochs=5), sentiment_data(), tmp_path / "more", shelf=Shelf(), files=shelf.newest,
        from_parent=True,
    )  # fmt: skip
    assert longer.steps == 5 * 12


def test_a_store_that_fails_does_not_stop_the_training(tmp_path, tiny):
    shelf, calm = Shelf(), Shelf()
    shelf.trouble = [StoreUnavailable("gone"), StoreUnavailable("still gone")]
    troubles = []

    trained = fine_tune(
        config_for(tiny), sentiment_data(), output=tmp_path / "out", report=lambda _: None,
        should_stop=lambda: False,
        checkpoints=Checkpoints(shelf, every_steps=10, on_trouble=troubles.append),
    )  # fmt: skip

    assert troubles[:1] == ["gone"]
    assert troubles[-1] is None
    points = [point.step for _, one in shelf.commits for point in from_parquet(one["curve.parquet"])]
    assert points == list(range(1, 37))
    assert (
        trained.model_sha256
        == run(config_for(tiny), sentiment_data(), tmp_path / "calm", shelf=calm).model_sha256
    )


def test_a_superseded_training_ends(tmp_path, tiny):
    shelf = Shelf()
    shelf.trouble = [AttemptSuperseded("attempt 1 was superseded")]

    with pytest.raises(AttemptSuperseded):
        run(config_for(tiny), sentiment_data(), tmp_path / "out", shelf=shelf, every=5)

    assert shelf.commits == []
    assert not (tmp_path / "out").exists()


def plan_and_state(tiny, **fields):
    from durabert.bert.device import Compute
    from durabert.bert.metrics import best_metric
    from durabert.bert.preparing import prepare
    from durabert.bert.progress import Reporter

    config, data = config_for(tiny, **fields), sentiment_data()
    compute = Compute.choose(device="cpu", precision="fp32")
    reporter = Reporter(lambda _: None, lambda: False)
    job = prepare(config, data, compute, best_metric("auto", data.task), reporter)
    return job.plan, TrainState.fresh(job.model, job.plan)


def stored(copy):
    """Return the files of a copy as they are kept, whatever becomes of its memory."""
    return {name: bytes(content) for name, content in files_of(copy)}


def after_steps(state, plan, count):
    for event in train(state, plan):
        if isinstance(event, StepReport) and event.step == count:
            return state
    return state


def test_equal_states_give_equal_bytes_and_a_loaded_one_the_same_again(tiny):
    plan, one = plan_and_state(tiny)
    _, other = plan_and_state(tiny)
    after_steps(one, plan, 14)
    after_steps(other, plan, 14)
    files = stored(StateCopier().copy(one))

    assert stored(StateCopier().copy(other)) == files
    _, loaded = plan_and_state(tiny)
    load_state(files, loaded, plan)
    assert stored(StateCopier().copy(loaded)) == files
    assert loaded.history == one.history


def test_the_bytes_are_those_of_the_safetensors_library():
    from safetensors.torch import save

    from durabert.bert.tensor_files import DTYPES, TensorFiles

    tensors = {
        f"{number}/{dtype}".removeprefix("torch."): (torch.arange(2 + number).reshape(1, -1) % 2).to(dtype)
        for number, dtype in enumerate(sorted(DTYPES, key=str))
    }
    tensors |= {"a scalar": torch.tensor(1.5), "empty": torch.empty(0, 3), 'Grüße " \\': torch.ones(3)}

    for some in (tensors, {}):
        [(_, content)] = TensorFiles.of("model", some).files
        assert content == save(some)


def test_files_of_tensors_begin_where_a_page_does_and_a_copy_has_memory_of_its_own():
    from durabert.bert.tensor_files import TensorFiles

    one = TensorFiles.of("model", {f"{number}": torch.ones(3 + number) for number in range(5)})
    other = copy.deepcopy(one)
    one.tensors["0"].zero_()

    for _, content in (*one.files, *other.files):
        assert ctypes.addressof(ctypes.c_char.from_buffer(content)) % mmap.PAGESIZE == 0
    assert other.tensors["0"].tolist() == [1, 1, 1]
    assert one.files[0][1] != other.files[0][1], "the file is the tensors"


def test_a_copy_does_not_change_while_training_goes_on(tiny):
    plan, state = plan_and_state(tiny)
    after_steps(state, plan, 3)
    copy = StateCopier().copy(state)
    before = stored(copy)

    after_steps(state, plan, 5)

    assert stored(copy) == before


def test_memory_that_is_too_small_halves_the_pieces_and_keeps_the_batch(tiny, monkeypatch):
    plan, state = plan_and_state(tiny)
    sizes = []
    real = PackedLayout.batch

    def small_memory(layout, tokens, indices):
        if len(indices) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(indices))
        return real(layout, tokens, indices)

    monkeypatch.setattr(PackedLayout, "batch", small_memory)
    after_steps(state, plan, 2)

    assert state.micro_batches == 4
    assert sizes == [2] * 8


def test_running_out_of_memory_at_a_step_gives_the_bits_of_smaller_pieces_from_that_step(tiny, monkeypatch):
    plan, state = plan_and_state(tiny)
    real, struck = PackedLayout.batch, []

    def once(layout, tokens, indices):
        if state.step == 5 and not struck:
            struck.append(state.step)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(layout, tokens, indices)

    monkeypatch.setattr(PackedLayout, "batch", once)
    after_steps(state, plan, 9)
    monkeypatch.setattr(PackedLayout, "batch", real)
    _, expected = plan_and_state(tiny)
    after_steps(expected, plan, 5)
    expected.micro_batches = 2
    after_steps(expected, plan, 9)

    assert struck == [5]
    assert stored(StateCopier().copy(state)) == stored(StateCopier().copy(expected))


def test_memory_too_small_for_one_example_is_an_error(tiny, monkeypatch):
    def never(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    plan, state = plan_and_state(tiny)
    monkeypatch.setattr(PackedLayout, "batch", never)

    with pytest.raises(torch.OutOfMemoryError):
        after_steps(state, plan, 1)
    assert state.micro_batches == 8


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def point(step: int) -> Point:
    return Point(step=step, epoch=1, loss=1.0, learning_rate=1e-3, examples=8, tokens=80, seconds=0.1)


@pytest.mark.parametrize(("seconds_a_step", "interval"), [(0.25, SHORTEST_INTERVAL), (7.0, LONGEST_INTERVAL)])
def test_checkpoints_are_never_further_apart_than_a_minute_nor_closer_than_a_second(
    tiny, seconds_a_step, interval, monkeypatch
):
    from durabert.bert import checkpointing

    monkeypatch.setattr(checkpointing, "GUESSED_BYTES_PER_SECOND", 1e3 if interval > 1 else 1e12)
    plan, state = plan_and_state(tiny)
    after_steps(state, plan, 1)
    shelf, clock = Shelf(), Clock()
    writer = CheckpointWriter(Checkpoints(shelf), state, clock=clock)
    began = []

    def begin(at, _):
        assert at is state
        began.append(clock.now)
        writer._last = clock.now

    monkeypatch.setattr(writer, "_begin", begin)
    for step in range(2, 40):
        clock.now += seconds_a_step
        writer.after_step(state, point(step))
    writer.close()

    gaps = [later - earlier for earlier, later in itertools.pairwise(began)]
    assert len(gaps) > 2
    assert all(interval <= gap < interval + seconds_a_step for gap in gaps)


def test_checkpoints_are_so_far_apart_that_they_take_a_quarter_of_a_percent_of_the_time(tiny, monkeypatch):
    _, state = plan_and_state(tiny)
    weights = sum(parameter.numel() for parameter in state.model.parameters())
    # Weights and two moments, four bytes each, take 0.1 s.
    monkeypatch.setattr("durabert.bert.checkpointing.GUESSED_BYTES_PER_SECOND", 120 * weights)
    shelf, clock = Shelf(), Clock()
    writer = CheckpointWriter(Checkpoints(shelf), state, clock=clock)
    state.step, began = 1, []
    monkeypatch.setattr(writer, "_begin", lambda *_: began.append(clock.now))
    for seconds in (39.5, 1.0):
        clock.now += seconds
        writer.after_step(state, point(1))
        began.append(None)
    writer.close()

    assert began == [None, clock.now, None]


def test_a_full_disk_is_trouble_and_no_end(tmp_path, tiny, monkeypatch):
    from durabert.specs import CheckpointPolicy
    from durabert.store.attempts import Attempt
    from durabert.store.objects import open_store

    objects = open_store(str(tmp_path / "store"), home=tmp_path)
    attempt = Attempt.begin(
        objects,
        "run",
        identity="i",
        execution="x",
        temporal_attempt=1,
        policy=CheckpointPolicy(),
        environment={},
    )
    write, failed = objects.write, []

    def full(path, data):
        if len(failed) < 3:
            failed.append(path)
            raise StoreUnavailable(f"{OSError(errno.ENOSPC, 'No space left on device')}")
        write(path, data)

    monkeypatch.setattr(objects, "write", full)
    trained = run(config_for(tiny), sentiment_data(), tmp_path / "out", shelf=attempt, every=6)

    assert len(failed) == 3
    calm = run(config_for(tiny), sentiment_data(), tmp_path / "calm", shelf=Shelf())
    assert trained.model_sha256 == calm.model_sha256


def test_a_loss_that_is_no_number_leaves_the_last_good_step(tiny, monkeypatch):
    from durabert.bert import steps

    plan, state = plan_and_state(tiny)
    after_steps(state, plan, 4)
    good = stored(StateCopier().copy(state))
    monkeypatch.setattr(steps, "strikes", lambda *_: True)

    with pytest.raises(TrainingDiverged, match="at step 5"):
        after_steps(state, plan, 5)

    assert stored(StateCopier().copy(state)) == good
