"""``durabert predict``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from durabert.cli.follow import follow_prediction
from durabert.cli.output import print_json, say
from durabert.cli.render import print_predictions
from durabert.client import Client
from durabert.client.locating import located_request
from durabert.client.naming import resolved
from durabert.connection import explicit_profile
from durabert.errors import SpecInvalid, TextsInvalid
from durabert.specs import InferenceRequest, InferenceResult


def request_from_options(
    run: str,
    texts: list[str] | None,
    pairs: list[str] | None,
    input_file: Path | None,
    output: str | None,
    *,
    columns: dict[str, str | None],
    precision: str,
    device: str,
    engine: str,
    profile: str | None,
) -> InferenceRequest:
    """Build a request from options.

    Raises:
        UserError: neither texts nor a file, both, a text that is empty, or a file that is not there.
    """
    fields: dict[str, Any] = {
        "run": resolved(run, tell=say),
        "precision": precision,
        "device": device,
        "engine": engine,
    }
    given = {name: value for name, value in columns.items() if value is not None}
    if texts:
        fields["texts"] = _inline(texts, pairs or [])
    elif pairs:
        raise TextsInvalid(f"{len(pairs)} --pair and no texts; give a text for each")
    if input_file is not None:
        fields["input"] = {"path": str(input_file), **given}
    elif given:
        name = next(iter(given))
        raise SpecInvalid(f"{name} is {given[name]!r}, but only an --input file has columns")
    if output is not None:
        fields["output"] = output
    return located_request(InferenceRequest.parse(fields), here=explicit_profile(profile) is None)


def _inline(texts: list[str], pairs: list[str]) -> list[str] | list[tuple[str, str]]:
    for number, text in enumerate([*texts, *pairs], start=1):
        if not text.strip():
            raise TextsInvalid(f"text {number} is {text!r}, but should have at least one word")
    if not pairs:
        return texts
    if len(pairs) != len(texts):
        raise TextsInvalid(f"{len(texts)} texts and {len(pairs)} pairs; each text needs one --pair")
    return list(zip(texts, pairs, strict=True))


def run(request: InferenceRequest, *, profile: str | None, as_json: bool) -> int:
    """Predict, print, and return the exit code."""
    result = asyncio.run(_run(request, profile))
    if result is None:
        return 130
    if not as_json:
        print_predictions(request, result)
    elif request.input is not None:
        print_json([result.model_dump(mode="json")])
    else:
        print_json(
            {"text": text, **prediction.model_dump(exclude_none=True)}
            for text, prediction in zip(request.texts, result.predictions, strict=True)
        )
    return 0


async def _run(request: InferenceRequest, profile: str | None) -> InferenceResult | None:
    async with Client.connect(
        profile=profile, on_starting=lambda: say("Starting the embedded Temporal server ...")
    ) as client:
        return await follow_prediction(await client.start_prediction(request))
