"""The report of an audit, as a reviewer keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from durabert.specs import AttemptRecord, FineTuneResult
    from durabert.specs.audit import AuditReport, HistoryRecord

MARKS = {"ok": "holds", "damaged": "**damaged**", "different": "**different**", "gone": "not shown"}


def facts_of(run: str, record: HistoryRecord | None, stored: FineTuneResult | None) -> dict[str, str]:
    """Return what was run on what, as far as the history and the store say."""
    facts = {"run": run}
    if record is not None:
        facts |= _of_record(record)
    result = stored if stored is not None or record is None else record.result
    if result is not None:
        facts |= _of_result(result)
    return {name: text for name, text in facts.items() if text}


def markdown(report: AuditReport) -> str:
    """Return the report as Markdown."""
    bad = [finding for finding in report.findings if finding.state in {"damaged", "different"}]
    holds = "**The record holds.** " if report.holds else "**The record does not hold.** "
    counted = f"{len(report.findings)} checks, {len(bad)} failed, {len(report.unproven)} could not be made."
    return "\n".join(
        [
            f"# Audit of run {report.run}",
            "",
            f"{holds}{counted}",
            "",
            f"{report.audited}, by {report.audited_by}, durabert {report.version}, store `{report.store}`.",
            "",
            "## What was run on what",
            "",
            *_table(("", ""), report.facts.items()),
            "",
            "## What was checked",
            "",
            *_table(
                ("what", "", "found"),
                ((finding.subject, MARKS[finding.state], finding.detail) for finding in report.findings),
            ),
        ]
    )


def _of_record(record: HistoryRecord) -> dict[str, str]:
    error = "" if record.error is None else f": {record.error.type}, {record.error.message}"
    return {
        "status": f"{record.status}{error}",
        "workflow": f"{record.workflow_type} {record.workflow_id}, execution {record.execution}, "
        f"namespace {record.namespace}",
        "started": record.started,
        "ended": record.ended or "",
        "started by": record.started_by or "",
        "client": record.client,
        "worker": record.worker or "",
    }


def _of_result(result: FineTuneResult) -> dict[str, str]:
    facts = {
        "linked to": result.reused_from or "",
        "began from": "" if result.parent is None else f"{result.parent.run}@{result.parent.step}",
        "snapshot": result.snapshot or "none: read from the source",
        "data sha256": result.data_sha256,
        "rows": f"{result.rows.train} train, {result.rows.validation} validation, {result.rows.test} test",
        "task": f"{result.task}: {', '.join(result.labels)}",
        "base model": result.model,
        "configuration": result.config.model_dump_json(exclude_none=True),
        "seed": str(result.config.seed),
        "device": f"{result.device}, {result.precision}, {result.num_threads} threads, "
        f"{result.num_processes} processes, deterministic: {'yes' if result.deterministic else 'no'}",
        "versions": ", ".join(f"{name} {version}" for name, version in result.versions.items()),
        "attempts": "; ".join(map(_attempt, result.attempt_log)) or str(result.attempts),
        "steps": f"{result.steps} in {result.epochs} epochs; epoch {result.best_epoch} was kept",
        "metrics": ", ".join(f"{name} {value:.6g}" for name, value in result.metrics.items()),
        "weights sha256": result.model_sha256,
        "state sha256": result.state_sha256 or "",
    }
    if result.lineage is not None:
        lineage = result.lineage
        facts |= {
            "base model sha256": lineage.base_model_sha256,
            "code sha256": lineage.code_sha256,
            "inputs sha256": lineage.inputs_sha256,
            "hardware": ", ".join(lineage.hardware.values()),
            "started by": lineage.started_by or "",
            "reproduces": lineage.reproduces or "",
        }
    return facts


def _attempt(one: AttemptRecord) -> str:
    start = "" if one.resumed_from is None else f" from step {one.resumed_from}"
    return f"{one.number}{start} on {one.worker} at {one.started}: {one.ended or 'completed'}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *rows]
    # Either would end the cell of a table.
    cells = ([" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in lines)
    return [f"| {' | '.join(line)} |" for line in cells]
