"""How long garbage collection and verification take with the size of a store in a directory."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from durabert.specs import CheckpointPolicy
from durabert.store.attempts import Attempt
from durabert.store.blobs import Blobs
from durabert.store.checkpoints import CURVE_FILE
from durabert.store.garbage import delete, find_garbage, verify
from durabert.store.objects import ObjectStore, open_store

GIGABYTES = (1, 3, 10)
CHECKPOINT_BYTES = 250_000_000
"""Weights and two moments of the 22 million parameters of MiniLM, in float32."""
NUM_CHECKPOINTS = 4
"""Of a run, all kept."""
ROOM = 1.2
"""Free disk that is asked for, as a multiple of what is written."""


def measure() -> dict[str, object]:
    """Seconds of both, a tenth of the bytes being garbage; what does not fit on the disk is left out."""
    return {f"{size}_gb": _figures(size * 10**9) for size in GIGABYTES if _fits(size * 10**9)}


def _fits(size: int) -> bool:
    return shutil.disk_usage(tempfile.gettempdir()).free > size * ROOM


def _figures(size: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory() as directory:
        home = Path(directory)
        objects = open_store(str(home / "store"), home=home)
        began = time.perf_counter()
        _fill(objects, size)
        filled = time.perf_counter() - began
        _drop_from_memory(home)
        seconds, findings = _timed(lambda: list(verify(objects)))
        assert findings == []
        find_seconds, garbage = _timed(lambda: find_garbage(objects, older_than=timedelta(0)))
        delete_seconds, _ = _timed(lambda: delete(objects, garbage))
        return {
            "objects": sum(1 for top in ("blobs", "runs") for _ in objects.list(top)),
            "garbage_gb": round(garbage.size / 10**9, 2),
            "fill_seconds": round(filled, 2),
            "verify_seconds": round(seconds, 2),
            "gc_find_seconds": round(find_seconds, 3),
            "gc_delete_seconds": round(delete_seconds, 3),
        }


def _fill(objects: ObjectStore, size: int) -> None:
    for number in range(max(1, round(size * 0.9 / CHECKPOINT_BYTES / NUM_CHECKPOINTS))):
        attempt = Attempt.begin(
            objects, f"run{number}", identity="i", execution="here", temporal_attempt=1,
            policy=CheckpointPolicy(keep_last=NUM_CHECKPOINTS), environment={},
        )  # fmt: skip
        for step in range(1, NUM_CHECKPOINTS + 1):
            files = [(f"part{part}", secrets.token_bytes(CHECKPOINT_BYTES // 5)) for part in range(5)]
            attempt.commit(step=step, best_epoch=None, files=[*files, (CURVE_FILE, os.urandom(20_000))])
        attempt.end("RunCancelled", "cancelled")
    for _ in range(max(1, round(size * 0.1 / 10**7))):
        Blobs(objects).put(secrets.token_bytes(10**7))


def _drop_from_memory(directory: Path) -> None:
    for path in directory.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(work):
    began = time.perf_counter()
    done = work()
    return time.perf_counter() - began, done
