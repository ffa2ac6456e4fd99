"""Parses a multipart form while it arrives; nothing is stored here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState

from ..errors import MalformedBody
from .disposition import decoded, options_of, parse_disposition
from .sink import Sink

MAX_PARTS = 1000
"""Parts that a form may have; Starlette allows as many files and as many fields."""

PARTS_PER_TURN = 32
"""Parts that begin in one turn of the event loop: each costs as much as many kilobytes of content."""

STEP = 16 << 10
"""Bytes of a form, other than content, that the parser gets at once, and in one turn of the event loop."""

_BLANK_LINE = b"\r\n\r\n"


@dataclass(frozen=True)
class PartBegin:
    """The headers of a part have come.

    Attributes:
        name: Name of the field.
        filename: Name of the file, None for a field that is no file.
        content_type: Type of the content, None when the client does not say.
    """

    name: str
    filename: str | None
    content_type: str | None


class PartData(NamedTuple):
    """A piece of the content of a part."""

    source: bytes | bytearray
    start: int
    end: int

    @property
    def view(self) -> memoryview:
        """The piece."""
        return memoryview(self.source)[self.start : self.end]


class PartEnd:
    """A part is complete."""


Event: TypeAlias = PartBegin | PartData | PartEnd


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a multipart form, None when the content is something else.

    Raises:
        MalformedBody: A multipart form without a boundary.
    """
    kind, options = options_of(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise MalformedBody("The Content-Type multipart/form-data needs a boundary.")
    return options[b"boundary"]


class PartSink(Protocol):
    """The next stage for the parts of a form, which come one after the other; `write` and `drain` as in `Sink`."""

    def begin(self, part: PartBegin) -> None:
        """Begin a part."""
        ...

    def write(self, data: PartData) -> bool:
        """Process the next piece of its content; return whether another call may follow before `drain`."""
        ...

    async def drain(self) -> None:
        """Finish the piece that `write` has kept, if there is one."""
        ...

    def end(self) -> None:
        """End the part: it is complete."""
        ...


class Multipart(Sink):
    """The stage that turns a form into its parts, so much of it in each turn of the event loop.

    Args:
        boundary: What separates the parts.
        sink: The next stage.

    Raises:
        MalformedBody: The boundary cannot be used.
    """

    def __init__(self, boundary: bytes, sink: PartSink) -> None:
        self._form = MultipartForm(boundary)
        self._sink = sink
        self._events: Iterator[Event] = iter(())
        self._kept: bytes | bytearray = b""
        self._start = 0

    def write(self, data: bytes | bytearray) -> bool:
        """Parse a piece as far as one turn of the event loop allows; see `Sink`."""
        self._parse(data, 0)
        if self._pass_on() and self._start == len(data):
            return True
        self._kept = data
        return False

    async def drain(self) -> None:
        """Parse the rest of the kept piece, some of it in each turn of the event loop."""
        while True:
            await self._sink.drain()
            if not self._pass_on():
                continue
            if self._start == len(self._kept):
                break
            await asyncio.sleep(0)
            self._parse(self._kept, self._start)
        self._kept = b""

    def finish(self) -> None:
        """Check that the form is complete."""
        self._form.finish()

    def _parse(self, data: bytes | bytearray, start: int) -> None:
        """Parse as much as one turn allows."""
        events, self._start = self._form.feed(data, start)
        self._events = iter(events)

    def _pass_on(self) -> bool:
        """Pass on what was parsed; return whether the next stage has accepted all of it."""
        for event in self._events:
            if isinstance(event, PartData):
                if not self._sink.write(event):
                    return False
            elif isinstance(event, PartBegin):
                self._sink.begin(event)
            else:
                self._sink.end()
        return True


class MultipartForm:
    """Turns the pieces of a form, which may be cut anywhere, into events.

    Args:
        boundary: What separates the parts.

    Raises:
        MalformedBody: The boundary cannot be used.
    """

    def __init__(self, boundary: bytes) -> None:
        self._events: list[Event] = []
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = bytearray(), bytearray()
        self._parts = 0
        self._has_begun_part = True
        self._has_ended = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._field.extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._end_headers,
                    "on_part_data": self._add_data,
                    "on_part_end": lambda: self._events.append(PartEnd()),
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise MalformedBody("The boundary of the multipart form cannot be used.") from exc

    def feed(self, data: bytes | bytearray, start: int = 0) -> tuple[list[Event], int]:
        """Parse the next piece of the body, or the rest of it, as far as one turn of the event loop allows.

        Args:
            data: The piece.
            start: Where to continue in it.

        Returns:
            The events, and where to continue.

        Raises:
            MalformedBody: The body is not a multipart form.
        """
        last, parsed = self._parts + PARTS_PER_TURN, 0
        while (start := self._pass_content(data, start)) < len(data) and self._parts < last and parsed < STEP:
            end = self._end_of_headers(data, start)
            self._parse(data[start:end])
            parsed += end - start
            start = end
        events, self._events = self._events, []
        return events, start

    def _end_of_headers(self, data: bytes | bytearray, start: int) -> int:
        # The parser is slow at content, so it gets a delimiter and the headers behind it, up to the blank line. It
        # accepts a form cut anywhere. But a form of blank lines without parts must not cause a call for each of them.
        blank = data.find(_BLANK_LINE, start, start + STEP) if self._has_begun_part else -1
        self._has_begun_part = False
        return min(start + STEP, len(data)) if blank < 0 else blank + len(_BLANK_LINE)

    @property
    def _is_in_content(self) -> bool:
        # Its index counts the letters of a delimiter that may have begun.
        return self._parser.state == MultipartState.PART_DATA and not self._parser.index

    def _pass_content(self, data: bytes | bytearray, start: int) -> int:
        """Pass on the content of a part that continues at ``start``, and return where it ends."""
        if not self._is_in_content:
            return start
        delimiter = self._parser.boundary  # with the CR, LF and hyphens before it
        end = data.find(delimiter, start)
        if end < 0:
            # A delimiter may begin with the last bytes: with a CR, of which it has only one.
            end = data.rfind(b"\r", max(start, len(data) - len(delimiter) + 1))
            if end < 0 or not delimiter.startswith(data[end:]):
                end = len(data)
        if end > start:
            self._add_data(data, start, end)
        return end

    def _parse(self, data: bytes | bytearray) -> None:
        try:
            self._parser.write(data)  # type: ignore[arg-type]  # takes any bytes-like object
        except FormParserError as exc:
            raise MalformedBody("The body is not a valid multipart form.") from exc

    def finish(self) -> None:
        """Check that the form was complete.

        Raises:
            MalformedBody: The end of the form is missing.
        """
        if not self._has_ended:
            raise MalformedBody("The multipart form ends in the middle.")

    def _begin_part(self) -> None:
        self._headers = {}
        self._has_begun_part = True
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedBody(f"The multipart form has more than {MAX_PARTS} parts.")

    def _end_header(self) -> None:
        self._headers[bytes(self._field).lower()] = bytes(self._value)
        self._field, self._value = bytearray(), bytearray()

    def _end_headers(self) -> None:
        name, filename = parse_disposition(self._headers.get(b"content-disposition"))
        if name is None:
            raise MalformedBody("A part of the multipart form has no name.")
        content_type = self._headers.get(b"content-type")
        self._events.append(PartBegin(name, filename, None if content_type is None else decoded(content_type)))

    def _add_data(self, data: bytes | bytearray, start: int, end: int) -> None:
        last = self._events[-1] if self._events else None
        # The parser stops at everything that looks like the start of a boundary.
        if isinstance(last, PartData) and last.source is data and last.end == start:
            self._events[-1] = PartData(data, last.start, end)
        else:
            self._events.append(PartData(data, start, end))

    def _end(self) -> None:
        self._has_ended = True
