"""Real child processes, killed for real."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

from durabert import errors
from durabert.supervisor import Job, prepare, shut_down, supervise
from durabert.supervisor.launcher import launcher, with_huge_pages
from durabert.supervisor.parent import _is_running

HERE = Path(__file__).parent
LONG = timedelta(seconds=20)
LINUX_ONLY = pytest.mark.skipif(sys.platform != "linux", reason="only Linux's kernel does this")


@pytest.fixture(scope="module", autouse=True)
def _no_process_left():
    yield
    shut_down()


@pytest.fixture(autouse=True)
def _jobs_can_be_imported(monkeypatch):
    monkeypatch.syspath_prepend(HERE)


def job(function, *, device=None, log=None, **request):
    return Job(f"supervised_jobs:{function}", request, device=device, log=log)


def run(job, *, on_event=lambda _: None, grace=LONG, stall=LONG):
    return supervise(job, on_event=on_event, grace=grace, stall=stall)


class Events:
    """Called for each event; awaited for the one that a test needs."""

    def __init__(self):
        self.all = []
        self._new = asyncio.Event()

    def __call__(self, event):
        self.all.append(event)
        self._new.set()

    @property
    def kinds(self):
        return [event.kind for event in self.all]

    @property
    def pid(self):
        return self.all[0].body["pid"]

    async def body(self, kind):
        async with asyncio.timeout(10):
            while kind not in self.kinds:
                self._new.clear()
                await self._new.wait()
        return next(event.body for event in self.all if event.kind == kind)


@asynccontextmanager
async def running(job, **limits):
    events = Events()
    task = asyncio.create_task(run(job, on_event=events, **limits))
    try:
        await events.body("running")
        yield task, events
    finally:
        task.cancel()
        await asyncio.wait([task])


def assert_ends_within(seconds, *pids):
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if _is_running(pid)]:
        assert time.monotonic() < deadline, f"still running: {alive}"
        time.sleep(0.005)


def open_files():
    """Return what each descriptor of this process stands for."""
    found = {}
    for number in [path.name for path in Path("/dev/fd").iterdir()]:
        # The one that the list was read from is closed again.
        with suppress(OSError):
            status = os.fstat(int(number))
            found[number] = status.st_dev, status.st_ino
    return found


def assert_reaped(pid):
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_the_result_comes_back():
    result = await run(job("echo", text="héllo", nested={"a": [1, None, 2.5]}))
    assert result["request"] == {"text": "héllo", "nested": {"a": [1, None, 2.5]}}
    assert result["pid"] != os.getpid()


async def test_events_come_in_order_after_started():
    events = Events()
    await run(job("count", steps=300), on_event=events)
    assert events.kinds == ["started"] + ["progress"] * 300
    assert [event.body["step"] for event in events.all[1:]] == list(range(300))


async def test_no_event_is_lost_when_the_process_is_gone_before_they_are_read(monkeypatch):
    monkeypatch.setattr("durabert.supervisor.parent.RECEIVE_BYTES", 64)
    events = Events()
    await run(job("count", steps=3000), on_event=events)
    assert len(events.all) == 3001


async def test_threads_may_report_at_once():
    events = Events()
    await run(job("threads", num=4, each=25, size=50_000), on_event=events)
    expected = [letter * 50_000 for letter in "abcd" for _ in range(25)]
    assert sorted(event.body["text"] for event in events.all[1:]) == expected


async def test_requests_events_and_results_may_be_megabytes():
    events = Events()
    result = await run(job("large", size=3_000_000, text="z" * 2_000_000), on_event=events)
    assert len(events.all[1].body["text"]) == len(result["text"]) == 3_000_000
    assert result["received"] == 2_000_000


async def test_what_is_printed_goes_to_the_log_and_disturbs_nothing(tmp_path):
    log = tmp_path / "logs" / "attempt.log"
    events = Events()
    for _ in range(2):
        assert await run(job("noisy", log=log), on_event=events) == {"forged": False}
    assert events.kinds == ["started", "started"]
    assert log.read_bytes().count(b"warning: something\n") == 2
    assert log.read_bytes().count(b'{"done": {"forged": true}}\n') == 2


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("column", errors.ColumnMissing, "a.csv has no column 'txt'; it has 'text', 'label'"),
        ("own", errors.DataInvalid, "row 3 is broken"),
        ("diverged", errors.TrainingDiverged, "the loss is nan at step 4"),
        ("bug", errors.UnexpectedError, "TypeError: unsupported operand"),
        ("exit", errors.UnexpectedError, "SystemExit: 3"),
        ("memory", errors.OutOfMemory, "MemoryError: no more"),
        ("torch memory", errors.OutOfMemory, "CUDA out of memory"),
        ("cpu allocator", errors.OutOfMemory, "can't allocate memory"),
        ("device", errors.DeviceFault, "illegal memory access"),
        ("assert", errors.UnexpectedError, "device-side assert"),
        ("disk full", errors.StoreUnavailable, "No space left on device"),
        ("connection", errors.StoreUnavailable, "Connection refused"),
        ("permission", errors.UnexpectedError, "Permission denied"),
    ],
)
async def test_an_exception_of_the_child_arrives_as_the_error_it_stands_for(how, kind, message):
    with pytest.raises(errors.DurabertError) as raised:
        await run(job("fail", how=how))
    assert type(raised.value) is kind
    assert message in str(raised.value)


async def test_the_traceback_of_a_bug_is_in_the_log_and_that_of_a_user_mistake_is_not(tmp_path):
    bug, mistake = tmp_path / "bug.log", tmp_path / "mistake.log"
    with pytest.raises(errors.UnexpectedError):
        await run(job("fail", how="bug", log=bug))
    with pytest.raises(errors.ColumnMissing):
        await run(job("fail", how="column", log=mistake))
    assert 'raise EXCEPTIONS[request["how"]]' in bug.read_text()
    assert mistake.read_text() == ""


@LINUX_ONLY
async def test_a_full_disk_under_the_log_does_not_hide_the_error():
    with pytest.raises(errors.UnexpectedError, match="TypeError: unsupported operand"):
        await run(job("fail", how="bug", log=Path("/dev/full")))


async def test_a_function_that_is_missing_or_returns_no_json_is_a_bug():
    with pytest.raises(errors.UnexpectedError, match="no attribute 'missing'"):
        await run(job("missing"))
    with pytest.raises(errors.UnexpectedError, match="not JSON serializable"):
        await run(job("unserializable"))


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGBUS", "SIGABRT"])
async def test_a_process_that_dies_by_a_signal_is_a_process_killed(name, tmp_path):
    with pytest.raises(errors.ProcessKilled, match=name) as raised:
        await run(job("die_by_signal", signal=name, log=tmp_path / "log"))
    assert ("out-of-memory killer" in str(raised.value)) == (name == "SIGKILL")


async def test_a_device_that_aborts_the_process_is_a_device_fault(tmp_path):
    words = "terminate called after throwing: CUDA error: unspecified launch failure\n"
    log = tmp_path / "log"
    with pytest.raises(errors.DeviceFault, match="SIGABRT"):
        await run(job("die_by_signal", signal="SIGABRT", words=words, log=log))
    # What an earlier attempt wrote into the same log says nothing of this one.
    with pytest.raises(errors.ProcessKilled, match="SIGABRT"):
        await run(job("die_by_signal", signal="SIGABRT", log=log))


async def test_a_process_that_ends_without_a_result_is_a_bug_with_its_last_words(tmp_path):
    with pytest.raises(errors.UnexpectedError, match="exit code 5; its last lines: the last words"):
        await run(job("leave_at_once", log=tmp_path / "log"))


async def test_a_process_that_reports_nothing_is_killed_as_stalled():
    events = Events()
    with pytest.raises(errors.ProcessStalled, match=r"nothing for 0\.3 s"):
        await run(job("silent"), on_event=events, stall=timedelta(seconds=0.3))
    assert_reaped(events.pid)


async def test_a_listener_that_fails_ends_the_job_with_its_error():
    pids = []

    def listener(event):
        pids.append(event.body["pid"])
        raise ValueError("the listener is broken")

    with pytest.raises(ValueError, match="the listener is broken"):
        await run(job("silent"), on_event=listener)
    assert_reaped(pids[0])


async def test_a_cancelled_job_leaves_in_its_own_way_and_is_gone():
    async with running(job("polite")) as (task, events):
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert events.kinds == ["started", "running", "checkpoint"]
        assert_reaped(events.pid)


async def test_a_cancelled_job_that_does_not_listen_is_killed_after_the_grace():
    async with running(job("deaf"), grace=timedelta(seconds=0.3)) as (task, events):
        begin = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 0.3 <= time.monotonic() - begin < 1.3
        assert_reaped(events.pid)


async def test_a_second_cancellation_leaves_no_process_behind(tmp_path):
    async with running(job("polite", file=str(tmp_path / "go"))) as (task, events):
        task.cancel()
        await events.body("checkpoint")
        for _ in range(3):
            task.cancel()
            done, _ = await asyncio.wait([task], timeout=0.02)
            assert not done
            assert _is_running(events.pid)
        (tmp_path / "go").touch()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert_reaped(events.pid)


async def test_sigterm_from_outside_is_a_process_killed_and_no_bug():
    async with running(job("polite")) as (task, events):
        os.kill(events.pid, signal.SIGTERM)
        with pytest.raises(errors.ProcessKilled, match=r"SIGTERM.*RuntimeError: stopped"):
            await task


async def test_ctrl_c_in_the_terminal_is_left_to_the_worker(tmp_path):
    async with running(job("until_file", file=str(tmp_path / "go"))) as (task, events):
        server = (await events.body("running"))["server"]
        os.kill(events.pid, signal.SIGINT)
        os.kill(server, signal.SIGINT)
        assert len({os.getpgid(pid) for pid in (os.getpid(), server, events.pid)}) == 3
        (tmp_path / "go").touch()
        await task
    assert (await run(job("until_file", file=str(tmp_path / "go"))))["server"] == server


async def test_sigterm_to_all_processes_of_a_service_leaves_the_children_their_time(tmp_path):
    async with running(job("polite", file=str(tmp_path / "go"))) as (task, events):
        server = (await events.body("running"))["server"]
        os.kill(server, signal.SIGTERM)
        os.kill(events.pid, signal.SIGTERM)
        assert await events.body("checkpoint") == {"step": 7}
        assert _is_running(server)
        (tmp_path / "go").touch()
        with pytest.raises(errors.ProcessKilled, match="asked to stop"):
            await task


async def test_two_jobs_at_once_see_a_device_each(tmp_path, monkeypatch):
    prepare([])
    monkeypatch.setenv("SUPERVISED", "set after the fork server began")
    monkeypatch.chdir(tmp_path)
    one = running(job("until_file", file=str(tmp_path / "go"), device="0"))
    two = running(job("until_file", file=str(tmp_path / "go"), device="1"))
    async with one as (first, _), two as (second, _):
        (tmp_path / "go").touch()
        results = await asyncio.gather(first, second)
    assert [result["device"] for result in results] == ["0", "1"]
    assert {result["variable"] for result in results} == {"set after the fork server began"}
    assert {result["directory"] for result in results} == {str(tmp_path.resolve())}
    assert {result["num_threads_set"] for result in results} == {os.environ.get("OMP_NUM_THREADS")}


async def test_processes_that_a_job_leaves_behind_end_with_it():
    result = await run(job("leave_process_behind"))
    # On Linux the fork server sees them end before it says so.
    assert_ends_within(0 if sys.platform == "linux" else 1, *result["pids"])


async def test_a_process_that_a_job_forks_ends_by_sigterm():
    async with asyncio.timeout(10):
        assert await run(job("terminate_fork")) == {"signal": signal.SIGTERM}


async def test_fifty_jobs_leave_no_descriptor_and_no_process_behind():
    first = await run(job("echo"))
    before = open_files()
    for _ in range(50):
        last = await run(job("echo"))
        assert_reaped(last["pid"])
    # What earlier tests have left may be closed in between, but there is none that was not there before.
    assert open_files().items() <= before.items()
    assert last["num_fds"] == first["num_fds"]


async def test_a_killed_fork_server_ends_its_jobs_and_the_next_job_has_a_new_one(tmp_path):
    async with running(job("silent")) as (task, events):
        server = (await events.body("running"))["server"]
        os.kill(server, signal.SIGKILL)
        with pytest.raises(errors.ProcessKilled, match="fork server"):
            await task
        assert_ends_within(0, events.pid)
    (tmp_path / "go").touch()
    assert (await run(job("until_file", file=str(tmp_path / "go"))))["server"] != server


async def test_shut_down_leaves_no_process_and_may_be_repeated():
    async with running(job("silent")) as (task, events):
        server = (await events.body("running"))["server"]
        shut_down()
        shut_down()
        assert_reaped(server)
        with pytest.raises(errors.ProcessKilled):
            await task
        assert_ends_within(0, events.pid)


@pytest.fixture
def slow_import(tmp_path, monkeypatch):
    """A module whose import takes until a file is there."""
    shut_down()
    (tmp_path / "slow_import.py").write_text(
        "import pathlib, time\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / 'importing').touch()\n"
        "while not (folder / 'go').exists(): time.sleep(0.002)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    prepare(["slow_import"])
    yield tmp_path
    shut_down()


async def test_a_job_that_is_cancelled_while_the_fork_server_imports_never_runs(slow_import):
    events = Events()
    task = asyncio.create_task(run(job("echo"), on_event=events))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task], timeout=0.05)
    (slow_import / "go").touch()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events.all == []
    assert (await run(job("modules", modules=["slow_import"])))["at_start"] == ["slow_import"]


async def test_a_fork_server_that_hangs_does_not_hold_up_a_cancellation(slow_import):
    task = asyncio.create_task(run(job("echo"), grace=timedelta(seconds=0.2)))
    await asyncio.sleep(0)
    task.cancel()
    async with asyncio.timeout(2):
        await asyncio.wait([task])
    assert task.cancelled()
    (slow_import / "go").touch()
    await run(job("echo"))


def test_a_fork_server_without_a_job_is_not_waited_for_while_it_imports(slow_import, monkeypatch):
    monkeypatch.setattr("durabert.supervisor.launcher.SECONDS_TO_LEAVE", 20)
    while not (slow_import / "importing").exists():
        time.sleep(0.005)
    server = launcher._connection.process.pid
    begin = time.monotonic()
    shut_down()
    assert time.monotonic() - begin < 20
    assert_reaped(server)


async def test_jobs_collect_garbage_although_the_fork_server_imports_without():
    shut_down()
    prepare(["json"])
    assert (await run(job("garbage")))["collected"]
    shut_down()


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[madvise]" not in HUGE_PAGES.read_text(),
    reason="this kernel gives huge pages to all programs, or to none",
)
@pytest.mark.parametrize(("told", "asked"), [(None, True), ("glibc.malloc.hugetlb=0", False)])
async def test_the_memory_of_a_job_is_in_huge_pages_unless_a_user_says_otherwise(monkeypatch, told, asked):
    shut_down()
    if told is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", told)
    assert (await run(job("large_memory")))["asks_for_huge_pages"] is asked
    shut_down()


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.arena_max=2", "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=2", "glibc.malloc.hugetlb=2"),
    ],
)
def test_what_a_user_tells_the_c_library_stays(told, expected):
    environment = {"OTHER": "1"} if told is None else {"OTHER": "1", "GLIBC_TUNABLES": told}
    assert with_huge_pages(environment) == {"OTHER": "1", "GLIBC_TUNABLES": expected}


async def test_a_module_that_cannot_be_preloaded_does_not_stop_the_fork_server():
    shut_down()
    prepare(["no_such_module_anywhere", "json"])
    assert (await run(job("echo", a=1)))["request"] == {"a": 1}
    shut_down()


async def test_a_start_with_torch_preloaded_takes_less_than_a_second():
    shut_down()
    prepare(["torch"])
    prepare(["torch"])
    await run(job("echo"))
    begin = time.monotonic()
    result = await run(job("modules", modules=["torch"]))
    assert time.monotonic() - begin < 1
    assert result == {"at_start": ["torch"], "cuda": False, "sum": 3.0}
    shut_down()


async def test_a_fresh_interpreter_for_each_job_keeps_the_same_promises(monkeypatch, tmp_path):
    shut_down()
    monkeypatch.setattr("durabert.supervisor.launcher.FRESH_INTERPRETER", True)
    assert (await run(job("echo", a=1)))["request"] == {"a": 1}
    with pytest.raises(errors.ColumnMissing):
        await run(job("fail", how="column"))
    async with running(job("polite", device="3")) as (task, events):
        assert (await events.body("running"))["device"] == "3"
        task.cancel()
        await asyncio.wait([task])
        assert "checkpoint" in events.kinds
        assert_reaped(events.pid)
    shut_down()


@LINUX_ONLY
async def test_the_kernel_out_of_memory_takes_the_child_before_the_worker():
    worker = int(Path("/proc/self/oom_score_adj").read_text())
    assert (await run(job("oom_score")))["score"] > worker


WORKER = """
import asyncio, sys
from datetime import timedelta
from durabert.supervisor import Job, supervise
print("main", flush=True)

def show(event):
    print(event.kind, *event.body.values(), flush=True)

async def work():
    limits = dict(on_event=show, grace=timedelta(seconds=5), stall=timedelta(seconds=20))
    jobs = [Job(f"supervised_jobs:{name}", {"text": "x"}) for name in sys.argv[1:]]
    await asyncio.gather(*(supervise(job, **limits) for job in jobs))

asyncio.run(work())
print("torch" in sys.modules or "temporalio" in sys.modules, "end", flush=True)
"""


def worker_script(tmp_path, *functions):
    # Without a guard of __main__, as a notebook or a quick script has none.
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    return subprocess.Popen(
        [sys.executable, script, *functions],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])},
    )


def test_a_script_without_a_main_guard_runs_once_and_leaves_nothing(tmp_path):
    with worker_script(tmp_path, "echo", "echo") as worker:
        output, errors_shown = worker.communicate(timeout=20)
    lines = output.splitlines()
    assert (lines[0], lines[-1], len(lines)) == ("main", "False end", 4)
    assert errors_shown == ""
    assert worker.returncode == 0


def pids_of(worker, num_jobs):
    """Return the pids of the children and of their fork server, once all jobs are running."""
    children, servers = [], set()
    while len(children) < num_jobs or not servers:
        kind, *values = worker.stdout.readline().split()
        if kind == "started":
            children.append(int(values[0]))
        if kind == "running":
            servers.add(int(values[-2]))
    (server,) = servers
    return children, server


def test_a_killed_worker_takes_its_children_along_at_once(tmp_path):
    with worker_script(tmp_path, "silent", "deaf") as worker:
        children, server = pids_of(worker, 2)
        worker.kill()
        assert_ends_within(1, *children, server)


def test_a_child_follows_a_killed_worker_even_when_the_fork_server_is_frozen(tmp_path):
    with worker_script(tmp_path, "silent", "polite") as worker:
        children, server = pids_of(worker, 2)
        os.kill(server, signal.SIGSTOP)
        try:
            worker.kill()
            assert_ends_within(1, *children)
        finally:
            os.kill(server, signal.SIGKILL)


@LINUX_ONLY
def test_a_child_follows_a_killed_fork_server_even_when_the_worker_is_frozen(tmp_path):
    with worker_script(tmp_path, "silent", "deaf") as worker:
        children, server = pids_of(worker, 2)
        worker.send_signal(signal.SIGSTOP)
        try:
            os.kill(server, signal.SIGKILL)
            assert_ends_within(1, *children)
        finally:
            worker.kill()


def test_ctrl_c_of_a_worker_lets_the_job_leave_in_its_own_way(tmp_path):
    with worker_script(tmp_path, "polite") as worker:
        children, server = pids_of(worker, 1)
        worker.send_signal(signal.SIGINT)
        output, _ = worker.communicate(timeout=10)
        assert "checkpoint 7" in output
        assert_ends_within(0, *children, server)
