"""A worker process: hosts workflows and activities until it is told to stop."""

from __future__ import annotations

import asyncio
import signal
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import TYPE_CHECKING

from temporalio.worker import Worker

from durabert import supervisor
from durabert.activities.devices import DeviceSlots
from durabert.plugin import DurabertPlugin
from durabert.store.objects import open_store
from durabert.store.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from temporalio.client import Client


async def run_worker(
    client: Client,
    *,
    home: Path,
    queues: Sequence[str],
    num_slots: int | None = None,
    drain: timedelta = timedelta(seconds=10),
    on_ready: Callable[[list[str], int], None] | None = None,
) -> None:
    """Work on the queues until SIGTERM or SIGINT, then drain.

    Args:
        client: connected to the namespace to work for.
        home: the worker's home directory: runs are written there.
        queues: the task queues to work on; one worker is started for each distinct name.
        num_slots: runs that may train at once; default one a GPU, else one.
        drain: how long running activities may take to finish after the signal; what is then still running is
            stopped and handed over to another worker at once.
        on_ready: called with the queue names and the number of slots.

    Raises:
        StoreInvalid: the artifact store cannot be read and written.
    """
    await asyncio.to_thread(open_store(None, home=home).check)
    RunStore(home).sweep()
    names = list(dict.fromkeys(queues))
    stop = _stop_signals()
    try:
        async with AsyncExitStack() as workers:
            for name in names:
                slots = DeviceSlots.detect(num_slots)
                plugin = DurabertPlugin(home=home, slots=slots)
                worker = Worker(client, task_queue=name, plugins=[plugin], graceful_shutdown_timeout=drain)
                await workers.enter_async_context(worker)
            if on_ready:
                on_ready(names, slots.num_slots)
            await stop.wait()
    finally:
        supervisor.shut_down()


def _stop_signals() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    return stop
