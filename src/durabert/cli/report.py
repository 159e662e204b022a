"""``durabert report``: one HTML file of an experiment, a run or a sweep."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from durabert.cli.output import print_json, put, say
from durabert.cli.reading import read_recorded
from durabert.client import Client
from durabert.client.sweeps import NOBODY_ANSWERS, sweep_spec
from durabert.errors import OutputInUse, RunNotFound, RunNotUsable
from durabert.specs import checked_run

if TYPE_CHECKING:
    from durabert.client import SweepView
    from durabert.client.recorded import RecordedExperiment
    from durabert.specs import SweepSpec


def run(name: str, *, output: Path | None, profile: str | None, as_json: bool) -> None:
    """Write the report and say where it is."""
    target = (output or Path(f"{checked_run(name)}.html")).absolute()
    _require_place(target)
    found = asyncio.run(_read(name, profile))
    runs = [one.run for one in found.runs] if not isinstance(found, tuple) else _trials(*found)
    size = _write(_page(found).encode(), target)
    if as_json:
        print_json([{"output": str(target), "bytes": size, "name": name, "runs": runs}])
        return
    put(f"{target}  {size / 2**20:.1f} MiB")


async def _read(name: str, profile: str | None) -> RecordedExperiment | tuple[SweepView, SweepSpec]:
    """Return what the server says of a sweep; of all else, and where nobody says it, what is recorded."""
    async with Client.connect(profile=profile, worker=False) as client:
        sweep = await client.sweep(name)
        if sweep is None:
            return await read_recorded(client, name)
        view = await sweep.view()
        if view.phase != NOBODY_ANSWERS:
            return view, await sweep_spec(sweep)
        why = f"{name} is {view.status}, and no worker tells how far it is"
        try:
            experiment = await read_recorded(client, name)
        except RunNotFound:
            raise RunNotUsable(f"{why}; the store has none of its trials") from None
        say(f"{why}: the report has what the store has of its trials.")
        return experiment


def _trials(view: SweepView, spec: SweepSpec) -> list[str]:
    return [spec.run_name(trial.number) for trial in view.trials]


def _page(found: RecordedExperiment | tuple[SweepView, SweepSpec]) -> str:
    from durabert.report.page import page_of
    from durabert.report.sweep_page import sweep_page

    return sweep_page(*found) if isinstance(found, tuple) else page_of(found)


def _write(document: bytes, target: Path) -> int:
    from durabert.bert.atomic import appearing

    try:
        with appearing(target) as partial:
            partial.write_bytes(document)
    except OSError as error:
        raise OutputInUse(f"output {str(target)!r} cannot be written: {error.strerror}") from None
    return len(document)


def _require_place(target: Path) -> None:
    from durabert.report.document import is_report

    if target.is_dir():
        raise OutputInUse(f"output {str(target)!r} is a directory, but should be a file")
    if not target.parent.is_dir():
        raise OutputInUse(f"output directory {str(target.parent)!r} does not exist; create it first")
    if not target.exists():
        return
    with target.open("rb") as file:
        if not is_report(file.read(4096)):
            raise OutputInUse(f"output {str(target)!r} is there and is no report; choose another name")
