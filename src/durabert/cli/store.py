"""``durabert store show|gc|verify``: what the artifact store holds, and whether it is what it should be."""

from __future__ import annotations

import math
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durabert.cli.options import Json
from durabert.cli.output import print_json, put, say
from durabert.errors import SpecInvalid

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from durabert.store.garbage import Report
    from durabert.store.objects import ObjectInfo, ObjectStore

app = typer.Typer(help="Look after the artifact store.", rich_markup_mode=None, no_args_is_help=True)

LONGEST_HOURS = 24 * 365 * 100


@app.command()
def show(json: Json = False) -> None:
    """Say where the store is and what it holds; fails if it cannot be read and written."""
    from durabert.store.garbage import Contents

    objects = _opened()
    objects.check()
    contents = Contents.of(objects)
    in_runs = [info for infos in contents.runs.values() for info in infos]
    files = [info for run in contents.runs for info in contents.files_of(run)]
    facts: dict[str, Any] = {
        "store": objects.url,
        "conditional_writes": objects.is_conditional(),
        "snapshots": len(contents.snapshots),
        "runs": len(contents.runs),
        "blobs": len(contents.blobs),
        "blob_bytes": _size(contents.blobs),
        "checkpoint_files": len(files),
        "checkpoint_bytes": _size(files),
        "journal_bytes": _size(in_runs) - _size(files),
    }
    _print(facts, as_json=json)


@app.command()
def gc(
    older_than: Annotated[
        str, typer.Option("--older-than", metavar="HOURS", help="Leave what is younger alone.")
    ] = "24",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    json: Json = False,
) -> None:
    """Delete what no snapshot, result or kept checkpoint needs."""
    from durabert.store.garbage import delete, find_garbage

    objects = _opened()
    garbage = find_garbage(objects, older_than=_hours(older_than))
    for problem in garbage.problems:
        say(f"durabert: {problem}")
    if not dry_run:
        with _bar("deleting") as report:
            delete(objects, garbage, report=report)
    facts = {
        "store": objects.url,
        "deleted": not dry_run,
        "objects": len(garbage.objects) + len(garbage.unfinished),
        "bytes": garbage.size,
        "problems": garbage.problems,
    }
    if json:
        print_json([facts])
        return
    verb = "would be deleted" if dry_run else "deleted"
    put(f"{facts['objects']} objects of {_shown(garbage.size)} {verb} in {objects.url}")


@app.command()
def verify(json: Json = False) -> None:
    """Read everything and compare it with its digests; exit code 1 if anything is damaged."""
    from durabert.store.garbage import verify as findings_of

    objects = _opened()
    with _bar("checking digests") as report:
        findings = list(findings_of(objects, report=report))
    if json:
        print_json({"path": finding.path, "problem": finding.problem} for finding in findings)
    else:
        for finding in findings:
            put(f"{finding.path}: {finding.problem}")
        put(f"{len(findings)} damaged or missing in {objects.url}")
    raise typer.Exit(1 if findings else 0)


def _opened() -> ObjectStore:
    from durabert.engine import home_directory
    from durabert.store.objects import open_store

    return open_store(None, home=home_directory())


def _hours(text: str) -> timedelta:
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 <= hours <= LONGEST_HOURS:
        raise SpecInvalid(f"--older-than is {text!r}, but should be a number of hours from 0")
    return timedelta(hours=hours)


@contextmanager
def _bar(what: str) -> Iterator[Report]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_json([facts])
        return
    for name, value in facts.items():
        shown = _shown(value) if name.endswith("_bytes") else value
        if isinstance(value, bool):
            shown = "yes" if value else "no"
        put(f"{name.replace('_bytes', ' size').replace('_', ' ')}: {shown}")


def _size(infos: Iterable[ObjectInfo]) -> int:
    return sum(info.size for info in infos)


def _shown(size: int) -> str:
    from rich.filesize import decimal

    return decimal(size)
