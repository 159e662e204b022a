"""What checks and registers models inside the child process: results and registry. No Temporal here."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from durabert.activities.comparison import compare
from durabert.activities.gates import champion_gate, evaluated_gate, metric_gates
from durabert.activities.jobs import ChildJob
from durabert.bert.weights import stored_sha256
from durabert.errors import ArtifactDamaged, ModelInvalid, ModelNotRegistered, RunNotFound, RunNotUsable
from durabert.specs import FineTuneResult
from durabert.specs.registry import (
    GateResult,
    ModelRef,
    PromotionCheck,
    PromotionRequest,
    RegistryRequest,
    require_metrics,
)
from durabert.specs.retraining import Champion
from durabert.store.objects import ObjectStore
from durabert.store.registry import Registry
from durabert.store.results import ResultStore, StoredResult

if TYPE_CHECKING:
    from durabert.supervisor import Channel


class CheckJob(ChildJob):
    """Everything the child needs to look at the gates of a promotion."""

    request: PromotionRequest
    """What the workflow asked for."""


class RegisterJob(ChildJob):
    """Everything the child needs to write a version down."""

    request: RegistryRequest
    """What the workflow asked for."""


class ChampionJob(ChildJob):
    """Everything the child needs to look an alias up."""

    request: ModelRef
    """What the workflow asked for."""


def check(payload: dict[str, Any], _channel: Channel) -> dict[str, Any]:
    """Look at the model and say what each gate says."""
    job = CheckJob.model_validate(payload)
    return _checked(job.objects(), job.request).model_dump(mode="json")


def register(payload: dict[str, Any], _channel: Channel) -> dict[str, Any]:
    """Make the model a version and let the alias name it."""
    job = RegisterJob.model_validate(payload)
    objects = job.objects()
    run = _finished(objects, job.request.promotion.run).result
    if run.model_sha256 != job.request.check.model_sha256:
        raise ArtifactDamaged(f"run {run.run!r} has other weights than those that the gates have seen")
    version, _ = Registry(objects).register(job.request, run)
    return version.model_dump(mode="json")


def champion(payload: dict[str, Any], _channel: Channel) -> dict[str, Any]:
    """Look up what an alias names now; it may be nothing yet."""
    job = ChampionJob.model_validate(payload)
    try:
        named = Registry(job.objects()).find(job.request)
    except ModelNotRegistered:
        return Champion().model_dump(mode="json")
    found = Champion(version=named.version, run=named.run, model_sha256=named.model_sha256)
    return found.model_dump(mode="json")


def _checked(objects: ObjectStore, request: PromotionRequest) -> PromotionCheck:
    stored = _finished(objects, request.run)
    run = stored.result
    require_metrics(request, run.metrics)
    gates = [_artifact(objects, stored), *metric_gates(request, run)]
    registry = Registry(objects)
    champion = registry.last_move(request.name, request.alias)
    if champion is not None and request.beat_champion:
        there = registry.find(ModelRef(name=request.name, version=champion.version))
        if there.run != run.run:
            gates.append(_against(objects, run, _finished(objects, there.run).result))
    return PromotionCheck(
        model_sha256=run.model_sha256, gates=gates, champion=None if champion is None else champion.version
    )


def _against(objects: ObjectStore, run: FineTuneResult, champion: FineTuneResult) -> GateResult:
    try:
        [compared] = compare(objects, [champion.run, run.run])
    except RunNotUsable:
        # Nobody has evaluated both on the same rows, or they have learned different things.
        return champion_gate(run, champion)
    return evaluated_gate(champion.metric, compared)


def _finished(objects: ObjectStore, run: str) -> StoredResult:
    stored = ResultStore(objects).result(run)
    if stored is None:
        raise RunNotFound(run)
    return stored


def _artifact(objects: ObjectStore, stored: StoredResult) -> GateResult:
    result: FineTuneResult = stored.result
    with tempfile.TemporaryDirectory() as directory:
        try:
            ResultStore(objects).fetch_files(stored, Path(directory))
            found = stored_sha256(Path(directory))
        except (ArtifactDamaged, ModelInvalid) as error:
            return GateResult(gate="artifact", passed=False, detail=str(error))
    same = found == result.model_sha256
    detail = f"{len(stored.files)} files, weights {found[:12]}" + (
        "" if same else ", not those of the result"
    )
    return GateResult(gate="artifact", passed=same, detail=detail)
