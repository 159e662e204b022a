"""Between Temporal and everything below it: arguments, errors, cancellation. In one place."""

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

from durabert.activities.heartbeats import heartbeats
from durabert.errors import (
    DurabertError,
    InfrastructureError,
    OutOfMemory,
    Retry,
    RunPaused,
    SpecInvalid,
    UnexpectedError,
    UserError,
    WorkerStopping,
)
from durabert.specs import Progress, Wire
from durabert.supervisor import Job, supervise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

    from durabert.activities.devices import DeviceSlots
    from durabert.contract import ActivityContract

Request = TypeVar("Request", bound=Wire)
Result = TypeVar("Result", bound=Wire)

GRACE: Final = timedelta(seconds=1.5)
"""How long a child that was told to stop may take before it is killed: cancel is promised in 2 s."""

CHECKPOINT_GRACE: Final = timedelta(seconds=25)
"""The same for a child that commits a checkpoint first; the notice of a spot machine is 30 s or more."""

STALL_LIMIT: Final = timedelta(minutes=30)
"""A child that reports nothing for so long is taken for hung; the longest silence is a model download."""

FIRST_DELAY: Final = timedelta(seconds=1)
LONGEST_DELAY: Final = timedelta(seconds=60)
"""Before an attempt after one that failed; doubled by each that brought the work no further."""

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
        handed_over = _hand_over()
        if handed_over is None:
            raise
        raise as_application_error(handed_over, attempt=activity.info().attempt) from None
    except FailureError:
        raise
    except Exception as error:
        bug = UnexpectedError(f"{type(error).__name__}: {error}")
        raise as_application_error(bug, attempt=activity.info().attempt) from error


def _hand_over() -> InfrastructureError | None:
    """Return why a cancelled activity is to be tried again; None if it was cancelled for good."""
    details = activity.cancellation_details()
    if details is not None and details.cancel_requested:
        return None
    if activity.is_worker_shutdown() or (details is not None and details.worker_shutdown):
        return WorkerStopping("the worker was told to stop; the work goes on elsewhere")
    if details is not None and details.paused:
        return RunPaused("it was paused; 'durabert resume' lets it go on")
    return None


def as_application_error(
    error: DurabertError, *, attempt: int, fruitless: int | None = None
) -> ApplicationError:
    """Return what Temporal is told of an error.

    Args:
        error: what ended the attempt.
        attempt: number of the attempt from 1, hand-overs not counted where that is known.
        fruitless: attempts in a row before this one that brought the work no further; default: all.
    """
    final = error.retry is Retry.NEVER or (error.retry is Retry.TWICE and attempt > 2)
    return ApplicationError(
        str(error),
        type=type(error).__name__,
        non_retryable=final,
        next_retry_delay=None if final else _delay(error, attempt - 1 if fruitless is None else fruitless),
        category=_category(error),
    )


def _delay(error: DurabertError, fruitless: int) -> timedelta:
    if isinstance(error, (WorkerStopping, RunPaused)):
        return HAND_OVER_DELAY
    # Not by the number of attempts, as the server would: one that got on deserves the next at once.
    return min(LONGEST_DELAY, FIRST_DELAY * float(1 << min(fruitless, 10)))


def _category(error: DurabertError) -> ApplicationErrorCategory:
    # The SDK logs any other failure with its traceback and counts it as one of the worker.
    benign = isinstance(error, (UserError, WorkerStopping, RunPaused))
    return ApplicationErrorCategory.BENIGN if benign else ApplicationErrorCategory.UNSPECIFIED


async def run_child(
    job: Job,
    slots: DeviceSlots,
    *,
    num_devices: int = 1,
    all_devices: bool = False,
    resumable: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> dict[str, Any]:
    """Run a job in a child process on a slot, its progress as heartbeats; gone when this returns or raises.

    Args:
        job: what to run.
        slots: one is waited for and held, or more.
        num_devices: the child sees so many GPUs, each of a slot that it holds.
        all_devices: the child sees every GPU of the worker and not only that of its slot.
        resumable: told to stop, the child commits where it is: it gets the time for that, and is told as soon
            as the worker is, instead of after the time in which other work may finish.
        on_progress: called with each progress that the child reports.

    Raises:
        DurabertError: what the child raised, or how it died.
    """
    async with heartbeats(on_progress) as beats, slots.take(num_devices) as devices:
        named = [device for device in devices if device is not None and not all_devices]
        placed = replace(job, device=",".join(named) or None)
        grace = CHECKPOINT_GRACE if resumable else GRACE
        try:
            async with _ending_with_the_worker(resumable):
                return await supervise(placed, on_event=beats.on_event, grace=grace, stall=STALL_LIMIT)
        except OutOfMemory:
            # The caller may go on at once, in smaller pieces.
            raise
        except (InfrastructureError, UnexpectedError) as error:
            attempt = beats.num_bugs() + 1 if isinstance(error, UnexpectedError) else activity.info().attempt
            raise as_application_error(error, attempt=attempt, fruitless=beats.num_fruitless()) from None


@asynccontextmanager
async def _ending_with_the_worker(wanted: bool) -> AsyncIterator[None]:
    """Cancel what runs inside as soon as the worker begins to shut down."""
    if not wanted:
        yield
        return
    inside = asyncio.current_task()
    assert inside is not None

    async def watch() -> None:
        await activity.wait_for_worker_shutdown()
        inside.cancel()

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
