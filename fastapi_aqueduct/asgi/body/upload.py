"""The body of a request, streamed into shared memory: the copy made here is the only one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fastapi.exceptions import RequestValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from ...flow import BlockWriter, Flow
from ...params import UploadInfo
from ..errors import BodyTooLarge, MalformedBody, UnsupportedBody
from .disposition import decoded, filename_of
from .limits import BodyRules, is_acceptable
from .multipart import Event, MultipartForm, PartBegin, PartData, boundary_of
from .pace import Pace
from .parts import UploadPart
from .stream import Body

_TYPE_OF_CURL = "application/x-www-form-urlencoded"

MAX_FIELDS_SIZE = 1 << 20
"""Bytes that the fields of a form beside the uploads may have together; they lie on the heap."""


@dataclass
class Received:
    """What came in the body of a request.

    Attributes:
        uploads: Read-only views on shared memory by the names of the uploads, in the order in which they came; the
            memory of one is free again when the last view of it is gone.
        infos: What the client said about them.
        nameless: Names of uploads under which something came that is no file.
        fields: The other parts of a form that are no files.
    """

    uploads: dict[str, list[memoryview]] = field(default_factory=dict)
    infos: dict[str, list[UploadInfo]] = field(default_factory=dict)
    nameless: set[str] = field(default_factory=set)
    fields: list[tuple[str, str | UploadFile]] = field(default_factory=list)

    @property
    def form(self) -> FormData:
        """The fields as FastAPI takes them."""
        return FormData(self.fields)

    def add(self, name: str, view: memoryview, filename: str | None, content_type: str | None) -> None:
        """Add an upload that is complete."""
        self.uploads.setdefault(name, []).append(view)
        self.infos.setdefault(name, []).append(UploadInfo(filename, content_type, len(view)))


class UploadReader:
    """Streams the body of a request into shared memory: a multipart form part by part, anything else as it is.

    Args:
        request: Its body must not have been read.
        parts: The uploads by their names, which are those of the parts of a form.
        rules: What the endpoint takes.

    Raises:
        BodyError: The headers say that the body cannot be used; nothing of it was asked for.
        RequestValidationError: They say that there is none.
    """

    def __init__(self, request: Request, parts: Mapping[str, UploadPart], rules: BodyRules) -> None:
        self._parts = parts
        self._rules = rules
        self._body = Body(request, rules)
        self._content_type: str | None = request.headers.get("content-type")
        self._disposition: str | None = request.headers.get("content-disposition")
        self._is_empty = self._body.size == 0
        required = [part.name for part in parts.values() if part.is_required]
        if self._is_empty and required:
            raise RequestValidationError([missing(name) for name in required])
        self._boundary = boundary_of(self._content_type or "")
        if self._boundary is None and not self._is_empty:
            if len(parts) > 1:
                raise UnsupportedBody(f"{' and '.join(parts)} must come as parts of a multipart/form-data body.")
            (part,) = parts.values()
            _check_type(part, rules, self._content_type)
            if part.max_size is not None:
                self._body.restrict(part.max_size)

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
        self._body.restrict(flow.memory_limit)
        body, rules = self._body, self._rules
        with Pace(body.limits) as pace, flow.receive(body.size, body.max_size, rules.wait, body.limits.cap) as intake:
            intake.arrival.on_abandon(pace.refuse)
            if self._boundary is None:
                return await self._receive_raw(intake, pace)
            form = _FormReader(self._boundary, self._parts, rules, intake, pace)
            await body.pour(form, pace)
            return form.finish()

    async def _receive_raw(self, intake: BlockWriter, pace: Pace) -> Received:
        intake.begin()
        await self._body.pour(_RawReader(intake, pace), pace)
        view = intake.finish()
        received = Received()
        if view:
            (name,) = self._parts
            received.add(name, view, filename_of(self._disposition), self._content_type)
        return received


class _RawReader:
    """Writes a body as it comes to shared memory."""

    def __init__(self, intake: BlockWriter, pace: Pace) -> None:
        self._intake = intake
        self._pace = pace
        self._waiting: deque[bytes | bytearray] = deque()

    def take(self, data: bytes | bytearray) -> None:
        if self._waiting or not self._intake.write(data):
            self._waiting.append(data)

    def is_full(self) -> bool:
        return bool(self._waiting)

    async def settle(self) -> None:
        self._pace.pause()
        # More may come while room is waited for.
        while self._waiting:
            await self._intake.write_patiently(self._waiting[0])
            self._waiting.popleft()
        self._pace.resume()


class _FormReader:
    """Sorts the parts of a form: uploads go to shared memory, fields are collected, other files are dropped."""

    def __init__(
        self, boundary: bytes, parts: Mapping[str, UploadPart], rules: BodyRules, intake: BlockWriter, pace: Pace
    ) -> None:
        self._rules = rules
        self._parser = MultipartForm(boundary)
        self._parts = parts
        self._intake = intake
        self._pace = pace
        self._received = Received()
        self._fields_size = 0
        self._part: PartBegin | None = None
        self._upload: UploadPart | None = None
        self._field = bytearray()
        self._unread: deque[bytes | bytearray] = deque()
        self._start = 0
        self._waiting: deque[Event] = deque()

    def take(self, data: bytes | bytearray) -> None:
        self._unread.append(data)
        if len(self._unread) == 1:
            self._read()

    def is_full(self) -> bool:
        return bool(self._waiting or self._unread)

    async def settle(self) -> None:
        self._pace.pause()
        # More may come while room, or a turn of the event loop, is waited for.
        while self._waiting or self._unread:
            while self._waiting:
                event = self._waiting[0]
                if not self._take(event):
                    assert isinstance(event, PartData)
                    await self._wait(event)
                self._waiting.popleft()
            if self._unread:
                await asyncio.sleep(0)
                self._read()
        self._pace.resume()

    def _read(self) -> None:
        """Read as much of the first piece as should be read in one turn of the event loop."""
        data = self._unread[0]
        events, self._start = self._parser.feed(data, self._start)
        for event in events:
            if self._waiting or not self._take(event):
                self._waiting.append(event)
        if self._start == len(data):
            self._unread.popleft()
            self._start = 0

    def finish(self) -> Received:
        self._parser.finish()
        return self._received

    def _take(self, event: Event) -> bool:
        """Do what can be done without waiting for room, and tell whether that was all."""
        if isinstance(event, PartData):
            return self._take_data(event)
        if isinstance(event, PartBegin):
            self._begin(event)
        else:
            self._end()
        return True

    async def _wait(self, data: PartData) -> None:
        if self._upload is not None:
            await self._intake.write_patiently(data.view)
        else:
            await self._intake.arrival.wait(data.end - data.start)
            self._add_to_field(data)

    def _begin(self, part: PartBegin) -> None:
        self._part, self._field = part, bytearray()
        # A browser sends an empty name where no file was chosen.
        wanted = self._upload = self._parts.get(part.name) if part.filename else None
        if wanted is None:
            return
        if part.name in self._received.uploads and not wanted.is_list:
            raise MalformedBody(f"The multipart form has more than one part named {part.name!r}.")
        _check_type(wanted, self._rules, part.content_type)
        self._intake.begin()

    def _take_data(self, data: PartData) -> bool:
        part, upload = self._part, self._upload
        assert part is not None
        if upload is not None:
            if upload.max_size is not None:
                self._check_size(upload, data)
            return self._intake.write(data.view)
        if part.name in self._parts:
            self._received.nameless.add(part.name)
        elif part.filename is None:
            size = data.end - data.start
            if self._fields_size + size > MAX_FIELDS_SIZE:
                raise BodyTooLarge(f"The fields of the form may have at most {MAX_FIELDS_SIZE} bytes together.")
            if not self._intake.arrival.take(size):
                return False
            self._add_to_field(data)
        return True

    def _add_to_field(self, data: PartData) -> None:
        self._fields_size += data.end - data.start
        self._field += data.view

    def _check_size(self, upload: UploadPart, data: PartData) -> None:
        assert upload.max_size is not None
        if self._intake.received + data.end - data.start > upload.max_size:
            raise BodyTooLarge(f"{upload.name} may have at most {upload.max_size} bytes.")

    def _end(self) -> None:
        part = self._part
        assert part is not None
        if self._upload is not None:
            self._received.add(part.name, self._intake.finish(), part.filename, part.content_type)
        elif part.filename is None and part.name not in self._parts:
            self._received.fields.append((part.name, decoded(self._field)))


def _check_type(part: UploadPart, rules: BodyRules, content_type: str | None) -> None:
    media_types = part.media_types or rules.media_types
    if is_acceptable(content_type, media_types):
        return
    wanted = ", ".join(media_types)
    text = f"The upload {part.name} must be of type {wanted}, not {content_type or 'an unknown one'}."
    if content_type is not None and content_type.lower().startswith(_TYPE_OF_CURL):
        example = media_types[0].replace("*", "...")
        text += f" That is what curl --data-binary says by itself; add -H 'Content-Type: {example}'."
    raise UnsupportedBody(text, {"Accept": wanted})


def missing(name: str) -> dict[str, Any]:
    """Say what FastAPI says about a required file that did not come."""
    return {"type": "missing", "loc": ("body", name), "msg": "Field required", "input": None}


def refused_file(place: tuple[str | int, ...], reason: str) -> dict[str, Any]:
    """Say what is wrong with a file, as FastAPI says it of a value.

    Args:
        place: Name of the upload, and the place of the file where there are several.
        reason: What is wrong.
    """
    return {"type": "value_error", "loc": ("body", *place), "msg": f"Value error, {reason}", "input": None}
