"""A registry that answers at once; the alias says what the gates say."""

from __future__ import annotations

from dataclasses import dataclass, field

from temporalio import activity
from temporalio.exceptions import ApplicationError

from durabert.contract import CHECK_PROMOTION, FIND_CHAMPION, REGISTER_VERSION
from durabert.specs.registry import (
    GateResult,
    ModelRef,
    PromotionCheck,
    PromotionRequest,
    RegistryRequest,
    RegistryVersion,
)
from durabert.specs.retraining import Champion


@dataclass
class FakeRegistry:
    """Answers like the real one, and keeps what it was asked to write."""

    written: list[RegistryRequest] = field(default_factory=list)

    @activity.defn(name=CHECK_PROMOTION.name)
    async def check_promotion(self, request: PromotionRequest) -> PromotionCheck:
        if request.alias == "missing":
            raise ApplicationError("there is no such run", type="RunNotFound", non_retryable=True)
        passed = request.alias != "refused"
        gate = GateResult(gate="min accuracy", passed=passed, detail="accuracy is 0.7500")
        return PromotionCheck(model_sha256="0" * 64, gates=[gate], champion=None)

    @activity.defn(name=REGISTER_VERSION.name)
    async def register_version(self, request: RegistryRequest) -> RegistryVersion:
        if request.promotion.alias == "flaky" and activity.info().attempt == 1:
            raise ApplicationError("it does not answer", type="StoreUnavailable")
        self.written.append(request)
        return RegistryVersion(
            name=request.promotion.name,
            version=len(self.written),
            run=request.promotion.run,
            model_sha256=request.check.model_sha256,
            metric="accuracy",
            metrics={"accuracy": 0.75},
            created="2026-01-01T00:00:00+00:00",
            execution=request.execution,
        )

    @activity.defn(name=FIND_CHAMPION.name)
    async def find_champion(self, request: ModelRef) -> Champion:
        if request.alias == "same":
            return Champion(version=3, run="twin", model_sha256="0" * 64)
        if request.alias in {"beaten", "odd"}:
            return Champion(version=3, run=f"{request.alias}-champion", model_sha256="8" * 64)
        return Champion()
