"""What somebody else's workflow sends to our activities: a mistake fails at once, however it is retried."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from temporalio import workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RawValue
from temporalio.exceptions import ActivityError, ApplicationError, RetryState
from temporalio.worker import Worker

from durabert.contract import DEFAULT_TASK_QUEUE
from durabert.engine import running
from tests.shell import Shell
from tests.terminal import TRACEBACK

QUEUE = "foreign-queue"


@workflow.defn(sandboxed=False)
class ForeignWorkflow:
    """Calls an activity of ours as it likes, under the default policy: retried without limit."""

    @workflow.run
    async def run(self, name: str, arguments: list[Any], encoding: str | None = None) -> Any:
        if encoding is not None:
            payloads = [
                Payload(metadata={"encoding": encoding.encode()}, data=text.encode()) for text in arguments
            ]
            arguments = [RawValue(payload) for payload in payloads]
        return await workflow.execute_activity(
            name,
            args=arguments,
            task_queue=DEFAULT_TASK_QUEUE,
            start_to_close_timeout=timedelta(seconds=60),
        )


@pytest.fixture(scope="module")
async def foreign(shell: Shell) -> AsyncIterator[Client]:
    """A client with Temporal's own data converter, and a worker for its workflow."""
    engine = running(shell.home)
    assert engine is not None
    client = await Client.connect(engine.address)
    async with Worker(client, task_queue=QUEUE, workflows=[ForeignWorkflow]):
        yield client


TRAIN, PREDICT = "fine_tune_bert", "run_bert_inference"
ONE_NAME = {"experiment": "foreign", "run": "foreign"}
DATA = {"data": {"source": "reviews.csv"}, "config": {}}
LONG_NAME = "x" * 10_000


@pytest.mark.parametrize(
    ("activity", "arguments", "says"),
    [
        (TRAIN, [{"experiment": "a", "run": "../../escape", **DATA}], "name '../../escape' is not allowed"),
        (TRAIN, [{"experiment": "../../escape", "run": "a", **DATA}], "name '../../escape' is not allowed"),
        (TRAIN, [{"experiment": "a", "run": "{tmp}/escape", **DATA}], "escape' is not allowed"),
        (TRAIN, [{"experiment": "a", "run": "a.../b", **DATA}], "'a.../b' is not allowed"),
        (TRAIN, [{"experiment": "a", "run": LONG_NAME, **DATA}], "xxx...' is not allowed"),
        (TRAIN, [{"experiment": "a", "run": "a\0", **DATA}], r"'a\x00' is not allowed"),
        (TRAIN, [{**ONE_NAME, **DATA, "config": {"batch_size": 0}}], "config.batch_size is 0, but should be"),
        (TRAIN, [{**ONE_NAME, **DATA, "config": {"learning_rate": "nan"}}], "learning_rate is 'nan', but"),
        (TRAIN, [{**ONE_NAME, **DATA, "config": None}], "config is None, but should be an object"),
        (TRAIN, [{**ONE_NAME, "config": {}}], "field 'data' is missing"),
        (TRAIN, [{}], "field 'experiment' is missing (and 3 more)"),
        (TRAIN, ["foreign"], "FineTuneRequest is 'foreign', but should be an object"),
        (TRAIN, [[1, 2]], "FineTuneRequest is [1, 2], but should be an object"),
        (TRAIN, [None], "the argument of fine_tune_bert is None, but should be a FineTuneRequest"),
        (TRAIN, [], "fine_tune_bert was called with 0 arguments, but should have one"),
        (TRAIN, [{**ONE_NAME, **DATA}, "more"], "fine_tune_bert was called with 2 arguments, but should"),
        (PREDICT, [{"run": "../../escape", "texts": ["x"]}], "run name '../../escape' is not allowed"),
        (PREDICT, [{"run": "a", "texts": []}], "the list of texts is empty"),
        (PREDICT, [{"run": "a", "input": {"path": "x"}, "output": "x.sh"}], "output is 'x.sh', but should"),
        (PREDICT, [], "run_bert_inference was called with 0 arguments"),
    ],
)  # fmt: skip
async def test_a_wrong_argument_fails_without_a_retry(foreign, shell, tmp_path, activity, arguments, says):
    before, log = files_of(shell, tmp_path), worker_log(shell)

    failure, attempt = await failure_of(foreign, activity, in_place(arguments, tmp_path))

    assert failure.type == "SpecInvalid"
    assert says in failure.message
    assert "\n" not in failure.message
    assert len(failure.message) < 400
    assert (failure.non_retryable, attempt) == (True, 1)
    assert files_of(shell, tmp_path) == before
    assert TRACEBACK not in worker_log(shell)[len(log) :]


@pytest.mark.parametrize(
    ("encoding", "text", "says"),
    [
        ("json/plain", "{", "FineTuneRequest is no JSON"),
        ("json/plain", "", "FineTuneRequest is no JSON"),
        ("json/plain", '{"run": "a", "run"', "FineTuneRequest is no JSON"),
        ("json/plain", "[" * 5000, "FineTuneRequest is no JSON"),
        ("binary/plain", "{}", "the argument of fine_tune_bert is b'{}', but should be a FineTuneRequest"),
        ("binary/unheard-of", "{}", "the argument of fine_tune_bert cannot be read: "),
        ("json/protobuf", "{}", "the argument of fine_tune_bert cannot be read: "),
    ],
    ids=["begun", "empty", "cut off", "deep", "bytes", "unknown encoding", "other encoding"],
)
async def test_an_argument_that_cannot_be_read_fails_without_a_retry(foreign, encoding, text, says):
    failure, attempt = await failure_of(foreign, TRAIN, [text], encoding)

    assert failure.type == "SpecInvalid"
    assert says in failure.message
    assert "\n" not in failure.message
    assert (failure.non_retryable, attempt) == (True, 1)


@pytest.mark.parametrize(
    ("activity", "request_fields", "kind"),
    [
        (TRAIN, {**ONE_NAME, **DATA, "data": {"source": "/no/such.csv"}}, "DataNotFound"),
        (TRAIN, {**ONE_NAME, **DATA, "data": {"source": "a\0b.csv"}}, "DataNotFound"),
        (TRAIN, {**ONE_NAME, **DATA, "data": {"source": f"{'x' * 5000}.csv"}}, "DataNotFound"),
        (PREDICT, {"run": "no-such-run", "texts": ["x"]}, "RunNotFound"),
    ],
)
async def test_a_mistake_that_the_child_finds_fails_without_a_retry(
    foreign, shell, tmp_path, activity, request_fields, kind
):
    before = files_of(shell, tmp_path)

    failure, attempt = await failure_of(foreign, activity, [request_fields])

    assert failure.type == kind
    assert (failure.non_retryable, attempt) == (True, 1)
    assert files_of(shell, tmp_path) == before


async def failure_of(
    foreign: Client, activity: str, arguments: list[Any], encoding: str | None = None
) -> tuple[ApplicationError, int]:
    """Return how the activity failed, and in which attempt; it must not take as long as a retry."""
    handle = await foreign.start_workflow(
        ForeignWorkflow.run,
        args=[activity, arguments, encoding],
        id=f"foreign-{uuid.uuid4().hex[:8]}",
        task_queue=QUEUE,
        execution_timeout=timedelta(seconds=20),
    )
    with pytest.raises(WorkflowFailureError) as caught:
        await handle.result()
    failed = caught.value.cause
    assert isinstance(failed, ActivityError)
    assert isinstance(failed.cause, ApplicationError)
    assert failed.retry_state is RetryState.NON_RETRYABLE_FAILURE
    history = await handle.fetch_history()
    attempts = [
        event.activity_task_started_event_attributes.attempt
        for event in history.events
        if event.HasField("activity_task_started_event_attributes")
    ]
    return failed.cause, attempts[-1]


def in_place(arguments: list[Any], tmp_path: Path) -> list[Any]:
    if arguments and isinstance(arguments[0], dict) and "run" in arguments[0]:
        return [{**arguments[0], "run": arguments[0]["run"].replace("{tmp}", str(tmp_path))}, *arguments[1:]]
    return arguments


def files_of(shell: Shell, tmp_path: Path) -> set[Path]:
    """Return all that lies around the home directory, and in it other than the engine's own files."""
    places = [shell.home.parent.parent.glob("*"), shell.home.parent.glob("*"), tmp_path.rglob("*")]
    places += [(shell.home / name).rglob("*") for name in ("runs", "staging")]
    return {path for place in places for path in place}


def worker_log(shell: Shell) -> str:
    return (shell.home / "logs" / "worker.log").read_text(errors="replace")
