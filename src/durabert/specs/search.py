"""Search spaces: which fields of a configuration are searched, and between which values."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from durabert.errors import SpecInvalid
from durabert.specs.base import Wire
from durabert.specs.configuration import FineTuneConfig

Scalar = bool | int | float | str
Params = dict[str, Scalar]

NOT_SEARCHED: Final = frozenset(
    {"name", "task", "best_metric", "max_eval_rows", "seed", "device", "num_processes"}
)
"""Fields that decide on what is measured or where, and not on how good a model gets."""
KINDS: Final = ("log_uniform", "uniform", "integer", "choice")
LARGE_BATCH: Final = 4096
"""Beside which no other field is refused for its size."""
MAX_POINTS: Final = 100_000
"""Of a grid, before those are left out that differ in nothing that is there."""


class Parameter(Wire):
    """What a searched field may be: one of ``log_uniform``, ``uniform``, ``integer`` and ``choice``."""

    log_uniform: tuple[float, float] | None = None
    """Lowest and highest value; the logarithm is uniform between them."""
    uniform: tuple[float, float] | None = None
    """Lowest and highest value."""
    integer: tuple[int, int] | None = None
    """Lowest and highest whole number."""
    choice: tuple[Scalar, ...] | None = Field(default=None, min_length=1)
    """The values themselves."""
    when: dict[str, Scalar] = Field(default_factory=dict)
    """It is there only if these parameters, which stand before it, have these values."""

    @property
    def kind(self) -> str:
        """Which of the four it is."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def range(self) -> tuple[float, float]:
        """Lowest and highest value of a number."""
        low, high = self.log_uniform or self.uniform or self.integer or (math.nan, math.nan)
        return low, high

    @property
    def values(self) -> Sequence[Scalar] | None:
        """All values, in order; none of a parameter that has no end of them."""
        if self.integer is not None:
            return range(self.integer[0], self.integer[1] + 1)
        return self.choice

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a parameter has {' and '.join(given) or 'no values'}, but should have one of "
                f"{', '.join(KINDS)}"
            )
        if self.choice is not None:
            return self
        low, high = self.range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(
                f"{self.kind} is [{low:g}, {high:g}], but should be [low, high] with low below high"
            )
        if self.log_uniform is not None and low <= 0:
            raise ValueError(f"log_uniform is [{low:g}, {high:g}], but should be above 0")
        return self

    def is_there(self, params: Mapping[str, Scalar]) -> bool:
        """Return whether it is there beside these values of the parameters before it."""
        return all(name in params and params[name] == value for name, value in self.when.items())

    def samples(self) -> tuple[Scalar, ...]:
        """Return values by which one sees whether a field takes all of them."""
        if self.choice is not None:
            return self.choice
        low, high = self.range
        if self.integer is not None:
            return self.integer
        # One that is no whole number, too.
        return low, low + (high - low) / math.pi, high


def _checked_space(space: dict[str, Parameter]) -> dict[str, Parameter]:
    if not space:
        raise ValueError(
            "the search space is empty; give at least one parameter, such as "
            "learning_rate = { log_uniform = [1e-5, 1e-3] } under [space]"
        )
    before: dict[str, Parameter] = {}
    for name, parameter in space.items():
        _check_name(name)
        _check_values(name, parameter)
        _check_condition(name, parameter, before)
        before[name] = parameter
    return space


Space = Annotated[dict[str, Parameter], AfterValidator(_checked_space)]
"""Parameters by the field of the configuration that they are; in the order in which they are drawn."""


def _check_name(name: str) -> None:
    known = sorted(FineTuneConfig.model_fields.keys() - NOT_SEARCHED)
    if name in known:
        return
    if name in NOT_SEARCHED:
        raise ValueError(f"{name!r} cannot be searched; set it for all trials instead")
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    raise ValueError(f"unknown parameter {name!r}; {hint}")


def _check_values(name: str, parameter: Parameter) -> None:
    beside = {} if name == "batch_size" else {"batch_size": LARGE_BATCH}
    for value in parameter.samples():
        try:
            FineTuneConfig.parse({**beside, name: value})
        except SpecInvalid as error:
            raise ValueError(str(error)) from None


def _check_condition(name: str, parameter: Parameter, before: Mapping[str, Parameter]) -> None:
    for other, value in parameter.when.items():
        if other not in before:
            raise ValueError(f"{name} depends on {other!r}, but should on a parameter that stands before it")
        values = before[other].values
        if values is not None and value not in values:
            raise ValueError(f"{name} depends on {other} = {value!r}, which {other} never is")


def grid(space: Mapping[str, Parameter]) -> Iterator[Params]:
    """Yield every point of a space of choices and whole numbers, the last parameter fastest.

    Raises:
        SpecInvalid: a parameter has no end of values, or all of them have too many.
    """
    axes: list[Sequence[Scalar]] = []
    for name, parameter in space.items():
        if parameter.values is None:
            raise SpecInvalid(f"{name} is {parameter.kind}, but a grid needs choice or integer")
        axes.append(parameter.values)
    num_points = math.prod(map(len, axes))
    if num_points > MAX_POINTS:
        raise SpecInvalid(f"the grid has {num_points} points, but should have at most {MAX_POINTS}")
    seen = set()
    for values in itertools.product(*axes):
        params: Params = {}
        for (name, parameter), value in zip(space.items(), values, strict=True):
            if parameter.is_there(params):
                params[name] = value
        # Points that differ in what is not there alone are one.
        key = tuple((name, type(value), value) for name, value in params.items())
        if key not in seen:
            seen.add(key)
            yield params
