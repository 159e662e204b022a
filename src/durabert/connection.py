"""How to reach Temporal: by the profile or address that the user gave, if any."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile
from temporalio.service import GrpcCompression, RPCError

from durabert.contract import DEFAULT_TASK_QUEUE
from durabert.errors import EngineUnavailable, SpecInvalid
from durabert.wire import data_converter

CONNECT_LIMIT: Final = timedelta(seconds=10)
"""An address that does not answer for so long is reported."""

ADDRESS: Final = re.compile(r"([\w.-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")

LOCAL: Final = re.compile(r"(127\.[\d.]+|localhost|\[::1\]):")
"""Begin of an address on this machine."""


@dataclass(frozen=True)
class TaskQueues:
    """Where training and inference work is waiting; split them by giving two names."""

    train: str = DEFAULT_TASK_QUEUE
    inference: str = DEFAULT_TASK_QUEUE

    @classmethod
    def from_environment(cls, *, train: str | None = None, inference: str | None = None) -> TaskQueues:
        """Return the given queues, else ``DURABERT_TRAIN_QUEUE`` / ``DURABERT_INFERENCE_QUEUE``, else one."""
        train = train or os.environ.get("DURABERT_TRAIN_QUEUE") or DEFAULT_TASK_QUEUE
        return cls(train=train, inference=inference or os.environ.get("DURABERT_INFERENCE_QUEUE") or train)


def explicit_profile(
    name: str | None = None, *, environment: Mapping[str, str] | None = None
) -> ClientConfigProfile | None:
    """Return the connection profile that the user asked for, or None.

    Asked for is a ``name``, ``TEMPORAL_PROFILE`` or ``TEMPORAL_ADDRESS``; file and variables are those of
    Temporal's own command line.

    Raises:
        SpecInvalid: there is no such profile, or the file cannot be read.
    """
    environment = os.environ if environment is None else environment
    if name is None and not (environment.get("TEMPORAL_PROFILE") or environment.get("TEMPORAL_ADDRESS")):
        return None
    shown = name or environment.get("TEMPORAL_PROFILE") or "default"
    try:
        profile = ClientConfigProfile.load(name, override_env_vars=dict(environment))
    except RuntimeError as error:
        raise SpecInvalid(
            f"connection profile {shown!r} cannot be used: {error}; 'temporal config list' shows those that "
            "there are"
        ) from None
    if not profile.address:
        raise SpecInvalid(f"connection profile {shown!r} has no address; set it, or TEMPORAL_ADDRESS")
    if not ADDRESS.fullmatch(profile.address):
        raise SpecInvalid(
            f"the address of Temporal is {profile.address!r}, but should be HOST:PORT, such as 127.0.0.1:7233"
        )
    return profile


async def connect(profile: ClientConfigProfile) -> Client:
    """Connect to the Temporal service of a profile, with durabert's data converter.

    Raises:
        EngineUnavailable: nothing answers at the address within 10 s, or it refuses.
    """
    config = profile.to_client_connect_config()
    config.setdefault("namespace", "default")
    limit = CONNECT_LIMIT.total_seconds()
    try:
        async with asyncio.timeout(limit):
            return await Client.connect(
                **config, data_converter=data_converter, grpc_compression=_compression(profile.address or "")
            )
    except TimeoutError:
        problem = f"nothing answered within {limit:.0f} s"
    except (RuntimeError, RPCError, ValueError) as error:
        problem = _reason(error)
    raise EngineUnavailable(
        f"no Temporal server can be reached at {profile.address!r}: {problem}; "
        "check TEMPORAL_ADDRESS or the profile, and that the server is up"
    )


def _compression(address: str) -> GrpcCompression:
    # Within a machine it saves nothing, and takes of the processor on both sides of each heartbeat.
    return GrpcCompression.NONE if LOCAL.match(address) else GrpcCompression.GZIP


def _reason(error: Exception) -> str:
    said = str(error).splitlines()[0]
    known = {
        "Connection refused": "the connection was refused",
        "dns error": "there is no host of that name",
    }
    return next((reason for sign, reason in known.items() if sign in said), said)


def plain_profile(address: str, namespace: str = "default") -> ClientConfigProfile:
    """Return a profile for a server without TLS, such as the embedded one."""
    return ClientConfigProfile(address=address, namespace=namespace)
