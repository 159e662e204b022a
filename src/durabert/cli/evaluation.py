"""``durabert eval``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from durabert.cli.follow import follow_evaluation
from durabert.cli.measures import print_evaluation
from durabert.cli.output import print_json, say
from durabert.cli.train import assigned, given
from durabert.client import Client
from durabert.client.locating import located_evaluation
from durabert.client.naming import resolved
from durabert.connection import explicit_profile
from durabert.engine import home_directory
from durabert.errors import ArtifactDamaged, StoreInvalid, StoreUnavailable
from durabert.specs import EvaluationReport, EvaluationRequest, EvaluationResult

if TYPE_CHECKING:
    from pathlib import Path

Worst = list[dict[str, Any]]


def request_from_options(
    run: str,
    data: str,
    *,
    columns: dict[str, str | None],
    options: dict[str, Any],
    assignments: list[str] | None,
    profile: str | None,
) -> EvaluationRequest:
    """Build a request from options.

    Raises:
        UserError: an option is unknown or out of range, or a file is not there.
    """
    fields = {"run": resolved(run, tell=say), "data": {"source": data, **given(columns)}}
    request = EvaluationRequest.parse({**fields, **given(options), **assigned(assignments, option="--set")})
    return located_evaluation(request, here=explicit_profile(profile) is None)


def run(request: EvaluationRequest, *, profile: str | None, as_json: bool) -> int:
    """Evaluate, print, and return the exit code."""
    result = asyncio.run(_run(request, profile))
    if result is None:
        return 130
    report, worst = stored_parts(result, home_directory())
    if as_json:
        document = result.model_dump(mode="json")
        document["report"] = None if report is None else report.model_dump(mode="json")
        print_json([{**document, "worst": worst}])
    else:
        print_evaluation(result, report, worst)
    return 0


def stored_parts(result: EvaluationResult, home: Path) -> tuple[EvaluationReport | None, Worst]:
    """Return what the store says besides; nothing where this machine does not see it."""
    try:
        from durabert.bert.evaluation_tables import read_worst
        from durabert.store.evaluations import WORST, EvaluationStore
        from durabert.store.objects import open_store
    except ImportError:
        # A client alone has neither the store's library nor Parquet.
        return None, []
    try:
        store = EvaluationStore(open_store(None, home=home))
        stored = store.stored(result.run, result.evaluation)
        if stored is None:
            return None, []
        return store.report(stored), read_worst(store.read(stored, WORST))
    except (ArtifactDamaged, StoreInvalid, StoreUnavailable) as error:
        say(f"note: {error}")
        return None, []


async def _run(request: EvaluationRequest, profile: str | None) -> EvaluationResult | None:
    async with Client.connect(
        profile=profile, on_starting=lambda: say("Starting the embedded Temporal server ...")
    ) as client:
        return await follow_evaluation(await client.start_evaluation(request))
