"""What jobs in a child process share: where they work, what they tell, how they stop. Needs no torch."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from durabert.bert.progress import Reporter, Stopped
from durabert.errors import RunNotFound, WorkerStopping
from durabert.specs import FineTuneResult, Progress, Wire
from durabert.store.objects import ObjectStore, open_store
from durabert.store.results import ResultStore
from durabert.store.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from durabert.supervisor import Channel


class ChildJob(Wire):
    """What the child needs whatever it does; each job adds what the workflow asked for."""

    home: Path
    """The worker's home directory."""
    store: str
    """URL or path of the artifact store."""

    def objects(self) -> ObjectStore:
        """Open the artifact store."""
        return open_store(self.store, home=self.home)


@contextmanager
def stoppable() -> Iterator[None]:
    """Turn a stop that was asked for into the error that hands the work over."""
    # A stop that was asked for is no fault, of which the worker's log would show a traceback.
    try:
        yield
    except Stopped:
        raise WorkerStopping("it was asked to stop") from None


def reporter(channel: Channel) -> Callable[[Progress], None]:
    """Return what passes the progress of a job on to the worker."""

    def report(progress: Progress) -> None:
        channel.report("progress", progress.model_dump(mode="json"))

    return report


def progress_to(channel: Channel) -> Reporter:
    """Return what says how far a job is, and stops it where the worker asks for that."""
    return Reporter(reporter(channel), channel.stop_requested)


def fetch_run(objects: ObjectStore, run: str, home: Path) -> FineTuneResult | None:
    """Return the result of a finished run, its model fetched to this home; None if it is not finished."""
    local = RunStore(home).result(run)
    if local is not None:
        return local
    results = ResultStore(objects)
    stored = results.result(run)
    if stored is None:
        return None
    results.fetch(stored, home)
    return RunStore(home).result(run)


def finished_run(objects: ObjectStore, run: str, home: Path) -> FineTuneResult:
    """Return the result of a finished run, its model fetched to this home.

    Raises:
        RunNotFound: it is not finished, or there is none of that name.
    """
    found = fetch_run(objects, run, home)
    if found is None:
        raise RunNotFound(run)
    return found
