"""What all request, result and artifact types share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Final, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from durabert.errors import NameInvalid, SpecInvalid

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
RUN_SEPARATOR: Final = "."
"""Between an experiment's name and the name of one of its configurations: ``demo.small``."""


def checked_name(name: str) -> str:
    """Return ``name`` if it is safe as a workflow id and as one path segment.

    Raises:
        NameInvalid: it is not.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise NameInvalid(name)
    return name


def checked_run(run: str) -> str:
    """Return ``run`` if it is an experiment's name, or that and a configuration's name joined by a dot.

    Raises:
        NameInvalid: it is neither.
    """
    experiment, _, configuration = run.partition(RUN_SEPARATOR)
    valid = NAME_PATTERN.fullmatch(experiment) and (
        run == experiment or NAME_PATTERN.fullmatch(configuration)
    )
    if not valid:
        raise NameInvalid(run)
    return run


def _as_value_error(name: str) -> str:
    # pydantic collects ValueErrors only; parse() gives the sentence back its class.
    if not NAME_PATTERN.fullmatch(name):
        raise ValueError(str(NameInvalid(name, what="experiment")))
    return name


def _run_as_value_error(run: str) -> str:
    try:
        return checked_run(run)
    except NameInvalid as error:
        raise ValueError(str(error)) from None


Name = Annotated[str, AfterValidator(_as_value_error)]
RunName = Annotated[str, AfterValidator(_run_as_value_error)]


class Wire(BaseModel):
    """A frozen value that crosses processes and time.

    Unknown fields are refused where a person writes them (constructors, ``parse``) and ignored where an
    older or newer history is read (``durabert.wire``).
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, protected_namespaces=()
    )

    @classmethod
    def parse(cls, fields: Mapping[str, Any]) -> Self:
        """Build a value from what a person wrote.

        Raises:
            SpecInvalid: one sentence naming the first wrong field, its value and what was expected.
        """
        try:
            return cls.model_validate(dict(fields))
        except ValidationError as error:
            raise spec_invalid(error) from None


def spec_invalid(error: ValidationError) -> SpecInvalid:
    """Say in one sentence what the first problem of a validation error is."""
    first = error.errors(include_url=False)[0]
    more = error.error_count() - 1
    tail = f" (and {more} more)" if more else ""
    return SpecInvalid(_sentence(first, known=_known_fields(error.title)) + tail)


def _sentence(problem: ErrorDetails, *, known: list[str]) -> str:
    field = ".".join(str(part) for part in problem["loc"])
    value = _shortened(problem["input"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(known)}"
        return f"unknown field {field!r}{hint}"
    if problem["type"] == "missing":
        return f"field {field!r} is missing"
    if problem["type"] == "value_error":
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "string_pattern_mismatch":
        return f"{field} is {value}, but should match {problem['ctx']['pattern']}"
    expected = problem["msg"].removeprefix("Input should be ").removeprefix("Value should be ")
    return f"{field} is {value}, but should be {expected}"


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _known_fields(title: str) -> list[str]:
    return sorted({name for kind in _subclasses(Wire) for name in kind.model_fields if _related(kind, title)})


def _related(kind: type[Wire], title: str) -> bool:
    return kind.__name__ == title or kind.__name__.endswith(("Config", "DataSpec"))


def _subclasses(kind: type[Wire]) -> list[type[Wire]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]
