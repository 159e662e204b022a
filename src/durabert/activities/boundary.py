"""Between Temporal and everything below it: arguments, errors, heartbeats, cancellation. In one place."""

from __future__ import annotations

import asyncio
import inspect
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeVar

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory, FailureError

from durabert.errors import (
    DurabertError,
    Retry,
    SpecInvalid,
    UnexpectedError,
    UserError,
    WorkerStopping,
)
from durabert.specs import Progress, Wire
from durabert.supervisor import Event, Job, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from durabert.activities.devices import DeviceSlots
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
        async def perform(self: Any, *arguments: RawValue) -> Result:
            with final_errors_not_retried():
                return await method(self, _decoded(contract, arguments))

        perform.__name__, perform.__doc__ = method.__name__, method.__doc__
        # Read by the SDK, which cannot resolve the type variables of this function. It takes any number of
        # arguments all the same: a wrong number, too, is for us to refuse and not for the SDK to retry.
        perform.__annotations__ = {"argument": RawValue, "return": contract.result}
        perform.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [
                inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD)
                for name in ("self", "argument")
            ]
        )
        return activity.defn(name=contract.name)(perform)

    return decorate


def _decoded(contract: ActivityContract[Request, Result], arguments: Sequence[RawValue]) -> Request:
    if len(arguments) != 1:
        raise SpecInvalid(
            f"{contract.name} was called with {len(arguments)} arguments, but should have one, "
            f"of type {contract.request.__name__}"
        )
    try:
        request = activity.payload_converter().from_payload(arguments[0].payload, contract.request)
    except FailureError:
        raise
    except Exception as error:  # what it raises depends on how the payload is encoded
        raise SpecInvalid(f"the argument of {contract.name} cannot be read: {error}") from None
    if not isinstance(request, contract.request):
        # Nothing at all, or bytes, which are not decoded as JSON.
        raise SpecInvalid(
            f"the argument of {contract.name} is {request!r:.80}, but should be a {contract.request.__name__}"
        )
    return request


@contextmanager
def final_errors_not_retried() -> Iterator[None]:
    """Map our errors to Temporal's, by the class's own say on retries."""
    try:
        yield
    except DurabertError as error:
        if isinstance(error, UserError):
            activity.logger.warning("%s: %s", type(error).__name__, error)
        # Where it was raised in here says nothing about it, and would only fill logs and histories.
        raise as_application_error(error, attempt=activity.info().attempt) from None
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
        category=_category(error),
    )


def _category(error: DurabertError) -> ApplicationErrorCategory:
    # The SDK logs any other failure with its traceback and counts it as one of the worker.
    benign = isinstance(error, (UserError, WorkerStopping))
    return ApplicationErrorCategory.BENIGN if benign else ApplicationErrorCategory.UNSPECIFIED


async def run_child(job: Job, slots: DeviceSlots, *, all_devices: bool = False) -> dict[str, Any]:
    """Run a job in a child process on a slot, its progress as heartbeats; gone when this returns or raises.

    Args:
        job: what to run.
        slots: one is waited for and held.
        all_devices: the child sees every GPU of the worker and not only that of its slot.

    Raises:
        DurabertError: what the child raised, or how it died.
    """
    async with _heartbeats() as on_event, slots.take() as device:
        placed = replace(job, device=None if all_devices else device)
        return await supervise(placed, on_event=on_event, grace=GRACE, stall=STALL_LIMIT)


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
