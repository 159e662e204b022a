"""Reading what is recorded of an experiment, with a bar while it takes long."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from durabert.client.recorded import recorded
from durabert.engine import home_directory
from durabert.store.objects import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durabert.client import Client
    from durabert.client.recorded import RecordedExperiment


async def read_recorded(client: Client, name: str) -> RecordedExperiment:
    """Return what the server and this machine's store have of an experiment or a run."""
    objects = open_store(None, home=home_directory())
    with reading_bar() as show:
        return await recorded(client, objects, name, on_run=show)


@contextmanager
def reading_bar() -> Iterator[Callable[[int, int], None]]:
    """Show how many runs have been read."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.completed:.0f} of {task.total:.0f} runs"),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("reading", total=1)
        yield lambda done, total: bar.update(task, completed=done, total=total)
