"""What the engine asks of its server, over HTTP: the SDK would triple the memory of the host."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
from collections.abc import Mapping
from typing import Any, Final

from durabert.engine.binary import server_binary
from durabert.engine.processes import only_local
from durabert.errors import EngineUnavailable

NAMESPACE: Final = "default"
RETENTION_SECONDS: Final = 3650 * 24 * 3600
"""Ten years: finished runs are the user's records. start-dev would drop them after one day."""
ANSWER_SECONDS: Final = 5.0
_NAMESPACE_PATH: Final = f"/api/v1/namespaces/{NAMESPACE}"


def answers(http_address: str) -> bool:
    """Say whether a healthy server is at the address."""
    try:
        _call(http_address, "GET", _NAMESPACE_PATH)
    except EngineUnavailable:
        return False
    return True


def keep_finished_runs(http_address: str) -> bool:
    """Raise the retention of a running server to ten years, and return whether it had been less.

    Raises:
        EngineUnavailable: the server did not do it.
    """
    current = _call(http_address, "GET", _NAMESPACE_PATH)["config"]["workflowExecutionRetentionTtl"]
    if float(current.removesuffix("s")) >= RETENTION_SECONDS:
        return False
    config = {"workflowExecutionRetentionTtl": f"{RETENTION_SECONDS}s"}
    _call(http_address, "POST", f"{_NAMESPACE_PATH}/update", {"config": config})
    return True


def register(search_attributes: Mapping[str, str], *, address: str, http_address: str) -> None:
    """Add the search attributes that a running server does not have yet.

    start-dev itself adds them to a new database only, and is silent about it on an old one.

    Args:
        search_attributes: name to type, ``{"DurabertExperiment": "Keyword"}``.
        address: gRPC address of the server.
        http_address: where its HTTP API is.

    Raises:
        EngineUnavailable: one is there with another type, or the server refuses it.
    """
    answer = _call(http_address, "GET", f"{_NAMESPACE_PATH}/search-attributes")
    known = {name: _type_name(kind) for name, kind in answer.get("customAttributes", {}).items()}
    for name, kind in search_attributes.items():
        if known.get(name, _type_name(kind)) != _type_name(kind):
            raise EngineUnavailable(
                f"search attribute {name} is of type {known[name]} in the database, but should be {kind}"
            )
    missing = {name: kind for name, kind in search_attributes.items() if name not in known}
    if missing:
        _create(missing, address=address)


def _create(search_attributes: Mapping[str, str], *, address: str) -> None:
    # The HTTP API has no call for it.
    command = [server_binary(), "operator", "search-attribute", "create"]
    target = ["--address", address, "--namespace", NAMESPACE]
    flags = [flag for name, kind in search_attributes.items() for flag in ("--name", name, "--type", kind)]
    created = subprocess.run(
        [*command, *target, *flags], capture_output=True, text=True, check=False, env=only_local(os.environ)
    )
    if created.returncode:
        problem = " ".join(created.stderr.split())
        names = ", ".join(search_attributes)
        raise EngineUnavailable(f"the Temporal server refuses the search attributes {names}: {problem}")


def _type_name(kind: str) -> str:
    return kind.removeprefix("INDEXED_VALUE_TYPE_").replace("_", "").lower()


def _call(address: str, method: str, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
    connection = http.client.HTTPConnection(address, timeout=ANSWER_SECONDS)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineUnavailable(f"the Temporal server at {address} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != http.client.OK:
        problem = answer.decode(errors="replace")[:300]
        raise EngineUnavailable(f"the Temporal server at {address} answers {method} {path} with: {problem}")
    fields: dict[str, Any] = json.loads(answer)
    return fields
