"""``durabert predict``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from durabert.cli.render import print_json, print_predictions, say
from durabert.client import Client
from durabert.errors import DataNotFound, TextsInvalid
from durabert.specs import InferenceRequest, InferenceResult


def request_from_options(
    run: str,
    texts: list[str] | None,
    pairs: list[str] | None,
    input_file: Path | None,
    output: Path | None,
    *,
    columns: dict[str, str | None],
    precision: str,
    device: str,
) -> InferenceRequest:
    """Build a request from options.

    Raises:
        UserError: neither texts nor a file, both, or a file that is not there.
    """
    fields: dict[str, Any] = {"run": run, "precision": precision, "device": device}
    if pairs and len(pairs) != len(texts or []):
        raise TextsInvalid(f"{len(texts or [])} texts and {len(pairs)} pairs; each text needs one --pair")
    if texts:
        fields["texts"] = list(zip(texts, pairs, strict=True)) if pairs else texts
    if input_file is not None:
        if not input_file.expanduser().exists():
            raise DataNotFound(f"there is no file {str(input_file)!r} to predict for")
        given = {name: value for name, value in columns.items() if value is not None}
        fields["input"] = {"path": str(input_file.expanduser().resolve()), **given}
    if output is not None:
        fields["output"] = str(output.expanduser().resolve())
    return InferenceRequest.parse(fields)


def run(request: InferenceRequest, *, profile: str | None, as_json: bool) -> None:
    """Predict and print."""
    result = asyncio.run(_run(request, profile))
    if not as_json:
        print_predictions(request, result)
    elif request.input is not None:
        print_json([result.model_dump(mode="json")])
    else:
        print_json(
            {"text": text, **prediction.model_dump(exclude_none=True)}
            for text, prediction in zip(request.texts, result.predictions, strict=True)
        )


async def _run(request: InferenceRequest, profile: str | None) -> InferenceResult:
    async with Client.connect(
        profile=profile, on_starting=lambda: say("Starting the embedded Temporal server ...")
    ) as client:
        return await client.predict(request)
