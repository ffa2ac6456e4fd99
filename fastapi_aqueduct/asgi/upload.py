"""The body of a request, streamed into shared memory: the copy made here is the only one."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from python_multipart.multipart import parse_options_header
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from ..engine.intake import Intake
from ..flow import Flow
from ..task import UploadInfo
from .body import Body
from .errors import BodyTooLarge, MalformedBody, UnsupportedBody
from .limits import BodyRules, is_acceptable
from .multipart import Event, MultipartForm, PartBegin, PartData, boundary_of, decoded
from .pace import Pace

FIRST_BLOCK = 256 << 10
"""Bytes to begin with when the client does not say how many will come."""

MAX_FIELDS_SIZE = 1 << 20
"""Bytes that the fields of a form beside the uploads may have together; they lie on the heap."""


@dataclass
class Received:
    """What came in the body of a request.

    Attributes:
        uploads: Read-only views on shared memory by the names of the uploads; the memory is free again when the last
            view of it is gone.
        infos: What the client said about them.
        fields: The other parts of a form that are no files.
    """

    uploads: dict[str, memoryview] = field(default_factory=dict)
    infos: dict[str, UploadInfo] = field(default_factory=dict)
    fields: list[tuple[str, str | UploadFile]] = field(default_factory=list)

    @property
    def form(self) -> FormData:
        """The fields as FastAPI takes them."""
        return FormData(self.fields)


class UploadReader:
    """Streams the body of a request into shared memory: a multipart form part by part, anything else as it is.

    Args:
        request: Its body must not have been read.
        names: Names of the uploads, which are those of the parts of a form.
        required: Those of them that must come.
        rules: What the endpoint takes.

    Raises:
        BodyError: The headers say that the body cannot be used; nothing of it was asked for.
        RequestValidationError: They say that there is none.
    """

    def __init__(
        self, request: Request, names: tuple[str, ...], required: tuple[str, ...], rules: BodyRules
    ) -> None:
        self._names = names
        self._rules = rules
        self._body = Body(request, rules)
        self._content_type: str | None = request.headers.get("content-type")
        self._disposition: str | None = request.headers.get("content-disposition")
        self._is_empty = self._body.size == 0
        if self._is_empty and required:
            raise RequestValidationError([missing(name) for name in required])
        self._boundary = boundary_of(self._content_type or "")
        if self._boundary is None and not self._is_empty:
            _check_type(rules, self._content_type)
            if len(names) > 1:
                raise UnsupportedBody(f"{' and '.join(names)} must come as parts of a multipart/form-data body.")

    async def receive(self, flow: Flow) -> Received:
        """Read the body.

        Args:
            flow: Whose shared memory to use.

        Raises:
            BodyError: The body is too large, too slow, not as long as announced or malformed.
            Overloaded: There was no room in time, or too much is arriving already.
            ClientDisconnect: The client went away.

        However it ends, what was not received completely leaves nothing behind.
        """
        if self._is_empty:
            return Received()
        with Pace(self._body.limits) as pace:
            room = _Room(flow, self._body, self._rules.wait, pace)
            try:
                if self._boundary is None:
                    return await self._receive_raw(room, pace)
                form = _FormReader(self._boundary, self._names, self._rules, room)
                await self._body.pour(form, pace)
                return form.finish()
            finally:
                room.close()

    async def _receive_raw(self, room: _Room, pace: Pace) -> Received:
        await room.open()
        await self._body.pour(room, pace)
        view = room.finish()
        name, filename = self._names[0], _filename(self._disposition)
        return Received({name: view}, {name: UploadInfo(filename, self._content_type, len(view))})


class _FormReader:
    """Sorts the parts of a form: uploads go to shared memory, fields are collected, other files are dropped."""

    def __init__(self, boundary: bytes, names: tuple[str, ...], rules: BodyRules, room: _Room) -> None:
        self._rules = rules
        self._parser = MultipartForm(boundary)
        self._names = names
        self._room = room
        self._received = Received()
        self._fields_size = 0
        self._position = 0
        self._part: PartBegin | None = None
        self._field = bytearray()
        self._waiting: deque[tuple[Event, int]] = deque()

    def take(self, data: bytes | bytearray) -> None:
        for event in self._parser.feed(data):
            if self._waiting or not self._take(event):
                self._waiting.append((event, self._position))
        self._position += len(data)

    def is_full(self) -> bool:
        return bool(self._waiting)

    async def settle(self) -> None:
        # More may come while room is waited for.
        while self._waiting:
            event, position = self._waiting[0]
            if not self._take(event):
                await self._make_room(event, position)
            self._waiting.popleft()

    def finish(self) -> Received:
        self._parser.finish()
        return self._received

    def _take(self, event: Event) -> bool:
        """Do what can be done without waiting for room, and tell whether that was all."""
        if isinstance(event, PartData):
            return self._take_data(event)
        if isinstance(event, PartBegin):
            return self._begin(event)
        self._end()
        return True

    async def _make_room(self, event: Event, position: int) -> None:
        if isinstance(event, PartData):
            await self._room.grow(event.view)
        else:
            # What comes behind the part is given back at its end.
            await self._room.open(position)

    def _begin(self, part: PartBegin) -> bool:
        self._part, self._field = part, bytearray()
        if part.name not in self._names:
            return True
        if part.name in self._received.uploads:
            raise MalformedBody(f"The multipart form has more than one part named {part.name!r}.")
        _check_type(self._rules, part.content_type)
        return False

    def _take_data(self, data: PartData) -> bool:
        assert self._part is not None
        if self._part.name in self._names:
            return self._room.write(data.view)
        if self._part.filename is None:
            self._fields_size += data.end - data.start
            if self._fields_size > MAX_FIELDS_SIZE:
                raise BodyTooLarge(f"The fields of the form may have at most {MAX_FIELDS_SIZE} bytes together.")
            self._field += data.view
        return True

    def _end(self) -> None:
        part = self._part
        assert part is not None
        if part.name in self._names:
            view = self._room.finish()
            self._received.uploads[part.name] = view
            self._received.infos[part.name] = UploadInfo(part.filename, part.content_type, len(view))
        elif part.filename is None:
            self._received.fields.append((part.name, decoded(self._field)))


class _Room:
    """The block that fills at present."""

    def __init__(self, flow: Flow, body: Body, wait: float, pace: Pace) -> None:
        self._flow = flow
        self._body = body
        self._wait = wait
        self._pace = pace
        self._intake: Intake | None = None
        self._waiting: deque[bytes | bytearray] = deque()

    async def open(self, position: int = 0) -> None:
        """Take a block that is enough for all that comes from a position of the body on, if that is known."""
        size = self._body.size
        room = min(FIRST_BLOCK, self._body.max_size) if size is None else size - position
        self._pace.pause()
        self._intake = await self._flow.reserve(room, self._wait, self._body.limits.cap)
        self._pace.resume()

    def take(self, data: bytes | bytearray) -> None:
        if self._waiting or not self.write(data):
            self._waiting.append(data)

    def is_full(self) -> bool:
        return bool(self._waiting)

    async def settle(self) -> None:
        # More may come while room is waited for.
        while self._waiting:
            data = self._waiting[0]
            if not self.write(data):
                await self.grow(data)
            self._waiting.popleft()

    def write(self, data: bytes | bytearray | memoryview) -> bool:
        """Take data in, and tell whether there was room for it."""
        intake = self._intake
        assert intake is not None
        if len(data) > intake.room:
            return False
        intake.write(data)
        return True

    async def grow(self, data: bytes | bytearray | memoryview) -> None:
        """Make room for data, and for more, and take it in."""
        intake = self._intake
        assert intake is not None
        needed = intake.received + len(data)
        self._pace.pause()
        await intake.grow(max(needed, min(2 * needed, self._body.max_size)), self._wait)
        self._pace.resume()
        intake.write(data)

    def finish(self) -> memoryview:
        assert self._intake is not None
        view = self._intake.finish()
        self._intake = None
        return view

    def close(self) -> None:
        if self._intake is not None:
            self._intake.close()


def _check_type(rules: BodyRules, content_type: str | None) -> None:
    if not is_acceptable(content_type, rules.media_types):
        wanted = ", ".join(rules.media_types)
        raise UnsupportedBody(
            f"The upload must be of type {wanted}, not {content_type or 'an unknown one'}.", {"Accept": wanted}
        )


def missing(name: str) -> dict[str, Any]:
    """Say what FastAPI says about a required file that did not come."""
    return {"type": "missing", "loc": ("body", name), "msg": "Field required", "input": None}


def _filename(disposition: str | None) -> str | None:
    _, options = parse_options_header(disposition)
    name = options.get(b"filename")
    return None if name is None else decoded(name)
