"""``durabert data``: the snapshots of the artifact store; needs the store and no server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from durabert.cli.options import Json
from durabert.cli.output import print_json, put, say
from durabert.errors import ArtifactDamaged

if TYPE_CHECKING:
    from durabert.specs import DataSpec
    from durabert.store.snapshots import SnapshotStore

app = typer.Typer(help="Snapshots of data sets: add, list, show, verify, diff.", no_args_is_help=True)

Text = Annotated[str | None, typer.Option(help="Text column.")]
Pair = Annotated[str | None, typer.Option(help="Second text column of a pair task.")]
Label = Annotated[str | None, typer.Option(help="Label column.")]
Id = Annotated[str, typer.Argument(help="Id of a snapshot, or its first 8 digits or more.")]


@app.command()
def add(
    source: Annotated[
        str, typer.Argument(help="File, directory with train/validation/test files, or hub id.")
    ],
    validation: Annotated[str | None, typer.Option(help="File with validation rows.")] = None,
    test: Annotated[str | None, typer.Option(help="File with test rows.")] = None,
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--data", metavar="FIELD=VALUE", help="Any other field of the data.")
    ] = None,
    json: Json = False,
) -> None:
    """Take a snapshot; the same content is stored once."""
    from durabert.activities.dataset_jobs import take_snapshot
    from durabert.bert.progress import Reporter
    from durabert.cli.train import assigned

    more = assigned(assignments, option="--data") | {"validation": validation, "test": test}
    spec = _spec(source, text=text, text_pair=text_pair, label=label, **more)
    with _bar("reading rows") as show:
        objects, home = _store()
        progress = Reporter(lambda progress: show(progress.step, None), lambda: False)
        result = take_snapshot(spec, objects, home, progress)
    if json:
        print_json([result.model_dump(mode="json")])
        return
    put(result.snapshot)
    rows = ", ".join(f"{count:,} {split}" for split, count in sorted(result.rows.items()))
    say(f"{result.name}: {rows}; {'stored' if result.created else 'it was there already'}")
    for notice in result.notices:
        say(f"note: {notice}")


@app.command("list")
def list_all(json: Json = False) -> None:
    """List all snapshots."""
    from rich import box
    from rich.table import Table

    snapshots = _snapshots()
    found = []
    for one in snapshots.ids():
        try:
            found.append(_facts(snapshots, one))
        except ArtifactDamaged as error:
            say(f"durabert: {error}")
    if json:
        print_json(found)
    elif not found:
        say("There are no snapshots yet; take one: durabert data add DATA")
    else:
        table = Table(box=box.SIMPLE_HEAD)
        for column in ("snapshot", "name", "rows", "columns", "size"):
            table.add_column(column)
        for facts in found:
            rows = ", ".join(f"{count:,} {split}" for split, count in sorted(facts["rows"].items()))
            size = f"{facts['bytes'] / 2**20:.1f} MiB"
            table.add_row(facts["snapshot"][:12], facts["name"], rows, ", ".join(facts["columns"]), size)
        put(table)


@app.command()
def show(snapshot: Id, json: Json = False) -> None:
    """Show splits, columns, and what was found in the data."""
    snapshots = _snapshots()
    facts = _facts(snapshots, snapshots.resolve(snapshot))
    if json:
        print_json([facts])
        return
    for name, value in facts.items():
        put(f"{name:10} {', '.join(map(str, value)) if isinstance(value, list) else value}")


@app.command()
def verify(
    snapshot: Annotated[str | None, typer.Argument(help="Id of a snapshot; default: all.")] = None,
    json: Json = False,
) -> None:
    """Check every file of one snapshot, or of all, against its digest, and the rows against the id."""
    snapshots = _snapshots()
    ids = snapshots.ids() if snapshot is None else [snapshots.resolve(snapshot)]
    found: list[dict[str, str]] = []
    with _bar("verifying") as report:
        for number, one in enumerate(ids):
            report(number, len(ids))
            found += _verified(snapshots, one)
    if json:
        print_json(found)
    else:
        for line in found:
            put(f"{line['snapshot'][:12]}  {line['state']}  {line['detail']}".rstrip())
    raise typer.Exit(0 if all(line["state"] == "ok" for line in found) else 1)


@app.command()
def diff(
    old: Id,
    new: Id,
    text: Text = None,
    text_pair: Pair = None,
    label: Label = None,
    json: Json = False,
) -> None:
    """Say which rows were added, removed, relabelled, changed in other columns or moved between splits."""
    from durabert.bert.snapshot_diff import compare

    snapshots = _snapshots()
    before, after = (snapshots.fetch(snapshots.resolve(one)) for one in (old, new))
    spec = _spec("snapshot:any", text=text, text_pair=text_pair, label=label)
    difference = asdict(compare(before, after, spec))
    if json:
        print_json([difference])
        return
    for kind, change in difference.items():
        put(f"{change['count']:,} {kind}")
        for example in change["examples"]:
            put(f"  {example}")


def _verified(snapshots: SnapshotStore, snapshot: str) -> Iterator[dict[str, str]]:
    from durabert.bert.snapshots import check_content

    damages: list[str] = []
    try:
        stored = snapshots.stored(snapshot)
        for name in stored.files:
            try:
                snapshots.read(stored, name)
            except ArtifactDamaged as error:
                damages.append(str(error))
    except ArtifactDamaged as error:
        damages.append(str(error))
    if not damages:
        try:
            check_content(snapshots.fetch(snapshot))
        except ArtifactDamaged as error:
            damages.append(str(error))
    if not damages:
        yield {"snapshot": snapshot, "state": "ok", "detail": ""}
    for detail in damages:
        yield {"snapshot": snapshot, "state": "damaged", "detail": detail}


def _spec(source: str, **fields: Any) -> DataSpec:
    from durabert.client.locating import located_data
    from durabert.specs import DataSpec

    given = {name: value for name, value in fields.items() if value is not None}
    return located_data(DataSpec.parse({"source": source, **given}), here=True)


def _store() -> tuple[Any, Path]:
    from durabert.engine import home_directory
    from durabert.store.objects import open_store

    home = home_directory()
    return open_store(None, home=home), home


def _snapshots() -> SnapshotStore:
    from durabert.store.snapshots import SnapshotStore

    objects, home = _store()
    return SnapshotStore(objects, home / "cache")


def _facts(snapshots: SnapshotStore, snapshot: str) -> dict[str, Any]:
    from durabert.bert.snapshots import parse_snapshot

    stored = snapshots.stored(snapshot)
    told = parse_snapshot(snapshots.read(stored, "manifest.json"), snapshot)
    return {
        "snapshot": snapshot,
        "name": told.name,
        "rows": told.rows,
        "columns": list(told.columns),
        "bytes": stored.size,
        "notices": list(told.notices),
    }


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), TextColumn("{task.completed:.0f}"))
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
