"""The formats of streamed responses: Server-Sent Events, JSON lines, and pieces of text or bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import ResponseValidationError
from fastapi.sse import KEEPALIVE_COMMENT, ServerSentEvent, format_sse_event
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

Dump = Callable[[Any], bytes]
"""Serializes a value to JSON, on one line."""


class Format(Protocol):
    """Writes the values of a response.

    Attributes:
        headers: The headers of the response.
        keep_alive: What is sent while there are no values; empty: nothing.
    """

    headers: ClassVar[list[tuple[bytes, bytes]]]
    keep_alive: ClassVar[bytes]

    def encode(self, value: Any) -> bytes:
        """Write a value."""


class JSONLines:
    """JSON lines: each value on a line of its own.

    Args:
        dump: Serializes a value.
    """

    headers: ClassVar[list[tuple[bytes, bytes]]] = [(b"content-type", b"application/jsonl")]
    keep_alive: ClassVar[bytes] = b""

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def encode(self, value: Any) -> bytes:
        """Write a value."""
        return self._dump(value) + b"\n"


class ServerSentEvents:
    """Server-Sent Events: each value is the data of an event, or a whole ``ServerSentEvent``.

    Args:
        dump: Serializes a value.
    """

    headers: ClassVar[list[tuple[bytes, bytes]]] = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx passes each event on at once
    ]
    keep_alive: ClassVar[bytes] = KEEPALIVE_COMMENT

    def __init__(self, dump: Dump) -> None:
        self._dump = dump

    def encode(self, value: Any) -> bytes:
        """Write a value."""
        if isinstance(value, ServerSentEvent):
            return _event(value)
        return b"data: " + self._dump(value) + b"\n\n"  # JSON has no line breaks


class Pieces:
    """Pieces of text or bytes, as they are."""

    headers: ClassVar[list[tuple[bytes, bytes]]] = []
    keep_alive: ClassVar[bytes] = b""

    def encode(self, value: Any) -> bytes:
        """Return the bytes of a piece."""
        # A copy of a view: what the server has not sent yet must not hold shared memory.
        return value.encode() if isinstance(value, str) else memoryview(value).tobytes()


def dump_as(annotation: Any, context: Any = None) -> Dump:
    """Return a function that validates values against a type and serializes them, as FastAPI does.

    Args:
        annotation: The type.
        context: FastAPI's description of the endpoint, for the error of a value of another type.
    """
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    validate, serialize = adapter.validator.validate_python, adapter.serializer.to_json

    def dump(value: Any) -> bytes:
        try:
            return serialize(validate(value, from_attributes=True), by_alias=True)
        except ValidationError as exc:
            errors = [{**error, "loc": ("response", *error["loc"])} for error in exc.errors(include_url=False)]
            raise ResponseValidationError(errors=errors, body=value, endpoint_ctx=context) from None

    return dump


def dump_any(value: Any) -> bytes:
    """Serialize a value of which no type is known, as FastAPI does."""
    return to_json(value if type(value) is str else jsonable_encoder(value), inf_nan_mode="null")


def _event(event: ServerSentEvent) -> bytes:
    # As FastAPI does: such an event is not validated against the type of the items.
    data = event.raw_data
    if data is None and event.data is not None:
        data = event.data.model_dump_json() if hasattr(event.data, "model_dump_json") else dump_any(event.data).decode()
    return format_sse_event(data_str=data, event=event.event, id=event.id, retry=event.retry, comment=event.comment)
