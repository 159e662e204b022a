"""A worker whose model is a stub that takes the same time for each row: ``python -m benchmarks.batch_stub``.

All else is as in ``durabert worker``: the child processes, the reading of row ranges, the Parquet files.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from durabert.activities import batch_jobs, inference
from durabert.connection import connect, plain_profile
from durabert.worker import run_worker

SECONDS_A_ROW = 1e-4
"""Some twelve times as fast as MiniLM on two cores, so that what is not the model shows."""


@dataclass(frozen=True)
class StubTokens:
    num_truncated: int = 0


class StubPredictor:
    """In place of ``Predictor``: waits, and finds both labels equally probable."""

    def logits(
        self, texts: Sequence[str], pairs: object, *, on_batch: Callable[[], None]
    ) -> tuple[StubTokens, np.ndarray]:
        assert pairs is None
        on_batch()
        time.sleep(len(texts) * SECONDS_A_ROW)
        return StubTokens(), np.zeros((len(texts), 2), np.float32)

    def usage(self) -> dict[str, Any]:
        return {"device": "stub", "precision": "fp32"}


def score(payload: dict[str, Any], channel: Any) -> dict[str, Any]:
    """Score a shard with the stub; the entry of the child process."""
    return batch_jobs.score_with(lambda *_, **__: StubPredictor(), payload, channel)


async def serve(address: str, home: Path, queue: str) -> None:
    client = await connect(plain_profile(address))
    with mock.patch.object(inference, "SCORE_SHARD", "benchmarks.batch_stub:score"):
        await run_worker(client, home=home, queues=[queue], num_slots=1)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
