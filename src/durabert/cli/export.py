"""``durabert export``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from durabert.cli.follow import follow_export
from durabert.cli.output import print_json, say
from durabert.cli.render import print_export
from durabert.client import Client
from durabert.client.locating import located_export
from durabert.client.naming import resolved
from durabert.connection import explicit_profile
from durabert.errors import SpecInvalid
from durabert.specs import ExportRequest, ExportResult


def request_from_options(
    run: str, *, form: str, output: Path, data: str | None, label: str | None, profile: str | None
) -> ExportRequest:
    """Build a request from options.

    Raises:
        UserError: there is no such format, a label column without data, or a file that is not there.
    """
    fields: dict[str, Any] = {"run": resolved(run, tell=say), "format": form, "output": str(output)}
    if data is not None:
        fields["data"] = {"source": data, "label": label}
    elif label is not None:
        raise SpecInvalid(f"label is {label!r}, but only --data has columns")
    return located_export(ExportRequest.parse(fields), here=explicit_profile(profile) is None)


def run(request: ExportRequest, *, profile: str | None, as_json: bool) -> int:
    """Export, print, and return the exit code."""
    result = asyncio.run(_run(request, profile))
    if result is None:
        return 130
    if as_json:
        print_json([result.model_dump(mode="json")])
    else:
        print_export(result)
    return 0


async def _run(request: ExportRequest, profile: str | None) -> ExportResult | None:
    async with Client.connect(
        profile=profile, on_starting=lambda: say("Starting the embedded Temporal server ...")
    ) as client:
        return await follow_export(await client.start_export(request))
