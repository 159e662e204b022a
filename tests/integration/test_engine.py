"""The embedded engine: one server for the commands of a home, and none when they are gone."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeNamespaceRequest, ListTaskQueuePartitionsRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

import durabert.engine.attach
import durabert.engine.host
from durabert.engine import Engine, EngineInfo, Home, binary, home_directory, running, server, worker_process
from durabert.engine.api import answers
from durabert.engine.host import Host
from durabert.engine.leases import is_held, try_lock
from durabert.engine.settings import Settings
from durabert.engine.worker_process import WorkerProcess
from durabert.errors import DependencyMissing, EngineUnavailable

SECONDS = 30.0
HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
"""By a host."""
EXPERIMENT = {"DurabertExperiment": "Keyword"}

WORKER = """
import json, os, pathlib, signal
kept = {name: value for name, value in os.environ.items() if name.startswith(("TEMPORAL_", "DURABERT_HOME"))}
there = pathlib.Path(os.environ["DURABERT_HOME"], "worker.json")
there.with_suffix(".new").write_text(json.dumps(kept))
there.with_suffix(".new").replace(there)
signal.pause()
"""
DYING_WORKER = "print('no module named torch', flush=True); raise SystemExit(3)"
STUBBORN_WORKER = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
COMMAND = """
import pathlib, subprocess, sys
from durabert.engine import Engine
with Engine.attach(pathlib.Path(sys.argv[1]), worker=False, search_attributes={}) as engine:
    child = subprocess.Popen(["sleep", "100"], close_fds=False, stdout=subprocess.DEVNULL)
    child.returncode = 0
    print(engine.info.host_pid, engine.info.server_pid, child.pid, flush=True)
    sys.stdin.read()
"""
UP = """
import asyncio, pathlib, sys
from durabert.engine import serve
def ready(info):
    print(info.host_pid, info.server_pid, 0, flush=True)
asyncio.run(serve(pathlib.Path(sys.argv[1]), search_attributes={}, on_ready=ready,
                  worker_command=["sleep", "100"]))
"""


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def gone(pid: int) -> bool:
    # A zombie that nobody reaps yet holds nothing any more.
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return state.stdout.strip()[:1] in ("", "Z")


def pids(info: EngineInfo) -> list[int]:
    return [pid for pid in (info.host_pid, info.server_pid, info.worker_pid) if pid is not None]


def all_gone(processes: Sequence[int]) -> None:
    eventually(lambda: all(map(gone, processes)))


def attach(
    home: Path, *, worker: Sequence[str] | None = None, attributes: dict[str, str] | None = None, **options
) -> Engine:
    return Engine.attach(
        home,
        worker=worker is not None,
        search_attributes=attributes or {},
        worker_command=worker or python(WORKER),
        **options,
    )


def started_command(home: Path, script: str = COMMAND) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*python(script), str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


@contextlib.contextmanager
def command(home: Path, script: str = COMMAND) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    """A command of its own process, with the ids of its host, its server and a child that outlives it."""
    with started_command(home, script) as process:
        host, server, child = map(int, process.stdout.readline().split())
        try:
            yield process, [host, server]
        finally:
            process.kill()
            if child:
                os.kill(child, signal.SIGKILL)


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    """The database of a home that was used before: starting on it takes a third of the time."""
    home = Home(tmp_path_factory.mktemp("used"))
    with attach(home.root) as engine:
        processes = pids(engine.info)
    all_gone(processes)
    return home.database


@pytest.fixture
def home(tmp_path, database) -> Iterator[Path]:
    used = Home(tmp_path / "home")
    used.create()
    shutil.copy(database, used.database)
    yield used.root
    # What a failed test left behind.
    if (info := running(used.root)) is not None:
        os.kill(info.host_pid, signal.SIGTERM)


def test_the_first_command_starts_an_engine_and_the_next_joins_it(tmp_path):
    starts = []
    with attach(tmp_path, on_starting=lambda: starts.append("first")) as first:
        began = time.monotonic()
        with attach(tmp_path, on_starting=lambda: starts.append("second")) as second:
            took = time.monotonic() - began
            assert second.info == first.info == running(tmp_path)
        assert answers(first.info.http)
    assert starts == ["first"]
    assert took < 1
    all_gone(pids(first.info))


def test_the_engine_stays_for_the_last_command_and_leaves_with_it(home):
    first, last = attach(home), attach(home)
    first.close()
    until = time.monotonic() + 1
    while time.monotonic() < until:
        assert running(home) == last.info
    last.close()
    last.close()
    all_gone(pids(last.info))
    assert running(home) is None
    assert not is_held(Home(home).database_lock)
    assert not Home(home).info_file.exists()


def test_commands_that_start_at_once_share_one_server(tmp_path):
    with contextlib.ExitStack() as commands:
        started = [commands.enter_context(started_command(tmp_path)) for _ in range(3)]
        told = [list(map(int, process.stdout.readline().split())) for process in started]
        for process, (_, _, child) in zip(started, told, strict=True):
            process.communicate()
            os.kill(child, signal.SIGKILL)
    assert len({server for _, server, _ in told}) == 1
    all_gone(told[0][:2])
    assert Home(tmp_path).engine_log.read_text().count("started at") == 1


def test_a_killed_command_leaves_nothing_behind_although_its_child_lives_on(home):
    with command(home) as (process, engine):
        assert os.getsid(engine[0]) != os.getsid(process.pid)
        process.kill()
        all_gone(engine)


def test_a_command_that_is_killed_while_it_starts_the_engine_is_no_obstacle(home):
    with started_command(home) as process:
        eventually(lambda: is_held(Home(home).host_lock))
        process.kill()
    with attach(home) as engine:
        assert answers(engine.info.http)
    all_gone(pids(engine.info))


def test_whoever_comes_while_the_engine_leaves_gets_a_living_one(home):
    failures = []

    def come_and_go(pauses: Sequence[float]) -> None:
        for pause in pauses:
            try:
                with attach(home) as engine:
                    assert answers(engine.info.http)
            except EngineUnavailable as error:
                failures.append(error)
            # Around the moment at which the host stops lingering.
            time.sleep(pause)

    threads = [
        threading.Thread(target=come_and_go, args=([first + 0.04 * n for n in range(5)],))
        for first in (0.45, 0.5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    eventually(lambda: not is_held(Home(home).host_lock))


def test_a_host_withdraws_only_when_no_command_holds_a_lease(home):
    place = Home(home)
    place.info_file.touch()
    host = Host(Settings(place, {}), try_lock(place.host_lock))
    with try_lock(place.server_lease, shared=True):
        assert not host._withdrawn()
        assert place.info_file.exists()
    assert host._withdrawn()
    assert not place.info_file.exists()
    host._lock.close()


@pytest.fixture
def handlers():
    """Those of the signals that a host takes, put back after one in this process."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield before
    for number, handler in before.items():
        signal.signal(number, handler)


def test_the_end_of_a_server_is_seen_by_a_host_that_looks_at_leases_seldom(home, handlers, monkeypatch):
    monkeypatch.setattr(durabert.engine.host, "POLL_SECONDS", 3600.0)
    place = Home(home)
    replaced = []

    def kill_server():
        before = running(home).server_pid
        os.kill(before, signal.SIGKILL)
        try:
            eventually(lambda: running(home).server_pid != before)
            replaced.append(running(home).server_pid)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    killing = threading.Thread(target=kill_server)
    Host(Settings(place, {}), try_lock(place.host_lock)).run(killing.start)
    killing.join()
    assert signal.getsignal(signal.SIGCHLD) == handlers[signal.SIGCHLD]
    all_gone(replaced)
    assert replaced


@pytest.mark.usefixtures("handlers")
def test_a_host_that_looks_seldom_leaves_soon_after_its_last_command(home, monkeypatch):
    monkeypatch.setattr(durabert.engine.host, "STEADY_POLL_SECONDS", 3600.0)
    monkeypatch.setattr(worker_process, "STEADY_SECONDS", 0.0)
    place = Home(home)
    left = []

    def command():
        try:
            with attach(home, worker=python(WORKER)):
                eventually((home / "worker.json").exists)
            eventually(lambda: not is_held(place.host_lock))
            left.append(True)
        finally:
            if not left:
                os.kill(os.getpid(), signal.SIGTERM)

    commanding = threading.Thread(target=command)
    settings = Settings(place, {}, worker_command=python(WORKER))
    Host(settings, try_lock(place.host_lock)).run(commanding.start)
    commanding.join()
    assert left


def test_a_command_holds_its_leases_before_it_looks_for_an_engine_and_not_after_a_failure(home, monkeypatch):
    leases = [Home(home).server_lease, Home(home).worker_lease]
    seen = []

    def look(settings, on_starting):
        seen.extend(is_held(lease, shared=True) for lease in leases)
        raise EngineUnavailable("none")

    monkeypatch.setattr(durabert.engine.attach, "join_or_start", look)
    with pytest.raises(EngineUnavailable, match="none"):
        attach(home, worker=["unused"])
    assert seen == [True, True]
    assert not any(is_held(lease, shared=True) for lease in leases)


async def test_a_killed_host_takes_server_and_worker_along_and_no_workflow_is_lost(home):
    with attach(home, worker=python(WORKER)) as engine:
        eventually(lambda: running(home).worker_pid)
        before = running(home)
        client = await Client.connect(before.address)
        handle = await client.start_workflow("Any", id="kept", task_queue="nobody")
        os.kill(before.host_pid, signal.SIGKILL)
        if sys.platform == "linux":
            all_gone(pids(before))
        assert "has ended" in engine.worker_state()

        after = engine.revive()

        assert after.host_pid != before.host_pid
        assert after.server_pid != before.server_pid
        assert (after.address, after.ui) == (before.address, before.ui)
        assert (await handle.describe()).id == "kept"
        eventually(lambda: running(home).worker_pid)
        after = running(home)
    all_gone(pids(after))


def test_a_server_that_dies_is_replaced_at_the_same_address(home):
    with attach(home) as engine:
        os.kill(engine.info.server_pid, signal.SIGKILL)
        all_gone([engine.info.server_pid])
        with attach(home) as next_command:
            assert answers(next_command.info.http)
        eventually(lambda: running(home).server_pid != engine.info.server_pid)
        after = running(home)
        assert (after.address, after.host_pid) == (engine.info.address, engine.info.host_pid)
    all_gone(pids(after))


def test_the_worker_is_there_while_a_command_wants_it_and_talks_to_this_engine(home, monkeypatch):
    monkeypatch.setenv("TEMPORAL_ADDRESS", "elsewhere.example:7233")
    monkeypatch.setenv("TEMPORAL_API_KEY", "secret")
    with attach(home) as engine:
        with attach(home, worker=python(WORKER)):
            eventually((home / "worker.json").exists)
            worker = running(home).worker_pid
        eventually(lambda: running(home).worker_pid is None)
        all_gone([worker])
        assert running(home).server_pid == engine.info.server_pid
        assert json.loads((home / "worker.json").read_text()) == {
            "DURABERT_HOME": str(home),
            "TEMPORAL_ADDRESS": engine.info.address,
            "TEMPORAL_NAMESPACE": "default",
            "TEMPORAL_CONFIG_FILE": os.devnull,
        }


def test_a_worker_that_keeps_dying_is_restarted_and_reported_until_it_is_not_wanted(home):
    with attach(home, worker=python(DYING_WORKER)) as engine, attach(home):
        eventually(lambda: "failure 2 in a row" in (engine.worker_state() or ""))
        assert "exit code 3: no module named torch" in engine.worker_state()
        assert Home(home).worker_log.read_text().count("torch") >= 2
        engine.close()
        eventually(lambda: running(home).worker_failure is None)


def test_a_worker_that_ignores_sigterm_is_killed(home, monkeypatch):
    monkeypatch.setattr(worker_process, "DRAIN_SECONDS", 0.1)
    place = Home(home)
    worker = WorkerProcess(place, python(STUBBORN_WORKER), address="127.0.0.1:1")
    worker.tend(wanted=True)
    process = worker.pid
    eventually(lambda: b"ready" in place.worker_log.read_bytes())
    worker.stop()
    assert gone(process)
    assert worker.failure is None


def test_a_worker_that_cannot_be_started_is_reported(home):
    with attach(home, worker=["/no/such/program"]) as engine:
        eventually(lambda: "cannot be started" in (engine.worker_state() or ""))


async def test_search_attributes_are_usable_at_once_on_a_database_of_an_older_version(home):
    for attributes in (EXPERIMENT, {**EXPERIMENT, "DurabertScore": "Double"}):
        with attach(home, attributes=attributes) as engine:
            client = await Client.connect(engine.info.address)
            key = SearchAttributeKey.for_keyword("DurabertExperiment")
            pairs = [SearchAttributePair(key, "demo")]
            if "DurabertScore" in attributes:
                pairs.append(SearchAttributePair(SearchAttributeKey.for_float("DurabertScore"), 0.5))
            run = f"run-{len(attributes)}"
            await client.start_workflow(
                "Any", id=run, task_queue="nobody", search_attributes=TypedSearchAttributes(pairs)
            )
        all_gone(pids(engine.info))
    with attach(home, attributes=attributes) as engine:
        client = await Client.connect(engine.info.address)
        found = [each.id async for each in client.list_workflows("DurabertExperiment = 'demo'")]
        assert sorted(found) == ["run-1", "run-2"]


def test_a_search_attribute_of_another_type_is_refused(home):
    refusal = r"DurabertExperiment is of type keyword .* should be Int"
    with attach(home, attributes=EXPERIMENT), pytest.raises(EngineUnavailable, match=refusal):
        attach(home, attributes={"DurabertExperiment": "Int"})


@pytest.mark.parametrize("told", [None, "3"])
async def test_the_server_leaves_the_processor_to_models(home, monkeypatch, told):
    for name in server.ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    if told is not None:
        monkeypatch.setenv("GOMAXPROCS", told)
    with attach(home) as engine:
        environment = Path(f"/proc/{engine.info.server_pid}/environ").read_bytes().split(b"\0")
        client = await Client.connect(engine.info.address)
        partitions = await client.workflow_service.list_task_queue_partitions(
            ListTaskQueuePartitionsRequest(namespace="default", task_queue=TaskQueue(name="queue"))
        )
        # Only of the mode "persist" is there one while nothing is written.
        assert Path(f"{Home(home).database}-journal").exists()
    assert f"GOMAXPROCS={told or 1}".encode() in environment
    assert {b"GOGC=off", b"GOMEMLIMIT=512MiB"} <= set(environment)
    assert len(partitions.activity_task_queue_partitions) == 1
    assert len(partitions.workflow_task_queue_partitions) == 1


def test_the_server_has_the_settings_that_it_is_given():
    # It says nothing of one that it does not know.
    program = Path(server.server_binary()).read_bytes()
    assert [name for name in server.DYNAMIC_CONFIG if name.encode() not in program] == []


async def test_finished_runs_are_kept_for_ten_years(tmp_path):
    with attach(tmp_path) as engine:
        client = await Client.connect(engine.info.address)
        answer = await client.workflow_service.describe_namespace(
            DescribeNamespaceRequest(namespace="default")
        )
        assert answer.config.workflow_execution_retention_ttl == Duration(seconds=3650 * 24 * 3600)
        # The first that a new home has, before anything in the server looks at its namespace again.
        run = await client.start_workflow("Any", id="run", task_queue="nobody")
        await run.terminate()
        eventually(lambda: max(_timers(tmp_path)) > datetime.now(UTC) + timedelta(days=3600))


def _timers(home: Path) -> list[datetime]:
    """Return when the server is going to do something, such as to drop what has finished."""
    with contextlib.closing(sqlite3.connect(f"file:{Home(home).database}?mode=ro", uri=True)) as database:
        rows = database.execute("SELECT visibility_timestamp FROM timer_tasks").fetchall()
    return [datetime.fromisoformat(time[:19]).replace(tzinfo=UTC) for (time,) in rows]


def test_a_damaged_database_is_reported_and_left_as_it_is(home):
    place = Home(home)
    place.database.write_bytes(b"damaged" * 10_000)
    with pytest.raises(EngineUnavailable, match=r"did not come up .* file is not a database"):
        attach(home)
    eventually(lambda: not is_held(place.host_lock))
    assert not is_held(place.database_lock)
    assert place.database.read_bytes() == b"damaged" * 10_000


def test_a_home_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(EngineUnavailable, match="file/home cannot be used: Not a directory"):
        attach(tmp_path / "file" / "home")
    assert running(tmp_path / "file" / "home") is None


LOSES_A_PORT_ONCE = """#!{python}
import os, pathlib, sys
real = [{real!r}, *sys.argv[1:]]
first = pathlib.Path(__file__).with_suffix(".first")
if first.exists():
    os.execv(real[0], real)
first.write_text(str(os.getpid()))
print('{{"msg": "Failed to start gRPC listener", "error": "bind: address already in use"}}', flush=True)
"""
PANICS = """
print("panic: runtime error: nil pointer dereference")
for number in range(500):
    print(f"goroutine {{number}} [running]:")
    print("go.temporal.io/server/service/frontend.NewHTTPAPIServer(...)")
raise SystemExit(2)
"""
ANSWERS = """
os.execv(real[0], real)
"""


@pytest.mark.parametrize("then", [PANICS, ANSWERS])
def test_a_port_that_is_taken_in_the_last_moment_is_replaced(home, monkeypatch, tmp_path, then):
    # As the real server does it, if one is taken between its own check and its use. It panics at once over
    # that of the frontend; over that of another service, it may answer until it does.
    loses = tmp_path / "temporal"
    loses.write_text((LOSES_A_PORT_ONCE + then).format(python=sys.executable, real=server.server_binary()))
    loses.chmod(0o755)
    monkeypatch.setattr(server, "server_binary", lambda: str(loses))
    settings = Settings(home=Home(home), search_attributes={})
    settings.home.create()

    started = server.Server.start(settings)
    try:
        first = int(loses.with_suffix(".first").read_text())
        assert started.process.pid != first
        assert gone(first)
        assert "panic" in settings.home.server_log.read_text() or then == ANSWERS
        assert answers(started.http_address)
    finally:
        started.stop()


@pytest.mark.parametrize("option", ["port", "ui_port"])
def test_a_told_port_is_used_or_refused(home, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        flag = f"--{option.replace('_', '-')}"
        with pytest.raises(EngineUnavailable, match=f"port {number} is in use .* with {flag}"):
            attach(home, **{option: number})
    with pytest.raises(EngineUnavailable, match=f"{flag} is 70000, but should be a port"):
        attach(home, **{option: 70_000})
    with attach(home, **{option: number}) as engine:
        assert getattr(engine.info, option) == number
        with pytest.raises(
            EngineUnavailable, match=f"already up on port {number}, not on 1; leave {flag} out"
        ):
            attach(home, **{option: 1})


def test_up_keeps_the_engine_until_it_is_told_to_stop_and_survives_its_host(home):
    with command(home, UP) as (process, (host, server)):
        os.kill(host, signal.SIGKILL)
        eventually(lambda: (info := running(home)) is not None and info.host_pid != host)
        after = running(home)
        assert after.server_pid != server
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    all_gone(pids(after))


def test_a_server_left_over_by_a_killed_host_is_stopped(home):
    place = Home(home)
    # Stands for the server on a system that does not kill it together with its host.
    with try_lock(place.database_lock) as lock:
        left_over = subprocess.Popen(
            [*python("import signal; signal.pause()"), str(place.database)], pass_fds=[lock.fd]
        )
        os.pwrite(lock.fd, json.dumps({"pid": left_over.pid}).encode(), 0)
    with attach(home):
        assert left_over.wait(SECONDS) == -signal.SIGKILL


def test_a_process_that_only_has_the_number_of_the_old_server_is_let_live(home):
    place = Home(home)
    with try_lock(place.database_lock) as lock:
        other = subprocess.Popen(["sleep", "100"], pass_fds=[lock.fd])
        os.pwrite(lock.fd, json.dumps({"pid": other.pid}).encode(), 0)
    with other:
        with pytest.raises(EngineUnavailable, match="another process still has the database"):
            attach(home)
        assert other.poll() is None
        other.kill()


def test_a_missing_temporal_cli_is_named_with_its_remedy(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert Path(binary.server_binary()).parent == Path(sys.executable).parent
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert Path(binary.server_binary()).name == "temporal"
    monkeypatch.setattr(binary.importlib.metadata, "files", lambda _name: None)
    with pytest.raises(DependencyMissing, match=r"Temporal CLI is not installed; run: .*durabert\[local\]"):
        binary.server_binary()


def test_the_home_is_told_by_argument_environment_or_default(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DURABERT_HOME", "elsewhere")
    assert home_directory(Path("here")) == tmp_path / "here"
    assert home_directory() == tmp_path / "elsewhere"
    monkeypatch.setenv("DURABERT_HOME", "")
    assert home_directory() == tmp_path / ".durabert"
