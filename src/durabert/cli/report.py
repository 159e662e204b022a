"""``durabert report``: one HTML file of an experiment or a run."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from durabert.cli.reading import read_recorded
from durabert.cli.render import print_json, put
from durabert.errors import OutputInUse
from durabert.specs import checked_run

if TYPE_CHECKING:
    from durabert.client.recorded import RecordedExperiment


def run(name: str, *, output: Path | None, profile: str | None, as_json: bool) -> None:
    """Write the report and say where it is."""
    target = (output or Path(f"{checked_run(name)}.html")).absolute()
    _require_place(target)
    experiment = asyncio.run(read_recorded(name, profile))
    size = _write(experiment, target)
    if as_json:
        runs = [one.run for one in experiment.runs]
        print_json([{"output": str(target), "bytes": size, "name": experiment.name, "runs": runs}])
        return
    put(f"{target}  {size / 2**20:.1f} MiB")


def _write(experiment: RecordedExperiment, target: Path) -> int:
    from durabert.bert.atomic import appearing
    from durabert.report.page import page_of

    document = page_of(experiment).encode()
    try:
        with appearing(target) as partial:
            partial.write_bytes(document)
    except OSError as error:
        raise OutputInUse(f"output {str(target)!r} cannot be written: {error.strerror}") from None
    return len(document)


def _require_place(target: Path) -> None:
    from durabert.report.page import is_report

    if target.is_dir():
        raise OutputInUse(f"output {str(target)!r} is a directory, but should be a file")
    if not target.parent.is_dir():
        raise OutputInUse(f"output directory {str(target.parent)!r} does not exist; create it first")
    if not target.exists():
        return
    with target.open("rb") as file:
        if not is_report(file.read(4096)):
            raise OutputInUse(f"output {str(target)!r} is there and is no report; choose another name")
