"""The body of a request, streamed into shared memory: the copy made here is the only one."""

from __future__ import annotations

from contextlib import aclosing
from types import TracebackType
from typing import Self

from fastapi.exceptions import RequestValidationError
from starlette.requests import Request

from ..engine.intake import Intake
from ..flow import Flow
from .errors import BodyLengthMismatch, BodyTooLarge, MalformedBody
from .multipart import FilePart, boundary_of

DEFAULT_MAX_BODY_SIZE = 64 << 20
"""Bytes that a body may have, if the endpoint does not say."""

FIRST_BLOCK = 256 << 10
"""Bytes to begin with when the client does not say how many will come."""


async def receive_upload(request: Request, flow: Flow, name: str, max_body_size: int, timeout: float) -> memoryview:
    """Stream the body of a request into shared memory.

    A multipart form gives the part of a name; any other body is taken as it is.

    Args:
        request: Its body must not have been read.
        flow: Whose shared memory to use.
        name: Name of the part of a multipart form, and of the field in error messages.
        max_body_size: The most bytes the body may have.
        timeout: Seconds to wait for room in shared memory.

    Returns:
        A read-only view; the memory is free again when the last view of it is gone.

    Raises:
        BodyError: The body is too large, not as long as announced or malformed.
        RequestValidationError: The body, or the part of it, is missing or empty.
        ArenaFull: There was no room in time.
        ClientDisconnect: The client went away.

    However it ends, a body that was not received completely leaves nothing behind.
    """
    announced = _content_length(request)
    if announced is not None and announced > max_body_size:
        raise _too_large(max_body_size)
    if announced == 0:
        raise _missing(name)
    boundary = boundary_of(request.headers.get("content-type", ""))
    size = min(FIRST_BLOCK, max_body_size) if announced is None else announced
    async with _Room(flow, size, timeout) as room:
        part = None if boundary is None else FilePart(boundary, name, room.write)
        received = 0
        async with aclosing(request.stream()) as chunks:
            async for chunk in chunks:
                received += len(chunk)
                if announced is not None and received > announced:
                    raise _mismatch(announced, f"{received} or more")
                if received > max_body_size:
                    raise _too_large(max_body_size)
                # The file is never longer than the body, so this is enough for a part of a form too.
                await room.extend(received)
                (room.write if part is None else part.feed)(chunk)
        if announced is not None and received < announced:
            raise _mismatch(announced, str(received))
        if part is not None:
            part.finish()
        upload = room.finish()
    if not upload:
        raise _missing(name)
    return upload


class _Room:
    """The block that fills; it is exchanged for a larger one when nobody said how long the body is."""

    def __init__(self, flow: Flow, size: int, timeout: float) -> None:
        self._flow = flow
        self._size = size
        self._timeout = timeout
        self._intake: Intake

    async def __aenter__(self) -> Self:
        self._intake = await self._flow.reserve(self._size, self._timeout)
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._intake.close()

    async def extend(self, size: int) -> None:
        if size <= self._size:
            return
        self._size = max(size, 2 * self._size)
        larger = await self._flow.reserve(self._size, self._timeout)
        larger.write(self._intake.finish())
        self._intake = larger

    def write(self, data: bytes | memoryview) -> None:
        self._intake.write(data)

    def finish(self) -> memoryview:
        return self._intake.finish()


def _content_length(request: Request) -> int | None:
    value = request.headers.get("content-length")
    if value is None:
        return None
    if not value.isdecimal():
        raise MalformedBody("The Content-Length is not a number.")
    return int(value)


def _too_large(limit: int) -> BodyTooLarge:
    return BodyTooLarge(f"The body may have at most {limit} bytes.")


def _mismatch(announced: int, received: str) -> BodyLengthMismatch:
    return BodyLengthMismatch(f"The Content-Length is {announced}, but {received} bytes came.")


def _missing(name: str) -> RequestValidationError:
    # What FastAPI says about a required file that did not come.
    return RequestValidationError([{"type": "missing", "loc": ("body", name), "msg": "Field required", "input": None}])
