"""``durabert audit``: what was run on what, proven from Temporal's history and the store."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from durabert.cli.audit_report import facts_of, markdown
from durabert.cli.output import print_json, put, say
from durabert.cli.verify import shown_on
from durabert.client import Client
from durabert.client.auditing import history_record
from durabert.client.identity import who
from durabert.client.naming import resolved
from durabert.engine import home_directory
from durabert.errors import OutputInUse
from durabert.specs import checked_run
from durabert.specs.audit import AuditReport, HistoryRecord
from durabert.version import __version__

if TYPE_CHECKING:
    from durabert.specs import FineTuneResult
    from durabert.specs.audit import Finding


def run(name: str, *, output: Path | None, profile: str | None, as_json: bool) -> int:
    """Print the report, or write it, and return 1 if anything contradicts the record."""
    name = checked_run(resolved(name, tell=say))
    if output is not None and not output.parent.is_dir():
        raise OutputInUse(f"output directory {str(output.parent)!r} does not exist; create it first")
    record = asyncio.run(_record(name, profile))
    report = _audited(name, record)
    text = markdown(report)
    if output is not None:
        try:
            output.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputInUse(f"output {str(output)!r} cannot be written: {error.strerror}") from None
    if as_json:
        document: dict[str, Any] = report.model_dump(mode="json") | {"holds": report.holds}
        print_json([document])
    else:
        put(text if output is None else f"{output}: {verdict(report)}")
    return 0 if report.holds else 1


def verdict(report: AuditReport) -> str:
    """Say in a few words what has come of an audit."""
    bad = [finding for finding in report.findings if finding.state in {"damaged", "different"}]
    if bad:
        first = f"{bad[0].subject}, {bad[0].detail}"
        return f"{len(bad)} of {len(report.findings)} checks failed, the first: {first}"
    open_ = f", {len(report.unproven)} could not be made" if report.unproven else ""
    return f"nothing contradicts the record in {len(report.findings) - len(report.unproven)} checks{open_}"


async def _record(name: str, profile: str | None) -> HistoryRecord | None:
    async with Client.connect(profile=profile, worker=False) as client:
        return await history_record(client, name)


def _audited(name: str, record: HistoryRecord | None) -> AuditReport:
    from durabert.activities.audit import audited, stored_result
    from durabert.store.objects import open_store

    home = home_directory()
    objects = open_store(None, home=home)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        findings: list[Finding] = list(audited(objects, home, name, record, report=shown_on(bar)))
    result: FineTuneResult | None = stored_result(objects, name)
    return AuditReport(
        run=name,
        audited=datetime.now(UTC).isoformat(timespec="seconds"),
        audited_by=who(),
        version=__version__,
        store=objects.url,
        facts=facts_of(name, record, result),
        findings=findings,
    )
