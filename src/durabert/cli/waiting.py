"""How a command waits for an end, and what Ctrl-C does meanwhile: it detaches, or it cancels."""

from __future__ import annotations

import asyncio
import signal
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias, TypeVar

from durabert.cli.output import say

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterator

    from durabert.client import Client

Value = TypeVar("Value")
Presses: TypeAlias = "asyncio.Queue[None]"

SECOND_CHANCE: Final = timedelta(seconds=3)
"""How long a second Ctrl-C is waited for after the first."""

SHOW_INTERVAL: Final = timedelta(seconds=0.5)
"""How often the progress of what is followed is asked for."""


async def until_interrupted(
    ending: Coroutine[Any, Any, Value], then: Callable[[Presses], Awaitable[None]]
) -> Value | None:
    """Wait for an end; at Ctrl-C wait no longer, do ``then``, and return None.

    Args:
        ending: returns or raises what it came to.
        then: gets the presses of Ctrl-C after the first.
    """
    with _presses() as pressed:
        waiting = asyncio.create_task(ending)
        interrupted = asyncio.create_task(pressed.get())
        await asyncio.wait({waiting, interrupted}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            interrupted.cancel()
            return waiting.result()
        waiting.cancel()
        await asyncio.wait({waiting})
        await then(pressed)
        return None


async def until_detached(
    client: Client, name: str, ending: Coroutine[Any, Any, Value], *, cancel: Callable[[], Awaitable[None]]
) -> Value | None:
    """Wait for an end; a Ctrl-C detaches and returns None, a second one soon after also cancels."""

    async def detach(pressed: Presses) -> None:
        say(f"Detached. {how_to_go_on(client, name)}")
        say(f"Press Ctrl-C again within {SECOND_CHANCE.seconds} s to cancel it now.")
        try:
            async with asyncio.timeout(SECOND_CHANCE.total_seconds()):
                await pressed.get()
        except TimeoutError:
            return
        say(f"Cancelling {name!r} ...")
        await cancel()

    return await until_interrupted(ending, detach)


async def with_progress(ending: Awaitable[Value], show: Coroutine[Any, Any, None]) -> Value:
    """Wait for an end and show progress meanwhile."""
    showing = asyncio.create_task(show)
    try:
        return await ending
    finally:
        showing.cancel()
        await asyncio.wait({showing})


def how_to_go_on(client: Client, name: str) -> str:
    """Say what becomes of an experiment that nobody follows any more."""
    if client.engine is None:
        return f"It goes on. Watch it: durabert watch {name}   Cancel it: durabert cancel {name}"
    return (
        f"It goes on while the engine is up ('durabert up' keeps it up). "
        f"Go on and watch it: durabert watch {name}   Cancel it: durabert cancel {name}"
    )


@contextmanager
def _presses() -> Iterator[Presses]:
    """Turn each Ctrl-C into an item of a queue."""
    queue: Presses = asyncio.Queue()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, queue.put_nowait, None)
    try:
        yield queue
    finally:
        loop.remove_signal_handler(signal.SIGINT)
