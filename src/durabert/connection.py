"""How to reach Temporal: by the profile or address that the user gave, if any."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from temporalio.client import Client
from temporalio.envconfig import ClientConfigProfile
from temporalio.service import RPCError

from durabert.contract import DEFAULT_TASK_QUEUE
from durabert.errors import EngineUnavailable, SpecInvalid
from durabert.wire import data_converter

CONNECT_LIMIT: Final = timedelta(seconds=10)
"""An address that does not answer for so long is reported."""


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
    try:
        profile = ClientConfigProfile.load(name, override_env_vars=dict(environment))
    except RuntimeError as error:
        raise SpecInvalid(f"connection profile {name or 'default'!r} cannot be used: {error}") from None
    if not profile.address:
        raise SpecInvalid(f"connection profile {name or 'default'!r} has no address")
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
            return await Client.connect(**config, data_converter=data_converter)
    except TimeoutError:
        raise EngineUnavailable(
            f"no Temporal server answers at {profile.address!r} within {limit:.0f} s"
        ) from None
    except (RuntimeError, RPCError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise EngineUnavailable(f"no Temporal server can be used at {profile.address!r}: {reason}") from None


def plain_profile(address: str, namespace: str = "default") -> ClientConfigProfile:
    """Return a profile for a server without TLS, such as the embedded one."""
    return ClientConfigProfile(address=address, namespace=namespace)
