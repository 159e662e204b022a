"""The activities ``plan_sweep`` and ``suggest_trial``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from durabert.activities.boundary import implements, run_child
from durabert.activities.suggesting import require_optuna, suggested
from durabert.contract import PLAN_SWEEP, SUGGEST_TRIAL
from durabert.specs import Suggestion, SuggestionRequest, SweepPlan, SweepPlanRequest
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class SweepActivities:
    """What a sweep asks before it trains; nothing is kept between two questions."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(PLAN_SWEEP)
    async def plan_sweep(self, request: SweepPlanRequest) -> SweepPlan:
        """Read the data in a child process, and say what is learned and searched for."""
        require_optuna()
        job = Job(
            entry="durabert.activities.sweep_jobs:plan",
            request={
                "request": request.model_dump(mode="json"),
                "home": str(self._home),
                "store": self._store,
            },
        )
        return SweepPlan.model_validate(await run_child(job, self._slots))

    @implements(SUGGEST_TRIAL)
    async def suggest_trial(self, request: SuggestionRequest) -> Suggestion:
        """Choose the configuration of a trial; the same request has the same answer."""
        # Some hundredths of a second: not worth a process, and too long to hold heartbeats back.
        return Suggestion(params=await asyncio.to_thread(suggested, request))
