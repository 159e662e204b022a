"""Which run was trained on which inputs: one object for each digest of inputs, created and not changed."""

from __future__ import annotations

import json
import re
from typing import Final

from durabert.errors import NameInvalid
from durabert.specs import checked_run
from durabert.store.objects import ObjectExists, ObjectMissing, ObjectStore

FORMAT: Final = 1
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


class InputIndex:
    """The trained runs of a store by the digest of their inputs."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    def run_of(self, inputs_sha256: str) -> str | None:
        """Return the run that was trained on these inputs; None: nobody knows of one."""
        try:
            data = self._objects.read(_path(inputs_sha256))
        except ObjectMissing:
            return None
        try:
            return checked_run(str(json.loads(data)["run"]))
        except (ValueError, KeyError, TypeError, NameInvalid):
            # It only saves work: an entry that cannot be read is none.
            return None

    def remember(self, inputs_sha256: str, run: str) -> None:
        """Note the run that was trained on these inputs; the first one stays."""
        entry = json.dumps({"format": FORMAT, "run": checked_run(run)}, sort_keys=True).encode()
        try:
            self._objects.create(_path(inputs_sha256), entry)
        except ObjectExists:
            return

    def forget(self, inputs_sha256: str) -> None:
        """Remove an entry that leads to nothing whole."""
        self._objects.delete([_path(inputs_sha256)])


def _path(inputs_sha256: str) -> str:
    assert _DIGEST.fullmatch(inputs_sha256)
    return f"inputs/{inputs_sha256}.json"
