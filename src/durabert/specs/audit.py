"""What an audit reads of a history and what it finds."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from durabert.specs.base import ErrorInfo, Wire
from durabert.specs.experiment import RunStatus
from durabert.specs.training import FineTuneRequest, FineTuneResult


class HistoryRecord(Wire):
    """What the history of an experiment says of one of its runs."""

    workflow_id: str
    """The experiment."""
    workflow_type: str
    """Which pattern."""
    execution: str
    """Id of the execution of the workflow."""
    namespace: str
    """Of the Temporal server."""
    num_events: int
    """Length of the history."""
    started: str
    """When, ISO 8601 in UTC."""
    ended: str | None
    """When, ISO 8601 in UTC; none: it goes on."""
    status: RunStatus
    """Of the run."""
    started_by: str | None
    """User and host that the client told; none: an older client."""
    client: str
    """Process and host of the client, as the server knows it."""
    worker: str | None
    """Process and host of the worker that had it last."""
    replays: bool
    """Whether the workflow code of today decides again as it did."""
    difference: str | None = None
    """Where it first decides otherwise."""
    request: FineTuneRequest | None = None
    """What the workflow asked its activity for; none: it never began."""
    snapshot: str | None = None
    """The snapshot that the workflow has taken; none: it takes none."""
    result: FineTuneResult | None = None
    """What the activity returned; none: it did not complete."""
    error: ErrorInfo | None = None
    """Why it failed."""


class Finding(Wire):
    """One line of a certificate or of an audit."""

    subject: str
    """What was looked at."""
    state: Literal["ok", "damaged", "different", "gone"]
    """``gone``: what would prove it is not there any more, or not here."""
    detail: str
    """What was found."""


class AuditReport(Wire):
    """What was run on what, and what of it could be proven."""

    run: str
    """Full name of the run."""
    audited: str
    """When, ISO 8601 in UTC."""
    audited_by: str
    """User and host."""
    version: str
    """Version of durabert that has looked."""
    store: str
    """The artifact store."""
    facts: dict[str, str] = Field(default_factory=dict)
    """What was run on what, by name, in the order of reading."""
    findings: list[Finding]
    """Each check."""

    @property
    def holds(self) -> bool:
        """Whether nothing contradicts the record."""
        return all(finding.state in {"ok", "gone"} for finding in self.findings)

    @property
    def unproven(self) -> list[Finding]:
        """What could not be looked at."""
        return [finding for finding in self.findings if finding.state == "gone"]
