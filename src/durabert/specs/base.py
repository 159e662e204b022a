"""What all request, result and artifact types share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from durabert.errors import NameInvalid, SpecInvalid

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
DEVICE_PATTERN: Final = re.compile(r"auto|cpu|mps|cuda(:[0-9]{1,2})?")
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


def _name_as_value_error(what: str) -> Callable[[str], str]:
    # pydantic collects ValueErrors only; the sentence survives, the class becomes SpecInvalid.
    def check(name: str) -> str:
        if not NAME_PATTERN.fullmatch(name):
            raise ValueError(str(NameInvalid(name, what=what)))
        return name

    return check


def _run_as_value_error(run: str) -> str:
    try:
        return checked_run(run)
    except NameInvalid as error:
        raise ValueError(str(error)) from None


def _known_device(device: str) -> str:
    if not DEVICE_PATTERN.fullmatch(device):
        raise ValueError(f"device is {_shortened(device)}, but should be auto, cpu, mps, cuda or cuda:N")
    return device


Name = Annotated[str, AfterValidator(_name_as_value_error("experiment"))]
ConfigurationName = Annotated[str, AfterValidator(_name_as_value_error("configuration"))]
RunName = Annotated[str, AfterValidator(_run_as_value_error)]
Device = Annotated[str, AfterValidator(_known_device)]
Task = Literal["binary", "multiclass", "multilabel", "regression"]


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


class ErrorInfo(Wire):
    """An error as a result carries it."""

    type: str
    """Class name in ``durabert.errors``."""
    message: str
    """One sentence."""


def spec_invalid(error: ValidationError) -> SpecInvalid:
    """Say in one sentence what the first problem of a validation error is."""
    kind = next((found for found in _subclasses(Wire) if found.__name__ == error.title), None)
    problems = _by_place(error, kind)
    place, first = next(iter(problems.items()))
    tail = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return SpecInvalid(_sentence(place or error.title, first, kind=kind) + tail)


def _by_place(error: ValidationError, kind: type[Wire] | None) -> dict[str, list[ErrorDetails]]:
    problems: dict[str, list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        place = ".".join(str(part) for part in _fields_of(problem, kind))
        # A list from which wrong items were dropped is too short, too.
        if problem["type"] == "too_short" and any(other.startswith(f"{place}.") for other in problems):
            continue
        problems.setdefault(place, []).append(problem)
    return problems


def _fields_of(problem: ErrorDetails, kind: type[Wire] | None) -> list[str | int]:
    """Return the place of a problem without what pydantic adds for the members of a union."""
    if kind is None or problem["type"] == "extra_forbidden":
        return list(problem["loc"])
    fields: list[str | int] = []
    for part in problem["loc"]:
        if kind is not None and part in kind.model_fields:
            kind = _wire_in(kind.model_fields[str(part)].annotation)
        elif not isinstance(part, int):
            break
        fields.append(part)
    return fields


def _wire_in(annotation: Any) -> type[Wire] | None:
    if isinstance(annotation, type) and issubclass(annotation, Wire):
        return annotation
    return next((found for part in get_args(annotation) if (found := _wire_in(part))), None)


def _sentence(place: str, problems: list[ErrorDetails], *, kind: type[Wire] | None) -> str:
    first = problems[0]
    match first["type"]:
        case "extra_forbidden":
            return _unknown(place, _known_fields(first["loc"], kind))
        case "missing":
            return f"field {place!r} is missing"
        case "value_error":
            return first["msg"].removeprefix("Value error, ")
        case "json_invalid":
            return f"{place} is no JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    expected = dict.fromkeys(_expected(problem) for problem in problems)
    return f"{place} is {_shortened(first['input'])}, but should {' or '.join(expected)}"


def _unknown(place: str, known: list[str]) -> str:
    near = difflib.get_close_matches(place.rpartition(".")[2], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}"
    return f"unknown field {place!r}; {hint}"


def _expected(problem: ErrorDetails) -> str:
    if problem["type"] in {"model_type", "dict_type"}:
        return "be an object with named fields"
    # "Input should be a valid number, unable to parse string as a number"
    demand = re.sub(r"^\w+ should ", "", problem["msg"])
    return demand.partition(", unable to parse")[0].partition(" after validation")[0]


def _known_fields(place: Sequence[str | int], kind: type[Wire] | None) -> list[str]:
    for part in place[:-1]:
        if kind is not None and part in kind.model_fields:
            kind = _wire_in(kind.model_fields[str(part)].annotation)
    return sorted(kind.model_fields) if kind is not None else []


def _shortened(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _subclasses(kind: type[Wire]) -> list[type[Wire]]:
    return [found for child in kind.__subclasses__() for found in (child, *_subclasses(child))]
