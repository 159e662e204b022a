"""The activities ``check_promotion``, ``register_version`` and ``find_champion``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from durabert.activities.boundary import implements, run_child
from durabert.contract import CHECK_PROMOTION, FIND_CHAMPION, REGISTER_VERSION
from durabert.specs.registry import (
    ModelRef,
    PromotionCheck,
    PromotionRequest,
    RegistryRequest,
    RegistryVersion,
)
from durabert.specs.retraining import Champion
from durabert.supervisor import Job

if TYPE_CHECKING:
    from pathlib import Path

    from durabert.activities.devices import DeviceSlots


class RegistryActivities:
    """The registry of the artifact store."""

    def __init__(self, home: Path, store: str, slots: DeviceSlots) -> None:
        self._home = home
        self._store = store
        self._slots = slots

    @implements(CHECK_PROMOTION)
    async def check_promotion(self, request: PromotionRequest) -> PromotionCheck:
        """Look at the gates in a child process."""
        return PromotionCheck.model_validate(await self._run("check", request.model_dump(mode="json")))

    @implements(REGISTER_VERSION)
    async def register_version(self, request: RegistryRequest) -> RegistryVersion:
        """Write version and alias in a child process."""
        return RegistryVersion.model_validate(await self._run("register", request.model_dump(mode="json")))

    @implements(FIND_CHAMPION)
    async def find_champion(self, request: ModelRef) -> Champion:
        """Look up what an alias names, in a child process."""
        return Champion.model_validate(await self._run("champion", request.model_dump(mode="json")))

    async def _run(self, what: str, request: dict[str, Any]) -> dict[str, Any]:
        job = Job(
            entry=f"durabert.activities.registry_jobs:{what}",
            request={"request": request, "home": str(self._home), "store": self._store},
        )
        return await run_child(job, self._slots)
