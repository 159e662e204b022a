"""The data converter: pydantic JSON, tolerant of unknown fields, final about wrong values."""

from __future__ import annotations

import functools
from typing import Any

from pydantic import TypeAdapter, ValidationError
from temporalio.api.common.v1 import Payload
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
)
from temporalio.exceptions import ApplicationError, ApplicationErrorCategory

from durabert.leaving import let_threads_leave_first
from durabert.specs import spec_invalid

# Whoever wants the converter talks to Temporal, be it by a replayer of their own.
let_threads_leave_first()


@functools.cache
def _adapter(type_hint: Any) -> TypeAdapter[Any]:
    return TypeAdapter(type_hint)


class _WireJSONConverter(PydanticJSONPlainPayloadConverter):
    def from_payload(self, payload: Payload, type_hint: Any = None) -> Any:
        try:
            return _adapter(type_hint or Any).validate_json(payload.data, extra="ignore")
        except ValidationError as error:
            # A plain exception would be a failed workflow task, which Temporal retries for ever:
            # the caller would see "running" instead of the mistake.
            invalid = spec_invalid(error)
            raise ApplicationError(
                str(invalid),
                type=type(invalid).__name__,
                non_retryable=True,
                category=ApplicationErrorCategory.BENIGN,
            ) from None


class WirePayloadConverter(CompositePayloadConverter):
    """Temporal's default converters with durabert's JSON converter in place of the plain one."""

    def __init__(self) -> None:
        super().__init__(
            *(
                _WireJSONConverter() if isinstance(converter, JSONPlainPayloadConverter) else converter
                for converter in DefaultPayloadConverter.default_encoding_payload_converters
            )
        )


data_converter = DataConverter(payload_converter_class=WirePayloadConverter)
"""Give this to a Temporal client of your own; ``DurabertPlugin`` does it for you."""
