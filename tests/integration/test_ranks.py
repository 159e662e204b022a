"""Training in several processes: the bits of one process, and nobody left behind, however it ends."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from durabert.chaos import Plan
from durabert.errors import (
    DivergenceSuspected,
    ModelNotFound,
    ProcessKilled,
    UnexpectedError,
)
from durabert.faults import VARIABLE
from durabert.specs import CheckpointPolicy, DataSpec, FineTuneConfig, FineTuneRequest, FineTuneResult
from durabert.store.runs import RunStore
from durabert.supervisor import Job, shut_down, supervise
from durabert.warming import warm_up
from tests.real import until
from tests.shell import write_reviews

HERE = Path(__file__).parent
CONFIG = {
    "epochs": 2, "batch_size": 8, "max_length": 32, "learning_rate": 1e-3, "device": "cpu",
    "precision": "fp32",
}  # fmt: skip
GRACE = timedelta(seconds=25)
STALL = timedelta(seconds=150)
"""A kernel may be compiled first."""


@pytest.fixture(scope="module", autouse=True)
def _fork_server():
    warm_up()
    yield
    shut_down()


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_reviews(tmp_path_factory.mktemp("texts") / "reviews.csv", rows=68)


@pytest.fixture
def faults(tmp_path, monkeypatch):
    plan = Plan(tmp_path / "faults")

    def add(*arguments, **options):
        mark = plan.add(*arguments, **options)
        monkeypatch.setenv(VARIABLE, plan.environment()[VARIABLE])
        return mark

    plan.inject = add
    return plan


class Trainer:
    """Trains runs in one home directory, as the activity does."""

    def __init__(self, home: Path, texts: Path, model: Path) -> None:
        self.home, self.texts, self.model = home, texts, model
        self.pid: int | None = None
        self.progress: list[dict] = []
        self.attempts = 0

    def _heard(self, event) -> None:
        if event.kind == "started":
            self.pid = event.body["pid"]
        else:
            self.progress.append(event.body)

    async def train(self, processes: int, *, every: int | None = 3, grace=GRACE, **config) -> FineTuneResult:
        self.attempts += 1
        request = FineTuneRequest(
            experiment="run",
            run="run",
            data=DataSpec(source=str(self.texts)),
            config=FineTuneConfig.parse({**CONFIG, "model": str(self.model), **config}),
            checkpoints=None if every is None else CheckpointPolicy(every_steps=every),
        )
        with RunStore(self.home).staging("run") as staging, tempfile.TemporaryDirectory() as meeting:
            job = Job(
                f"durabert.activities.{'training_jobs' if processes == 1 else 'rank_jobs'}:train",
                {
                    "request": request.model_dump(mode="json"),
                    "home": str(self.home),
                    "store": str(self.home / "store"),
                    "staging": str(staging),
                    "execution": "n/w/r",
                    "attempt": self.attempts,
                    "num_processes": processes,
                    "meeting": meeting,
                },
            )
            return FineTuneResult.model_validate(
                await supervise(job, on_event=self._heard, grace=grace, stall=STALL)
            )

    @asynccontextmanager
    async def training(self, *arguments, **options):
        """Train beside what is inside."""
        task = asyncio.create_task(self.train(*arguments, **options))
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def at_step(self, step: int) -> None:
        async def there() -> bool:
            return any(one["step"] >= step for one in self.progress)

        await until(there, seconds=30, what=f"step {step}")


@pytest.fixture
def trainer(tmp_path, texts, tiny):
    homes = iter(range(99))
    return lambda: Trainer(tmp_path / f"home-{next(homes)}", texts, tiny)


def processes_of(group: int) -> list[int]:
    """Return the living processes of a process group."""
    found = []
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                fields = (directory / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[2]) == group and fields[0] != "Z":
                found.append(int(directory.name))
    return sorted(found)


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads the process table in /proc")


def assert_same(one: FineTuneResult, other: FineTuneResult) -> None:
    assert one.model_sha256 == other.model_sha256
    assert one.state_sha256 == other.state_sha256
    assert one.history == other.history
    assert one.metrics == other.metrics


@pytest.mark.parametrize(
    ("processes", "pieces", "precision"), [(2, 2, "fp32"), (2, 3, "auto"), (3, 4, "fp32")]
)
async def test_several_processes_come_to_the_bits_of_one(trainer, processes, pieces, precision):
    alone = await trainer().train(1, gradient_accumulation=pieces, precision=precision)
    asked = 1 if pieces == processes else pieces
    together = await trainer().train(processes, gradient_accumulation=asked, precision=precision)

    assert_same(together, alone)
    assert (together.num_processes, together.micro_batches) == (processes, pieces)
    assert not any("pieces" in notice for notice in together.notices)
    assert (alone.num_processes, together.steps) == (1, alone.steps)
    assert together.steps % 2 == 0, "and the last batch of an epoch has fewer rows than the others"


async def test_a_rank_that_is_killed_ends_the_attempt_at_once_and_the_next_one_loses_no_bit(trainer, faults):
    mark = faults.inject("assist", "kill", when=7)
    run = trainer()

    with pytest.raises(ProcessKilled, match=r"^rank 1 of 2 was killed by SIGKILL$"):
        await run.train(2)
    seconds = time.time() - mark.stat().st_mtime
    assert processes_of(run.pid) == []
    result = await run.train(2)

    assert seconds < 5, "far below any time-out of a collective"
    assert faults.num_struck() == 1
    assert result.attempt_log[1].resumed_from in {3, 6}, "at most the interval that was being committed"
    assert_same(result, await trainer().train(1, gradient_accumulation=2))


@needs_proc
@pytest.mark.parametrize(("first", "second"), [(2, 1), (1, 2)])
async def test_a_run_goes_on_with_another_number_of_processes(trainer, faults, first, second):
    mark = faults.inject("phase.validating", "hold")
    run = trainer()

    async def held() -> bool:
        return mark.exists()

    async with run.training(first, every=1_000_000, gradient_accumulation=2) as task:
        await until(held, seconds=30, what="the validation of the first epoch")
        assert len(processes_of(run.pid)) == (first if first == 1 else first + 1)
        task.cancel()
        await asyncio.wait([task])
    assert task.cancelled()
    assert processes_of(run.pid) == []
    result = await run.train(second, every=1_000_000, gradient_accumulation=2)

    assert result.attempt_log[1].resumed_from == result.steps // 2, "SIGTERM committed the last step"
    assert_same(result, await trainer().train(1, gradient_accumulation=2))


@needs_proc
async def test_a_cancelled_training_leaves_no_process(trainer):
    run = trainer()
    async with run.training(2, every=None, grace=timedelta(seconds=1.5), epochs=1000) as task:
        await run.at_step(1)
        assert len(processes_of(run.pid)) == 3
        began = time.monotonic()
        task.cancel()
        await asyncio.wait([task])
        assert processes_of(run.pid) == []
        assert time.monotonic() - began < 4, "2 s plus one step are promised; the rest is for a busy machine"


@needs_proc
async def test_a_service_that_is_stopped_loses_no_step(trainer):
    run = trainer()
    async with run.training(2, every=1_000_000, epochs=1000) as task:
        await run.at_step(1)
        # As a service manager does it: each process gets the signal.
        os.killpg(run.pid, signal.SIGTERM)
        with pytest.raises(ProcessKilled, match=r"asked to stop from outside \(SIGTERM\)"):
            await task
    assert processes_of(run.pid) == []
    run.progress.clear()
    async with run.training(2, every=1_000_000, epochs=1000):
        await run.at_step(1)
        [before] = run.progress[-1]["attempt_log"][:1]

    assert before["ended"] == "WorkerStopping"
    assert before["last_step"] >= 1
    assert run.progress[-1]["attempt_log"][1]["resumed_from"] == before["last_step"]


@needs_proc
async def test_ranks_die_with_the_child_that_the_worker_knows(trainer):
    run = trainer()
    async with run.training(2, epochs=1000) as task:
        await run.at_step(1)
        os.kill(run.pid, signal.SIGKILL)
        with pytest.raises(ProcessKilled, match="SIGKILL"):
            await task
        assert processes_of(run.pid) == []


async def test_memory_too_small_on_one_rank_makes_smaller_pieces_on_all(trainer, faults):
    faults.inject("step.backward", "oom", when=5)
    together = await trainer().train(2)
    assert faults.num_struck() == 1
    faults.inject("step.backward", "oom", when=5)
    alone = await trainer().train(1, gradient_accumulation=2)

    assert faults.num_struck() == 2
    assert together.micro_batches == 4
    assert_same(together, alone)


async def test_a_loss_that_is_no_number_is_seen_by_all(trainer, faults):
    faults.inject("step.nan", "nan", when=4)
    run = trainer()

    with pytest.raises(DivergenceSuspected, match="at step 5"):
        await run.train(2)

    assert (await run.train(2)).attempt_log[0].ended == "DivergenceSuspected"


async def test_a_run_that_is_published_is_not_trained_again(trainer):
    run = trainer()
    first = await run.train(2)
    run.progress.clear()

    assert await run.train(2) == first
    assert {one["phase"] for one in run.progress} == {"loading data"}


async def test_a_mistake_is_told_as_by_one_process(trainer):
    with pytest.raises(ModelNotFound, match=r"'\./missing'"):
        await trainer().train(2, model="./missing")


def run_job(what, tmp_path):
    meeting = tempfile.mkdtemp()
    job = Job("rank_jobs_for_tests:together", {"what": what, "meeting": meeting}, log=tmp_path / "log")
    return supervise(job, on_event=lambda _: None, grace=GRACE, stall=STALL)


@pytest.fixture
def _jobs_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


@pytest.mark.usefixtures("_jobs_can_be_imported")
async def test_what_rank_0_has_arrives(tmp_path):
    assert await run_job("large_things", tmp_path) == {"one": [1, None, 0.1]}


@pytest.mark.usefixtures("_jobs_can_be_imported")
async def test_ranks_with_different_weights_are_an_error(tmp_path):
    with pytest.raises(UnexpectedError, match="rank 1 has other weights than rank 0 after step 7"):
        await run_job("different_weights", tmp_path)


@pytest.mark.usefixtures("_jobs_can_be_imported")
async def test_a_rank_that_leaves_without_a_word_is_named(tmp_path):
    with pytest.raises(UnexpectedError, match="rank 1 of 2 ended without a result, exit code 3"):
        await run_job("leaves_early", tmp_path)
