"""How an experiment is started, or joined where the same one is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from temporalio.client import WorkflowExecutionStatus
from temporalio.common import WorkflowIDConflictPolicy, WorkflowIDReusePolicy
from temporalio.exceptions import WorkflowAlreadyStartedError

from durabert.client.finding import find_experiment
from durabert.client.identity import who
from durabert.client.status import is_experiment, spec_of
from durabert.client.views import Resumed, Started
from durabert.client.wording import (
    OTHER_NAME,
    advice,
    details,
    difference,
    makes_checkpoints,
    pattern_of,
    summary,
)
from durabert.contract import EVAL_WORKFLOW, PATTERNS, SPEC_DIGEST_MEMO, STARTED_BY_MEMO
from durabert.errors import NameInUse, SpecInvalid
from durabert.workflows.visibility import search_attributes

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient

    from durabert.specs import ExperimentSpec

DEFAULT_PATTERN: Final = next(iter(PATTERNS))


def workflow_for(spec: ExperimentSpec, pattern: str) -> str:
    """Return the type of the workflow of a pattern.

    Raises:
        SpecInvalid: there is no such pattern, or it cannot do what the spec asks for.
    """
    if pattern not in PATTERNS:
        raise SpecInvalid(f"pattern is {pattern!r}, but should be {' or '.join(PATTERNS)}")
    if spec.evaluations and PATTERNS[pattern] != EVAL_WORKFLOW:
        raise SpecInvalid(
            f"evaluations has {len(spec.evaluations)} sets, but the pattern {pattern!r} evaluates "
            "nothing; use bert_eval"
        )
    if spec.start_from is not None and not makes_checkpoints(PATTERNS[pattern]):
        raise SpecInvalid(
            f"start_from is {spec.start_from.run!r}, but the pattern {pattern!r} makes no checkpoints to "
            f"begin from or to go on with; use {DEFAULT_PATTERN}"
        )
    return PATTERNS[pattern]


async def start_experiment(
    temporal: TemporalClient, spec: ExperimentSpec, workflow: str, *, queue: str, searchable: bool
) -> Started:
    """Start an experiment, or join it if the same spec and pattern were started under this name before.

    Args:
        temporal: the server.
        spec: what to train.
        workflow: type of its workflow.
        queue: task queue of the trainings.
        searchable: the namespace has durabert's search attributes.

    Raises:
        NameInUse: the name belongs to another spec or pattern that runs or has completed.
    """
    reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE_FAILED_ONLY
    try:
        await _start(temporal, spec, workflow, reuse, queue=queue, searchable=searchable)
    except WorkflowAlreadyStartedError:
        await _require_same(temporal, spec, workflow)
        return Started(spec.name, joined=True)
    return Started(spec.name, joined=False)


async def restart_experiment(temporal: TemporalClient, name: str, *, queue: str, searchable: bool) -> Resumed:
    """Start an experiment that has ended again; its runs go on from their newest checkpoints.

    Args:
        temporal: the server.
        name: the experiment, or a run of it.
        queue: task queue of the trainings.
        searchable: the namespace has durabert's search attributes.
    """
    handle, description = await find_experiment(temporal, name)
    spec, workflow = spec_of(await handle.fetch_history()), description.workflow_type
    reuse = WorkflowIDReusePolicy.ALLOW_DUPLICATE
    try:
        await _start(temporal, spec, workflow, reuse, queue=queue, searchable=searchable)
    except WorkflowAlreadyStartedError:
        # Somebody else was faster.
        return Resumed(spec.name, "running")
    return Resumed(spec.name, "restarted")


async def _start(
    temporal: TemporalClient,
    spec: ExperimentSpec,
    workflow: str,
    reuse: WorkflowIDReusePolicy,
    *,
    queue: str,
    searchable: bool,
) -> None:
    await temporal.start_workflow(
        workflow,
        spec,
        id=spec.name,
        task_queue=queue,
        id_reuse_policy=reuse,
        id_conflict_policy=WorkflowIDConflictPolicy.FAIL,
        memo={SPEC_DIGEST_MEMO: spec.digest(), STARTED_BY_MEMO: who()},
        search_attributes=search_attributes(spec) if searchable else None,
        static_summary=summary(spec),
        static_details=details(spec),
    )


async def _require_same(temporal: TemporalClient, spec: ExperimentSpec, workflow: str) -> None:
    handle = temporal.get_workflow_handle(spec.name)
    description = await handle.describe()
    if not is_experiment(description):
        raise NameInUse(spec.name, difference=f"a workflow of type {description.workflow_type}")
    other = spec
    if await description.memo_value(SPEC_DIGEST_MEMO, None) != spec.digest():
        other = spec_of(await handle.fetch_history())
    if other.digest() != spec.digest():
        completed = description.status is WorkflowExecutionStatus.COMPLETED
        extensible = completed and makes_checkpoints(description.workflow_type)
        raise NameInUse(
            spec.name,
            difference=difference(other, spec),
            advice=advice(other, spec) if extensible else OTHER_NAME,
        )
    if description.workflow_type != workflow:
        theirs, ours = pattern_of(description.workflow_type), pattern_of(workflow)
        raise NameInUse(spec.name, difference=f"its pattern is {theirs!r}, not {ours!r}")
