"""Activities of a sweep that answer like the real ones; the parameters say how good a trial is."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from durabert.activities.suggesting import suggested
from durabert.contract import PLAN_SWEEP, SUGGEST_TRIAL
from durabert.specs import (
    EpochResult,
    FineTuneConfig,
    FineTuneRequest,
    Suggestion,
    SuggestionRequest,
    SweepPlan,
    SweepPlanRequest,
)


def accuracy(config: FineTuneConfig, epoch: int) -> float:
    """Return how good a configuration is after an epoch: best at a learning rate of 1e-3."""
    return 1 - abs(math.log10(config.learning_rate) + 3) / 4 - 0.2 / epoch


@dataclass
class FakeSweeps:
    """Knows what was trained from which epoch to which."""

    plans: int = 0
    suggestions: list[SuggestionRequest] = field(default_factory=list)
    stretches: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """First and last epoch of each training of a run."""
    suggested: Counter[int] = field(default_factory=Counter)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    """What a trial waits for whose batch size is 7."""

    @activity.defn(name=PLAN_SWEEP.name)
    async def plan_sweep(self, request: SweepPlanRequest) -> SweepPlan:
        self.plans += 1
        if request.config.best_metric == "pearson":
            raise ApplicationError(
                "best_metric is 'pearson', but should be one of accuracy", type="SpecInvalid",
                non_retryable=True,
            )  # fmt: skip
        metric = request.config.best_metric
        return SweepPlan(task="binary", metric="accuracy" if metric == "auto" else metric)

    @activity.defn(name=SUGGEST_TRIAL.name)
    async def suggest_trial(self, request: SuggestionRequest) -> Suggestion:
        self.suggestions.append(request)
        return Suggestion(params=await asyncio.to_thread(suggested, request))

    async def hold(self, request: FineTuneRequest) -> None:
        if request.config.batch_size == 7:
            await self.may_end.wait()

    def trained(self, request: FineTuneRequest) -> list[EpochResult]:
        """Return the epochs of a trial, from the first on."""
        before = self.stretches.get(request.run, [])
        first = before[-1][1] + 1 if before else 1
        last = first - 1
        history = []
        for epoch in range(1, request.config.epochs + 1):
            value = accuracy(request.config, epoch)
            metrics = {"accuracy": value, "loss": 1 - value}
            history.append(EpochResult(epoch=epoch, step=epoch, train_loss=0.1, metrics=metrics))
            last = max(last, epoch)
            threshold = request.thresholds[epoch - 1] if epoch <= len(request.thresholds) else None
            if epoch == request.until_epoch or (threshold is not None and threshold > value):
                break
        self.stretches.setdefault(request.run, []).append((first, last))
        return history
