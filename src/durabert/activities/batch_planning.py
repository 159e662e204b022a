"""What a batch predicts on: a snapshot of the input, its columns, and its rows by number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from durabert.activities.dataset_jobs import require_split, split_name, take_snapshot
from durabert.bert.card import ModelFacts
from durabert.bert.progress import Reporter
from durabert.bert.row_groups import ReadBytes, RowGroups, find_pieces
from durabert.bert.snapshot_manifest import SplitManifest, file_of, parse_manifest
from durabert.bert.texts import TextSource, no_row_id, read_texts
from durabert.errors import SpecInvalid, TextsInvalid
from durabert.specs import BatchInferenceRequest, DataSpec, ShardPlan
from durabert.specs.batch import MAX_SHARDS
from durabert.specs.data import SNAPSHOT_PREFIX, FileReading
from durabert.store.blobs import blob_path
from durabert.store.objects import ObjectStore
from durabert.store.snapshots import MANIFEST, SnapshotStore, StoredFile

TRAIN: Final = "train"
"""The split that a snapshot of one file has."""
WHOLE_NUMBERS: Final = {"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"}
"""Types of columns whose row ids are numbers in the output."""


@dataclass(frozen=True)
class BatchInput:
    """The rows of a batch.

    Args:
        request: the batch.
        facts: what the model reads.
        objects: the store.
        home: the worker's home directory.
    """

    request: BatchInferenceRequest
    facts: ModelFacts
    objects: ObjectStore
    home: Path

    def require_readable(self) -> None:
        """Find out what can be told before all is read.

        Raises:
            UserError: there is no such file or snapshot, or the columns do not fit.
        """
        path = self.request.input.path
        if path.startswith(SNAPSHOT_PREFIX):
            prefix, split = split_name(path)
            snapshots = SnapshotStore(self.objects, self.home / "cache")
            stored = snapshots.stored(snapshots.resolve(prefix))
            manifest = parse_manifest(snapshots.read(stored, MANIFEST), Path(stored.id))
            require_split(path, split, manifest.splits)
        else:
            read_texts(self.request.input, columns=self.facts.text_columns)

    def plan(self, progress: Reporter) -> ShardPlan:
        """Take a snapshot unless the input is one, and return how its rows are read.

        Raises:
            UserError: the input cannot be read, has no rows, or a row has no id.
        """
        snapshot, split = self._snapshot(progress)
        manifest, file = _split(snapshot, split, self.objects, self.home)
        if not manifest.rows:
            raise TextsInvalid(f"{self.request.input.path!r} has no rows to predict on")
        self._require_few_shards(manifest.rows)
        path = blob_path(file.sha256)
        progress.phase("loading data", step=0, steps=manifest.rows)
        whole = _watched(self.objects.pieces(path), progress)
        pieces = find_pieces(self._read(path), whole, size=file.size, sha256=file.sha256)
        source = RowGroups(manifest, pieces, self._read(path))
        texts = read_texts(self.request.input, columns=self.facts.text_columns, source=source)
        return ShardPlan(
            run=self.request.run,
            model_sha256=self.facts.model_sha256,
            task=self.facts.task,
            labels=list(self.facts.labels),
            max_length=self.facts.max_length,
            precision=self.request.precision,
            snapshot=snapshot,
            split=split,
            text_columns=list(texts.text_columns),
            row_id=texts.row_id,
            numbered=_numbered(texts, source),
            rows=manifest.rows,
            shard_rows=self.request.shard_rows,
            notices=[*texts.notices, *manifest.notices],
            pieces=pieces,
        )

    @staticmethod
    def rows_of(plan: ShardPlan, objects: ObjectStore, home: Path) -> RowGroups:
        """Return the rows of a plan; only those that are read are fetched from the store."""
        manifest, file = _split(plan.snapshot, plan.split, objects, home)
        path = blob_path(file.sha256)
        return RowGroups(manifest, plan.pieces, lambda offset, size: objects.read_range(path, offset, size))

    def _snapshot(self, progress: Reporter) -> tuple[str, str]:
        given = self.request.input
        if given.path.startswith(SNAPSHOT_PREFIX):
            prefix, split = split_name(given.path)
            return SnapshotStore(self.objects, self.home / "cache").resolve(prefix), split
        reading = {name: getattr(given, name) for name in FileReading.model_fields}
        spec = DataSpec(source=given.path, **reading)
        taken = take_snapshot(spec, self.objects, self.home, progress, labelled=False)
        return taken.snapshot, TRAIN

    def _read(self, path: str) -> ReadBytes:
        return lambda offset, size: self.objects.read_range(path, offset, size)

    def _require_few_shards(self, rows: int) -> None:
        num_shards = -(-rows // self.request.shard_rows)
        if num_shards > MAX_SHARDS:
            raise SpecInvalid(
                f"shard_rows is {self.request.shard_rows}, which makes {num_shards:,} shards of {rows:,} "
                f"rows, but should be at least {-(-rows // MAX_SHARDS):,}: {MAX_SHARDS:,} shards are allowed"
            )


def same_batch(one: ShardPlan, other: ShardPlan) -> bool:
    """Return whether two plans are of the same predictions, however they are cut into shards."""
    cut = {"shard_rows", "notices", "pieces"}
    return one.model_dump(exclude=cut) == other.model_dump(exclude=cut)


def require_same(
    theirs: ShardPlan, *, output: str, run: str, model_sha256: str, ours: ShardPlan | None = None
) -> None:
    """Refuse an output that is another batch's.

    Args:
        theirs: what is there.
        output: where.
        run: the run that was to predict.
        model_sha256: digest of its weights.
        ours: what was to be there, if that is known.

    Raises:
        TextsInvalid: always; it names both.
    """
    mine = f"run {run!r} (model {model_sha256[:12]})" if ours is None else _described(ours)
    raise TextsInvalid(
        f"output {output!r} holds predictions of {_described(theirs)}, not of {mine}; choose another "
        "directory"
    )


def _described(plan: ShardPlan) -> str:
    columns = ", ".join(map(repr, plan.text_columns))
    by = "" if plan.row_id is None else f" by {plan.row_id!r}"
    return (
        f"run {plan.run!r} (model {plan.model_sha256[:12]}) on snapshot:{plan.snapshot[:12]}/{plan.split}, "
        f"{columns}{by}, precision {plan.precision}"
    )


def _watched(pieces: Iterator[memoryview], progress: Reporter) -> Iterator[memoryview]:
    for piece in pieces:
        progress.tick()
        yield piece


def _split(snapshot: str, split: str, objects: ObjectStore, home: Path) -> tuple[SplitManifest, StoredFile]:
    snapshots = SnapshotStore(objects, home / "cache")
    stored = snapshots.stored(snapshot)
    manifest = parse_manifest(snapshots.read(stored, MANIFEST), Path(snapshot))
    return manifest.splits[split], stored.files[file_of(split)]


def _numbered(texts: TextSource, source: RowGroups) -> bool:
    """Return whether row ids are numbers in the output.

    Raises:
        DataInvalid: a row has none.
    """
    if texts.row_id is None:
        return True
    without = source.first_without(texts.row_id)
    if without is not None:
        raise no_row_id(source, without, texts.row_id)
    return source.type_of(texts.row_id) in WHOLE_NUMBERS
