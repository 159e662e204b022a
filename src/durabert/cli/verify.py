"""``durabert verify``: the certificate of a run, from the store alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from durabert.cli.output import print_json, put, say
from durabert.client.naming import resolved
from durabert.engine import home_directory
from durabert.errors import SpecInvalid
from durabert.specs import checked_run

if TYPE_CHECKING:
    from collections.abc import Callable

    from durabert.specs import Progress as JobProgress
    from durabert.specs.audit import Finding


def run(name: str, *, replay_steps: str | None, as_json: bool) -> int:
    """Print what was found and return 1 if anything is damaged or different."""
    steps = None if replay_steps is None else _number(replay_steps)
    name = checked_run(resolved(name, tell=say))
    findings = _findings(name, steps)
    if as_json:
        print_json({"run": name, **finding.model_dump()} for finding in findings)
    else:
        put(table_of(findings))
    return 0 if all(finding.state == "ok" for finding in findings) else 1


def _findings(name: str, steps: int | None) -> list[Finding]:
    from durabert.activities.certificate import certify
    from durabert.store.location import store_url
    from durabert.store.objects import open_store

    home = home_directory()
    objects = open_store(store_url(None, home=home), home=home)
    with Progress(
        TextColumn("{task.description}"), BarColumn(bar_width=24),
        console=Console(stderr=True), transient=True,
    ) as bar:  # fmt: skip
        return list(certify(objects, home, name, replay_steps=steps, report=shown_on(bar)))


def shown_on(bar: Progress) -> Callable[[JobProgress], None]:
    task = bar.add_task("checking digests", total=None)

    def show(progress: JobProgress) -> None:
        what = f"deriving steps anew: {progress.phase}"
        bar.update(task, description=what, completed=progress.step, total=progress.steps or None)

    return show


def table_of(findings: list[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for column in ("what", "state", "detail"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.subject, finding.state, finding.detail)
    return table


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise SpecInvalid(f"--replay-steps is {text!r}, but should be a number of steps from 1")
    return int(text)
