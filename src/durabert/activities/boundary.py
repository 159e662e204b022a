"""Between Temporal and everything below it: arguments, errors, heartbeats, cancellation. In one place."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, FailureError

from durabert.errors import DurabertError, Retry, UnexpectedError, WorkerStopping
from durabert.specs import Progress, Wire
from durabert.supervisor import Event, Job, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from durabert.contract import ActivityContract

Request = TypeVar("Request", bound=Wire)
Result = TypeVar("Result", bound=Wire)

BEAT_INTERVAL: Final = timedelta(seconds=1)
"""How often an activity reports; the worker's throttle must not be longer."""

GRACE: Final = timedelta(seconds=1.5)
"""How long a child that was told to stop may take before it is killed: cancel is promised in 2 s."""

STALL_LIMIT: Final = timedelta(minutes=30)
"""A child that reports nothing for so long is taken for hung; the longest silence is a model download."""

HAND_OVER_DELAY: Final = timedelta(milliseconds=200)
"""Before another worker gets what this one hands over."""


def implements(
    contract: ActivityContract[Request, Result],
) -> Callable[[Callable[[Any, Request], Awaitable[Result]]], Callable[[Any, RawValue], Awaitable[Result]]]:
    """Turn a method into the activity of ``contract``.

    The argument is decoded here and not by the SDK, which would retry for ever what cannot be decoded.
    """

    def decorate(
        method: Callable[[Any, Request], Awaitable[Result]],
    ) -> Callable[[Any, RawValue], Awaitable[Result]]:
        async def perform(self: Any, argument: RawValue) -> Result:
            with final_errors_not_retried():
                request = activity.payload_converter().from_payload(argument.payload, contract.request)
                return await method(self, request)

        perform.__name__, perform.__doc__ = method.__name__, method.__doc__
        # Read by the SDK, which cannot resolve the type variables of this function.
        perform.__annotations__ = {"argument": RawValue, "return": contract.result}
        return activity.defn(name=contract.name)(perform)

    return decorate


@contextmanager
def final_errors_not_retried() -> Iterator[None]:
    """Map our errors to Temporal's, by the class's own say on retries."""
    try:
        yield
    except DurabertError as error:
        raise as_application_error(error, attempt=activity.info().attempt) from error
    except asyncio.CancelledError:
        details = activity.cancellation_details()
        if details is not None and details.worker_shutdown:
            raise as_application_error(
                WorkerStopping("the worker was told to stop; the work goes on elsewhere"),
                attempt=activity.info().attempt,
            ) from None
        raise
    except FailureError:
        raise
    except Exception as error:
        bug = UnexpectedError(f"{type(error).__name__}: {error}")
        raise as_application_error(bug, attempt=activity.info().attempt) from error


def as_application_error(error: DurabertError, *, attempt: int) -> ApplicationError:
    """Return what Temporal is told of an error in the given attempt, counted from 1."""
    final = error.retry is Retry.NEVER or (error.retry is Retry.TWICE and attempt > 2)
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        non_retryable=final,
        next_retry_delay=HAND_OVER_DELAY if isinstance(error, WorkerStopping) else None,
    )


async def run_child(job: Job) -> dict[str, Any]:
    """Run a job in a child process, its progress as heartbeats; gone when this returns or raises.

    Raises:
        DurabertError: what the child raised, or how it died.
    """
    async with _heartbeats() as on_event:
        return await supervise(job, on_event=on_event, grace=GRACE, stall=STALL_LIMIT)


@asynccontextmanager
async def _heartbeats() -> AsyncIterator[Callable[[Event], None]]:
    latest = Progress(phase="starting")

    def on_event(event: Event) -> None:
        nonlocal latest
        if event.kind == "started":
            latest = latest.model_copy(update={"process_id": event.body["pid"]})
        elif event.kind == "progress":
            latest = Progress.model_validate({**event.body, "process_id": latest.process_id})

    async def beat() -> None:
        while True:
            activity.heartbeat(latest)
            await asyncio.sleep(BEAT_INTERVAL.total_seconds())

    beating = asyncio.create_task(beat())
    try:
        yield on_event
    finally:
        beating.cancel()
