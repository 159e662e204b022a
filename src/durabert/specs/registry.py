"""Models that were promoted: names, versions, aliases, and what a promotion asks and gives."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from durabert.errors import SpecInvalid
from durabert.specs.base import NAME_PATTERN, Name, RunName, Wire

ALIAS_PATTERN: Final = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,99}")
"""It begins with a letter, so that ``NAME@3`` is a version."""
PROMOTION_PREFIX: Final = "promote:"
"""Of the ids of workflows."""
LONGEST_DAYS: Final = 366
MAX_REMINDERS: Final = 100
"""Each costs five events of a history."""


def _known_alias(alias: str) -> str:
    if not ALIAS_PATTERN.fullmatch(alias):
        raise ValueError(
            f"alias {alias!r:.120} is not allowed: use 1 to 100 letters, digits, '-' and '_', "
            "starting with a letter"
        )
    return alias


AliasName = Annotated[str, AfterValidator(_known_alias)]
PromotionStatus = Literal["promoted", "refused", "rejected", "expired"]


class ModelRef(Wire):
    """A model of the registry, written ``NAME@ALIAS`` or ``NAME@3``."""

    name: Name
    """Name in the registry."""
    alias: AliasName | None = None
    """Which alias; none: a version is named."""
    version: int | None = Field(default=None, ge=1)
    """Which version; none: an alias is named."""

    @classmethod
    def parse_text(cls, text: str) -> Self:
        """Read ``NAME@ALIAS`` or ``NAME@VERSION``.

        Raises:
            SpecInvalid: it is neither.
        """
        name, separator, which = text.partition("@")
        if not separator or not NAME_PATTERN.fullmatch(name):
            raise SpecInvalid(f"{text!r:.120} should be NAME@ALIAS or NAME@VERSION, such as films@champion")
        if which.isascii() and which.isdigit():
            return cls.parse({"name": name, "version": which})
        return cls.parse({"name": name, "alias": which})

    def __str__(self) -> str:
        return f"{self.name}@{self.version if self.alias is None else self.alias}"


class ApprovalPolicy(Wire):
    """How long a promotion waits for a person."""

    remind_after_seconds: float = Field(default=24 * 3600, gt=0, le=LONGEST_DAYS * 86400)
    """Seconds after which it is told again that somebody should decide; and again, and again."""
    expire_after_seconds: float = Field(default=7 * 24 * 3600, gt=0, le=LONGEST_DAYS * 86400)
    """Seconds after which it ends undecided, as if rejected."""

    @model_validator(mode="after")
    def _bounded_reminders(self) -> Self:
        least = self.expire_after_seconds / MAX_REMINDERS
        if self.remind_after_seconds < least:
            raise ValueError(
                f"remind_after_seconds is {self.remind_after_seconds:g}, but should be at least {least:g}: "
                f"more than {MAX_REMINDERS} reminders help nobody"
            )
        return self


class PromotionRequest(Wire):
    """The argument of ``BertPromotionWorkflow`` and of the activity ``check_promotion``."""

    run: RunName
    """The run whose model is promoted."""
    name: Name
    """Name in the registry."""
    alias: AliasName
    """The alias that is to name it."""
    min_metrics: dict[str, Annotated[float, Field(allow_inf_nan=False)]] = Field(default_factory=dict)
    """Validation metrics that must be at least so much."""
    beat_champion: bool = True
    """Refuse a model that is worse than the one that the alias names now, beyond noise."""
    approval: ApprovalPolicy | None = None
    """A person has to approve; none: nobody has."""
    requested_by: str
    """User and host of who asks."""

    def workflow_id(self) -> str:
        """Return the id of the workflow: one promotion an alias at a time."""
        return promotion_id(self.name, self.alias)

    def target(self) -> str:
        """Return ``NAME@ALIAS``."""
        return f"{self.name}@{self.alias}"


def require_metrics(request: PromotionRequest, metrics: Mapping[str, float]) -> None:
    """Refuse a promotion that asks for a metric which the run does not have.

    Raises:
        SpecInvalid: the run does not have it.
    """
    for metric in request.min_metrics:
        if metric not in metrics:
            raise SpecInvalid(
                f"run {request.run!r} has no metric {metric!r}; it has {', '.join(sorted(metrics))}"
            )


def promotion_id(name: str, alias: str) -> str:
    """Return the id of the workflow that promotes to an alias."""
    return f"{PROMOTION_PREFIX}{name}@{alias}"


class GateResult(Wire):
    """What one gate says."""

    gate: str
    """Its name: ``artifact``, ``min accuracy``, ``champion``."""
    passed: bool
    """Whether the model may pass."""
    detail: str
    """The figures, one sentence."""


class PromotionCheck(Wire):
    """The result of ``check_promotion``."""

    model_sha256: str
    """Digest of the weights that were looked at."""
    gates: list[GateResult]
    """One entry a gate, passed or not."""
    champion: int | None = None
    """Version that the alias names now."""


class Decision(Wire):
    """The argument of the updates ``approve`` and ``reject``."""

    by: str = Field(min_length=1)
    """User and host of who decides."""
    reason: str
    """Why; not empty."""


class DecisionRecord(Wire):
    """A decision that was taken."""

    approved: bool
    """Or rejected."""
    by: str
    """User and host of who decided."""
    reason: str
    """Why."""
    at: str
    """When, ISO 8601 in UTC."""


class RegistryRequest(Wire):
    """The argument of the activity ``register_version``."""

    promotion: PromotionRequest
    """What was asked for."""
    check: PromotionCheck
    """What the gates said."""
    decision: DecisionRecord | None = None
    """Who approved; none: nobody had to."""
    execution: str
    """Which execution of which workflow promotes: a second attempt finds what the first one wrote."""


class RegistryVersion(Wire):
    """A version of a model: one object in the store, created and never changed."""

    name: Name
    """Name in the registry."""
    version: int = Field(ge=1)
    """From 1."""
    run: RunName
    """The run whose model it is."""
    model_sha256: str
    """Digest of its weights."""
    metric: str
    """The validation metric that picked its best epoch."""
    metrics: dict[str, float]
    """Its validation metrics."""
    created: str
    """When, ISO 8601 in UTC."""
    execution: str
    """Which execution of which workflow made it."""


class AliasMove(Wire):
    """One entry of the history of an alias, the newest of which says what it names."""

    name: Name
    """Name in the registry."""
    alias: AliasName
    """The alias."""
    number: int = Field(ge=1)
    """Which move of it, from 1."""
    version: int = Field(ge=1)
    """The version that it names from then on."""
    at: str
    """When, ISO 8601 in UTC."""
    by: str
    """Who asked for it."""
    gates: list[GateResult]
    """What the gates said."""
    decision: DecisionRecord | None = None
    """Who approved; none: nobody had to."""
    execution: str
    """Which execution of which workflow moved it."""


class PromotionState(Wire):
    """The answer of the query ``state`` of ``BertPromotionWorkflow``."""

    request: PromotionRequest
    """What was asked for."""
    phase: Literal["checking", "waiting", "registering", "ended"]
    """``waiting``: for a person."""
    gates: list[GateResult] = Field(default_factory=list)
    """What the gates say."""
    waiting_since: str | None = None
    """When it began to wait, ISO 8601 in UTC."""
    expires: str | None = None
    """When it will end undecided, ISO 8601 in UTC."""
    reminders: int = 0
    """How often it has reminded."""
    decision: DecisionRecord | None = None
    """What was decided."""


class PromotionResult(Wire):
    """The result of ``BertPromotionWorkflow``."""

    status: PromotionStatus
    """``refused``: by a gate; ``rejected``: by a person; ``expired``: nobody decided in time."""
    run: str
    """The run."""
    name: str
    """Name in the registry."""
    alias: str
    """The alias, which names the model only if the status is ``promoted``."""
    version: int | None = None
    """The version that it has become."""
    before: int | None = None
    """The version that the alias named before."""
    gates: list[GateResult]
    """What the gates said."""
    decision: DecisionRecord | None = None
    """What was decided, where somebody had to."""
    reminders: int = 0
    """How often it has reminded."""
    at: str
    """When it ended, ISO 8601 in UTC."""
