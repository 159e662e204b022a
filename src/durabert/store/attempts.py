"""Attempts of a run: each claims its journal first, and from then on nobody before it can write there."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from durabert.errors import AttemptSuperseded, NameInUse, StoreUnavailable
from durabert.faults import reach
from durabert.specs import AttemptRecord, CheckpointPolicy
from durabert.specs.durability import CURVE_FILE
from durabert.store.checkpoints import Checkpoint, PassedOver, RunCheckpoints, state_sha256
from durabert.store.journal import Entry, Record
from durabert.store.objects import ObjectStore


@dataclass
class Attempt:
    """One attempt at a run: what it goes on from, and the only way to add to the run's journal."""

    checkpoints: RunCheckpoints
    number: int
    identity: str
    policy: CheckpointPolicy
    resumed: Checkpoint | None
    files: dict[str, bytes]
    """Of ``resumed``; emptied by whoever has loaded them."""
    passed: list[PassedOver]
    log: list[AttemptRecord]
    """Those before, and this one."""
    _tip: Entry
    _kept: list[Checkpoint]
    _held: set[str] = field(default_factory=set)
    _unsure: tuple[str, Mapping[str, Any], Callable[[], None]] | None = None
    """An entry that the store did not answer to: it may be there or not."""

    @classmethod
    def begin(
        cls,
        objects: ObjectStore,
        run: str,
        *,
        identity: str,
        execution: str,
        temporal_attempt: int,
        policy: CheckpointPolicy,
        environment: Mapping[str, Any],
    ) -> Attempt:
        """Claim a run, and find what to go on from.

        Args:
            objects: the store.
            run: full name of the run.
            identity: digest of what the run is; checkpoints of another one are not looked at.
            execution: which execution of which workflow asks.
            temporal_attempt: number of the attempt in that execution, by which a stale claim is known.
            policy: which checkpoints to keep.
            environment: what to write down of the machine and the libraries.

        Raises:
            AttemptSuperseded: a later attempt has claimed the run already.
            NameInUse: the run belongs to another execution, with another identity, that has not ended.
            StoreUnavailable: the store does not answer; nothing was claimed, or the claim stands alone.
        """
        checkpoints = RunCheckpoints(objects, run)
        record = checkpoints.journal.read()
        started = record.of_kind("started")
        _require_turn(run, started, record, identity=identity, execution=execution, attempt=temporal_attempt)
        number = max((entry.attempt for entry in record.entries), default=0) + 1
        claim = checkpoints.journal.append(
            record.next_number,
            "started",
            attempt=number,
            previous=record.entries[-1].sha256 if record.entries else None,
            body={
                "identity": identity,
                "execution": execution,
                "temporal_attempt": temporal_attempt,
                "worker": f"{os.getpid()}@{socket.gethostname()}",
                "environment": dict(environment),
            },
        )
        found, files, passed = checkpoints.newest(record, identity=identity)
        lost = {one.number for one in passed}
        all_kept = checkpoints.kept(record)
        kept = [one for one in all_kept if one.number not in lost and one.identity == identity]
        tip = checkpoints.journal.append(
            claim.number + 1,
            "resumed",
            attempt=number,
            previous=claim.sha256,
            body=_resumed(found, passed, dropped=[one for one in all_kept if one not in kept]),
        )
        record = Record([*record.entries, claim, tip], record.damages, tip.number + 1)
        log = attempts_of(record, identity=identity)
        held = {ref.sha256 for ref in found.files} if found else set()
        return cls(checkpoints, number, identity, policy, found, files, passed, log, tip, kept, held)

    def commit(
        self, *, step: int, best_epoch: int | None, files: Iterable[tuple[str, bytes | memoryview | None]]
    ) -> Checkpoint:
        """Write a checkpoint: its files first, then the entry that makes it one; then drop old ones.

        Args:
            step: steps done.
            best_epoch: best epoch so far.
            files: names and contents; without a content it is that of the checkpoint before.

        Raises:
            AttemptSuperseded: a later attempt has taken over; nothing was committed.
            StoreUnavailable: the store does not answer; nothing was committed.
        """
        # Before anything is said of what is kept: an entry whose answer was lost may be there.
        self._settle()
        base = self._kept[-1] if self._kept else None
        before = {ref.name: ref for ref in base.files} if base else {}
        refs = [
            before[name] if data is None else self.checkpoints.write(name, data, held=self._held)
            for name, data in files
        ]
        draft = Checkpoint(
            number=self._tip.number + 1,
            ordinal=base.ordinal + 1 if base else 1,
            step=step,
            attempt=self.number,
            base=base.number if base else None,
            best_epoch=best_epoch,
            state_sha256=state_sha256(refs),
            files=tuple(refs),
            identity=self.identity,
        )
        kept = self._to_keep([*self._kept, draft])
        dropped = [one for one in self._kept if one not in kept]
        reach("checkpoint.commit")
        self._append("checkpoint", _body(draft, dropped), then=lambda: self._keep(kept, dropped))
        reach("checkpoint.committed")
        return draft

    def _keep(self, kept: list[Checkpoint], dropped: Sequence[Checkpoint]) -> None:
        self._kept = kept
        needed = {ref.sha256 for one in kept for ref in one.files}
        gone = {ref.sha256 for one in dropped for ref in one.files if ref.name != CURVE_FILE} - needed
        self._held -= gone
        # What cannot be deleted now is garbage, which 'durabert store gc' finds.
        with contextlib.suppress(StoreUnavailable):
            self.checkpoints.delete(gone)

    @property
    def state_sha256(self) -> str | None:
        """Digest of the newest committed state; none before the first."""
        return self._kept[-1].state_sha256 if self._kept else None

    def end(self, error: str, message: str) -> None:
        """Write down what ended the attempt."""
        self._append("ended", {"error": error, "message": message})

    def complete(self, result_sha256: str) -> None:
        """Write down that the run has a result: after this no other attempt can have made one before."""
        self._append("result", {"result_sha256": result_sha256})

    def ends_before(self, error: str) -> list[str]:
        """Return the messages of the attempts before that ended with that error."""
        return [one.message or "" for one in self.log[:-1] if one.ended == error]

    def _append(self, kind: str, body: Mapping[str, Any], *, then: Callable[[], None] = lambda: None) -> None:
        self._settle()
        self._unsure = (kind, body, then)
        self._settle()

    def _settle(self) -> None:
        """Add the entry of which it is not known whether it was added."""
        if self._unsure is None:
            return
        kind, body, then = self._unsure
        self._tip = self.checkpoints.journal.append(
            self._tip.number + 1, kind, attempt=self.number, previous=self._tip.sha256, body=body
        )
        self._unsure = None
        then()

    def _to_keep(self, candidates: Sequence[Checkpoint]) -> list[Checkpoint]:
        best = max((one.best_epoch or 0 for one in candidates), default=0)
        first_with_best = next((one for one in candidates if best and one.best_epoch == best), None)
        every = self.policy.keep_every
        return [
            one
            for position, one in enumerate(candidates)
            if position >= len(candidates) - self.policy.keep_last
            or one is first_with_best
            or (every is not None and one.ordinal % every == 0)
        ]


def _resumed(
    found: Checkpoint | None, passed: Sequence[PassedOver], *, dropped: Sequence[Checkpoint]
) -> dict[str, Any]:
    return {
        "from": None if found is None else found.number,
        "step": None if found is None else found.step,
        "dropped": [one.number for one in dropped],
        "passed_over": [{"step": one.step, "number": one.number, "reason": one.reason} for one in passed],
    }


def _body(checkpoint: Checkpoint, dropped: Sequence[Checkpoint]) -> dict[str, Any]:
    return {
        "ordinal": checkpoint.ordinal,
        "step": checkpoint.step,
        "base": checkpoint.base,
        "best_epoch": checkpoint.best_epoch,
        "state_sha256": checkpoint.state_sha256,
        "identity": checkpoint.identity,
        "dropped": [one.number for one in dropped],
        "files": [{"name": ref.name, "sha256": ref.sha256, "size": ref.size} for ref in checkpoint.files],
    }


def _require_turn(
    run: str, started: Sequence[Entry], record: Record, *, identity: str, execution: str, attempt: int
) -> None:
    if not started:
        return
    last = started[-1]
    if last.body["execution"] == execution:
        if last.body["temporal_attempt"] > attempt:
            raise AttemptSuperseded(f"attempt {attempt} was superseded before it began")
        return
    has_ended = record.entries[-1].kind in {"ended", "result"}
    if last.body["identity"] != identity and not has_ended:
        raise NameInUse(run, difference="it has not ended and is another model, configuration or data")


def attempts_of(record: Record, *, identity: str | None = None) -> list[AttemptRecord]:
    """Return what a journal tells of the attempts at a run."""
    attempts: dict[int, dict[str, Any]] = {}
    for entry in record.entries:
        if entry.kind == "started":
            if identity is None or entry.body["identity"] == identity:
                attempts[entry.attempt] = {
                    "number": entry.attempt,
                    "worker": entry.body["worker"],
                    "started": entry.time,
                }
        elif entry.attempt in attempts:
            attempts[entry.attempt] |= _told(entry)
    return [AttemptRecord.model_validate(fields) for fields in attempts.values()]


def _told(entry: Entry) -> dict[str, Any]:
    match entry.kind:
        case "resumed":
            return {"resumed_from": entry.body["step"]}
        case "checkpoint":
            return {"last_step": entry.body["step"]}
        case "ended":
            return {"ended": entry.body["error"], "message": entry.body["message"]}
    return {}
