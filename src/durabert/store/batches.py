"""The output of a batch: a directory or a prefix of a bucket, in which every file is created once.

Layout below the output::

    plan.json                                        created first: whose output it is
    predictions/000000000000-000000049999.parquet    one file a shard, sorted by row
    errors/000000000000-000000049999.parquet         rows of it that could not be scored, if there are any
    shards/000000000000-000000049999.json            created last of a shard: its commit point
    result.json                                      created last of all: the commit point of the batch
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from durabert.errors import ArtifactDamaged, StoreInvalid, TextsInvalid
from durabert.faults import reach
from durabert.specs import RowRange, ShardFacts, ShardFile, ShardPlan, ShardRecord
from durabert.store.local import unfinished_files
from durabert.store.objects import PROBES, ObjectExists, ObjectMissing, ObjectStore, open_store

PLAN: Final = "plan.json"
RESULT: Final = "result.json"
NUM_READERS: Final = 16
"""Records of shards that are read at once: each is small, and far away on S3."""
_RECORD: Final = re.compile(r"shards/(\d{12})-(\d{12})\.json")


class BatchOutput:
    """The output of one batch.

    Args:
        objects: the directory or the prefix.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    @classmethod
    def open(cls, output: str, *, home: Path) -> BatchOutput:
        """Open an output to write to; a directory is made, not those above it.

        Raises:
            StoreInvalid: it cannot be written, or its URL is wrong.
            TextsInvalid: it is a file.
        """
        if output.startswith("memory:"):
            raise StoreInvalid(f"output {output!r} would be gone with the process that writes it")
        directory = None if "://" in output else Path(output)
        if directory is not None and directory.exists() and not directory.is_dir():
            raise TextsInvalid(f"output {output!r} is a file, but should be a directory")
        objects = open_store(output, home=home)
        if objects.root is None:
            objects.check()
        elif not os.access(objects.root, os.W_OK | os.X_OK):
            raise StoreInvalid(f"output {output!r} cannot be written: Permission denied")
        return cls(objects)

    @classmethod
    def is_new(cls, output: str) -> bool:
        """Return whether an output is a directory that is not there yet."""
        return "://" not in output and not Path(output).exists()

    def plan(self) -> tuple[ShardPlan, str] | None:
        """Return the plan of the batch that has this output, and its digest; none: nobody's.

        Raises:
            ArtifactDamaged: it cannot be read.
            TextsInvalid: there is no plan, and something else.
        """
        try:
            data = self._objects.read(PLAN)
        except ObjectMissing:
            self._require_empty()
            return None
        try:
            return ShardPlan.model_validate_json(data, extra="ignore"), hashlib.sha256(data).hexdigest()
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise ArtifactDamaged(f"{PLAN} in {self._objects.url} cannot be read: {reason:.120}") from None

    def _require_empty(self) -> None:
        for info in self._objects.list():
            # Somebody else may just be trying the store.
            if not info.path.startswith(f"{PROBES}/"):
                raise TextsInvalid(
                    f"output {self._objects.url!r} holds other things, such as {info.path!r}; choose a new "
                    "or an empty directory"
                )

    def claim(self, plan: ShardPlan) -> tuple[ShardPlan, str]:
        """Write a plan, and return it with its digest; or that of who was faster."""
        with contextlib.suppress(ObjectExists):
            self._objects.create(PLAN, plan.model_dump_json(indent=1).encode())
        there = self.plan()
        if there is None:
            raise ArtifactDamaged(f"{PLAN} in {self._objects.url} is gone")
        return there

    def planned(self, plan_sha256: str) -> ShardPlan:
        """Return the plan of that digest.

        Raises:
            ArtifactDamaged: there is none, or another one.
        """
        there = self.plan()
        if there is None or there[1] != plan_sha256:
            found = "none" if there is None else there[1]
            raise ArtifactDamaged(
                f"the plan in {self._objects.url} is {found}, but that of the digest {plan_sha256} was "
                "expected"
            )
        return there[0]

    def committed_rows(self, plan: ShardPlan) -> int:
        """Return how many rows from the first one on are in committed shards, without a gap."""
        last_of = {
            int(found[1]): int(found[2])
            for info in self._objects.list("shards")
            if (found := _RECORD.fullmatch(info.path))
        }
        rows = 0
        while rows < plan.rows and last_of.get(rows) == _last(_shard_at(plan, rows, "")):
            rows = last_of[rows] + 1
        return rows

    def record(self, shard: RowRange) -> ShardRecord | None:
        """Return the record of a shard, None if it is not committed.

        Raises:
            ArtifactDamaged: it cannot be read, or is of another batch.
        """
        path = f"shards/{_name(shard)}.json"
        try:
            record = ShardRecord.model_validate_json(self._objects.read(path), extra="ignore")
        except ObjectMissing:
            return None
        except ValidationError:
            raise ArtifactDamaged(f"{path} in {self._objects.url} cannot be read") from None
        if record.facts.plan_sha256 != shard.plan_sha256:
            raise ArtifactDamaged(f"{path} in {self._objects.url} belongs to another batch")
        return record

    def commit(
        self,
        shard: RowRange,
        predictions: bytes,
        errors: bytes | None,
        facts_of: Callable[[bytes, str], tuple[ShardFacts, int]],
    ) -> ShardRecord:
        """Create the files of a shard, and last its record.

        Where another attempt was killed after a file, or is a little faster, its file stays: on another kind
        of device the same rows give other bits.

        Args:
            shard: the rows.
            predictions: content of the file of predictions.
            errors: content of the file of errors; none: there are none.
            facts_of: reads what a file of predictions says of itself, and its number of rows.

        Raises:
            ArtifactDamaged: what is there is of another batch, or rows are missing in it.
        """
        name = _name(shard)
        error_file = None
        if errors is not None:
            path = f"errors/{name}.parquet"
            self._create(path, errors, must_be_same=True)
            error_file = ShardFile(path=path, sha256=_sha256(errors), rows=0)
        reach("shard.predictions", name)
        path = f"predictions/{name}.parquet"
        there = self._create(path, predictions)
        facts, num_rows = facts_of(there, path)
        num_errors = shard.num_rows - num_rows
        if facts.first_row != shard.first_row or (num_errors > 0) != (errors is not None):
            raise ArtifactDamaged(f"{path} in {self._objects.url} has other rows than those of its name")
        record = ShardRecord(
            facts=facts,
            predictions=ShardFile(path=path, sha256=_sha256(there), rows=num_rows),
            errors=error_file and error_file.model_copy(update={"rows": num_errors}),
        )
        reach("shard.commit", name)
        self._create(f"shards/{name}.json", record.model_dump_json(indent=1).encode(), must_be_same=True)
        reach("shard.committed", name)
        return record

    def records(self, plan: ShardPlan, plan_sha256: str) -> Iterator[ShardRecord]:
        """Yield the record of every shard, in the order of the rows.

        Raises:
            ArtifactDamaged: one is missing.
        """
        shards = [_shard_at(plan, row, plan_sha256) for row in range(0, plan.rows, plan.shard_rows)]
        with ThreadPoolExecutor(NUM_READERS) as readers:
            for shard, record in zip(shards, readers.map(self.record, shards), strict=True):
                if record is None:
                    raise ArtifactDamaged(f"{self._objects.url} lacks the shard {_name(shard)}")
                yield record

    def result(self) -> bytes | None:
        """Return the content of ``result.json``, None if the batch is not finished."""
        try:
            return self._objects.read(RESULT)
        except ObjectMissing:
            return None

    def finish(self, data: bytes) -> None:
        """Create ``result.json``, and remove what killed writers have left.

        Raises:
            ArtifactDamaged: there is another one.
        """
        if self._objects.root is not None:
            for path, _, _ in unfinished_files(self._objects.root):
                path.unlink(missing_ok=True)
        reach("batch.commit")
        self._create(RESULT, data, must_be_same=True)
        reach("batch.committed")

    def _create(self, path: str, data: bytes, *, must_be_same: bool = False) -> bytes:
        """Create an object, and return the content of what is there then."""
        try:
            self._objects.create(path, data)
        except ObjectExists:
            if must_be_same:
                raise ArtifactDamaged(f"{path} in {self._objects.url} is there with other content") from None
            return self._objects.read(path)
        return data


def _shard_at(plan: ShardPlan, row: int, plan_sha256: str) -> RowRange:
    num_rows = min(plan.shard_rows, plan.rows - row)
    return RowRange.model_construct(first_row=row, num_rows=num_rows, plan_sha256=plan_sha256)


def _last(shard: RowRange) -> int:
    return shard.first_row + shard.num_rows - 1


def _name(shard: RowRange) -> str:
    return f"{shard.first_row:012}-{_last(shard):012}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
