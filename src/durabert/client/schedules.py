"""Schedules that retrain: Temporal's own, as a client makes, reads and ends them."""

from __future__ import annotations

import asyncio
import difflib
import itertools
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from google.protobuf.timestamp_pb2 import Timestamp
from temporalio.api.workflowservice.v1 import ListScheduleMatchingTimesRequest
from temporalio.client import (
    Schedule,
    ScheduleActionStartWorkflow,
    ScheduleAlreadyRunningError,
    ScheduleBackfill,
    ScheduleIntervalSpec,
    ScheduleOverlapPolicy,
    SchedulePolicy,
    ScheduleSpec,
    ScheduleState,
)
from temporalio.common import SearchAttributePair, TypedSearchAttributes
from temporalio.service import RPCError, RPCStatusCode

from durabert.client.firings import POLL_INTERVAL, Firing
from durabert.client.views import ScheduleView
from durabert.contract import RETRAINING_WORKFLOW, STARTED_BY_MEMO, TIMING_MEMO
from durabert.errors import (
    EngineUnavailable,
    NameInUse,
    RunNotUsable,
    ScheduleNotFound,
    SpecInvalid,
)
from durabert.specs import RetrainingRequest, RetrainingTiming
from durabert.specs.retraining import RETRAINING_PREFIX, SHORTEST_INTERVAL, checked_schedule
from durabert.workflows import BertRetrainingWorkflow
from durabert.workflows.visibility import DATASET, EXPERIMENT, keyword

if TYPE_CHECKING:
    from temporalio.client import Client as TemporalClient
    from temporalio.client import ScheduleActionResult, ScheduleDescription, ScheduleHandle

MOST_FIRINGS: Final = 100
"""Of one backfill."""
SHOWN_FIRINGS: Final = 10
STARTED_SECONDS: Final = 30.0
"""How long a server may take to begin a firing that was asked for."""
CRON_HINT: Final = (
    "five fields, minute hour day month weekday, such as '0 3 * * 1' for Mondays at three, or @daily"
)


class Schedules:
    """The schedules of a namespace that retrain.

    Args:
        temporal: client of the namespace.
        queue: where firings wait for a worker, and what they train.
        is_searchable: says whether the namespace knows the search attributes.
    """

    def __init__(
        self, temporal: TemporalClient, *, queue: str, is_searchable: Callable[[], Awaitable[bool]]
    ) -> None:
        self._temporal = temporal
        self._queue = queue
        self._is_searchable = is_searchable

    async def create(self, request: RetrainingRequest, timing: RetrainingTiming) -> ScheduleView:
        """Create a schedule.

        Raises:
            SpecInvalid: Temporal does not take the times, or they never come, or come too often; nothing is
                left of it.
            NameInUse: there is one of that name.
        """
        name = request.experiment.name
        schedule = Schedule(
            action=await self._action(request),
            spec=_times(timing),
            policy=SchedulePolicy(
                overlap=ScheduleOverlapPolicy[timing.overlap.upper()],
                catchup_window=timedelta(seconds=timing.catch_up_seconds),
            ),
            # Nothing fires before its times are known to be right.
            state=ScheduleState(paused=True),
        )
        try:
            handle = await self._temporal.create_schedule(name, schedule, memo={TIMING_MEMO: timing})
        except ScheduleAlreadyRunningError:
            raise NameInUse(
                name,
                what="another schedule",
                difference="there is one schedule a name",
                advice=f"choose another name, or end it: durabert schedule delete {name}",
            ) from None
        except RPCError as error:
            if error.status is not RPCStatusCode.INVALID_ARGUMENT:
                raise
            raise SpecInvalid(_refused(timing, error.message)) from None
        try:
            _require_times((await handle.describe()).info.next_action_times, timing)
        except SpecInvalid:
            await handle.delete()
            raise
        await handle.unpause(note="")
        return await self.view(name)

    async def all(self) -> list[ScheduleView]:
        """Return every schedule that retrains, by name."""
        return [await self.view(name) for name in sorted(await self._names())]

    async def view(self, name: str) -> ScheduleView:
        """Return what is so of one.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        return await self._view(await self._described(name))

    async def pause(self, name: str, *, note: str | None) -> None:
        """Let it fire no more; what it has started goes on.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        await self._described(name)
        await self._handle(name).pause(note=note or "paused by durabert")

    async def resume(self, name: str) -> None:
        """Let it fire again; what it has missed meanwhile is not made up for.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        await self._described(name)
        await self._handle(name).unpause(note="")

    async def trigger(self, name: str) -> Firing:
        """Let it fire now, also while it is paused, and return the firing.

        Raises:
            ScheduleNotFound: there is none of that name.
            RunNotUsable: one goes on, and the overlap policy drops a second one, or lets it wait.
        """
        before = await self._described(name)
        overlap = before.schedule.policy.overlap
        waits = {ScheduleOverlapPolicy.SKIP, ScheduleOverlapPolicy.BUFFER_ONE}
        if before.info.running_actions and overlap in waits:
            raise RunNotUsable(
                f"a firing of {name!r} goes on, and its overlap policy is {overlap.name.lower()}; durabert "
                f"schedule show {name} tells how far it is"
            )
        await self._handle(name).trigger()
        return await self._begun(name, after=before.info.num_actions)

    async def backfill(self, name: str, *, first: datetime, last: datetime, overlap: str) -> list[datetime]:
        """Let it fire for every time of a range, both ends included, and return the times.

        Raises:
            ScheduleNotFound: there is none of that name.
            SpecInvalid: the range is upside down or in the future, or has no time or too many.
        """
        if last < first:
            raise SpecInvalid(f"--to is {_shown(last)}, but should not be before --from, {_shown(first)}")
        if last > datetime.now(UTC):
            raise SpecInvalid(f"--to is {_shown(last)}, but should not be in the future")
        await self._described(name)
        # Temporal's ranges do not hold their beginning.
        after = first - timedelta(microseconds=1)
        times = await self._matching(name, after, last)
        if not times:
            raise SpecInvalid(f"{name!r} has no firing between {_shown(first)} and {_shown(last)}")
        if len(times) > MOST_FIRINGS:
            raise SpecInvalid(
                f"{name!r} has {len(times)} firings between {_shown(first)} and {_shown(last)}, but a "
                f"backfill should have at most {MOST_FIRINGS}"
            )
        policy = ScheduleOverlapPolicy[overlap.upper()]
        await self._handle(name).backfill(ScheduleBackfill(start_at=after, end_at=last, overlap=policy))
        return times

    async def delete(self, name: str) -> None:
        """End it; what it has started goes on.

        Raises:
            ScheduleNotFound: there is none of that name.
        """
        await self._described(name)
        await self._handle(name).delete()

    async def _begun(self, name: str, *, after: int) -> Firing:
        deadline = time.monotonic() + STARTED_SECONDS
        while time.monotonic() < deadline:
            info = (await self._described(name)).info
            if info.num_actions > after:
                return self._firing(info.recent_actions[-1])
            await asyncio.sleep(POLL_INTERVAL.total_seconds())
        raise EngineUnavailable(
            f"the Temporal server has not begun the firing of {name!r} within {STARTED_SECONDS:.0f} s; "
            f"durabert schedule show {name} tells what has become of it"
        )

    async def _action(self, request: RetrainingRequest) -> ScheduleActionStartWorkflow:
        spec = request.experiment
        found_by = [
            SearchAttributePair(EXPERIMENT, spec.name),
            SearchAttributePair(DATASET, keyword(spec.data.source)),
        ]
        return ScheduleActionStartWorkflow(
            BertRetrainingWorkflow.run,
            request,
            id=f"{RETRAINING_PREFIX}{spec.name}",
            task_queue=self._queue,
            memo={STARTED_BY_MEMO: request.started_by},
            typed_search_attributes=TypedSearchAttributes(found_by if await self._is_searchable() else []),
            static_summary=f"retrain {spec.runs[0].model} on {spec.data.source}"[:200],
        )

    def _handle(self, name: str) -> ScheduleHandle:
        return self._temporal.get_schedule_handle(name)

    async def _described(self, name: str) -> ScheduleDescription:
        try:
            description = await self._handle(checked_schedule(name)).describe()
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            raise await self._not_found(name) from None
        if not _is_ours(description.schedule.action):
            raise await self._not_found(name)
        return description

    async def _not_found(self, name: str) -> ScheduleNotFound:
        near = difflib.get_close_matches(name, await self._names(), n=1)
        return ScheduleNotFound(name, near=near[0] if near else None)

    async def _names(self) -> list[str]:
        return [
            one.id
            async for one in await self._temporal.list_schedules()
            if one.schedule is not None and _is_ours(one.schedule.action)
        ]

    def _firing(self, taken: ScheduleActionResult) -> Firing:
        started: Any = taken.action
        return Firing.of(self._temporal, started.workflow_id, started.first_execution_run_id)

    async def _matching(self, name: str, after: datetime, last: datetime) -> list[datetime]:
        bounds = [Timestamp(), Timestamp()]
        for bound, one in zip(bounds, (after, last), strict=True):
            bound.FromDatetime(one)
        answer = await self._temporal.workflow_service.list_schedule_matching_times(
            ListScheduleMatchingTimesRequest(
                namespace=self._temporal.namespace,
                schedule_id=name,
                start_time=bounds[0],
                end_time=bounds[1],
            )
        )
        return [one.ToDatetime(UTC) for one in answer.start_time]

    async def _view(self, description: ScheduleDescription) -> ScheduleView:
        action: Any = description.schedule.action
        info = description.info
        converter = self._temporal.data_converter
        [request] = await converter.decode(action.args, [RetrainingRequest])
        firings = [self._firing(one) for one in info.recent_actions[-SHOWN_FIRINGS:]]
        promotion = request.promotion
        return ScheduleView(
            name=description.id,
            data=request.experiment.data.source,
            model=request.experiment.runs[0].model,
            timing=await description.memo_value(TIMING_MEMO, type_hint=RetrainingTiming),
            promote_to=None if promotion is None else promotion.target(),
            require_approval=promotion is not None and promotion.approval is not None,
            paused=description.schedule.state.paused,
            note=description.schedule.state.note or None,
            next=list(info.next_action_times),
            num_fired=info.num_actions,
            num_waiting=description.raw_description.info.buffer_size,
            num_overlapping=info.num_actions_skipped_overlap,
            num_missed=info.num_actions_missed_catchup_window,
            started_by=request.started_by,
            firings=[await firing.view() for firing in firings],
        )


def _is_ours(action: Any) -> bool:
    return getattr(action, "workflow", None) == RETRAINING_WORKFLOW


def _times(timing: RetrainingTiming) -> ScheduleSpec:
    if timing.cron is not None:
        return ScheduleSpec(cron_expressions=[timing.cron], time_zone_name=timing.time_zone)
    assert timing.every_seconds is not None
    every = timedelta(seconds=timing.every_seconds)
    return ScheduleSpec(intervals=[ScheduleIntervalSpec(every=every)])


def _refused(timing: RetrainingTiming, said: str) -> str:
    if "time zone" in said:
        return f"--time-zone is {timing.time_zone!r}, but should be a name such as Europe/Zurich: {said}"
    if timing.cron is not None:
        return f"--cron is {timing.cron!r}, but should be {CRON_HINT}: {said}"
    return f"Temporal does not take the schedule: {said}"


def _require_times(times: Sequence[datetime], timing: RetrainingTiming) -> None:
    if not times:
        raise SpecInvalid(f"--cron is {timing.cron!r}, which never comes; expected {CRON_HINT}")
    gaps = [(late - early).total_seconds() for early, late in itertools.pairwise(times)]
    if gaps and min(gaps) < SHORTEST_INTERVAL:
        raise SpecInvalid(
            f"--cron is {timing.cron!r}, which comes after {min(gaps):g} seconds; firings should be at least "
            f"{SHORTEST_INTERVAL:g} seconds apart"
        )


def _shown(when: datetime) -> str:
    return when.astimezone(UTC).isoformat(timespec="seconds")
