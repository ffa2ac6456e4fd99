"""Takes one part out of a multipart body while it arrives."""

from __future__ import annotations

from collections.abc import Callable

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from .errors import MalformedBody


def boundary_of(content_type: str) -> bytes | None:
    """Return the boundary of a multipart form, None when the content is something else.

    Raises:
        MalformedBody: A multipart form without a boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise MalformedBody("The Content-Type multipart/form-data needs a boundary.")
    return options[b"boundary"]


class FilePart:
    """Passes the bytes of one part on and drops those of the others; nothing is stored.

    Args:
        boundary: What separates the parts.
        name: Name of the part.
        write: Takes a piece of the part; the piece must be copied at once.

    Attributes:
        is_found: Whether the part has come.
    """

    def __init__(self, boundary: bytes, name: str, write: Callable[[memoryview], None]) -> None:
        self.is_found = False
        self._name = name.encode()
        self._write = write
        self._is_wanted = False
        self._has_ended = False
        self._header: tuple[bytearray, bytearray] = (bytearray(), bytearray())
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, start, end: self._header[0].extend(data[start:end]),
                    "on_header_value": lambda data, start, end: self._header[1].extend(data[start:end]),
                    "on_header_end": self._end_header,
                    "on_part_data": self._take,
                    "on_end": self._end,
                },
            )
        except FormParserError as exc:
            raise MalformedBody("The boundary of the multipart form cannot be used.") from exc

    def feed(self, data: bytes) -> None:
        """Take in the next piece of the body.

        Raises:
            MalformedBody: It is not a multipart form.
        """
        try:
            self._parser.write(data)
        except FormParserError as exc:
            raise MalformedBody("The body is not a valid multipart form.") from exc

    def finish(self) -> None:
        """Check that the form was complete.

        Raises:
            MalformedBody: Its end is missing.
        """
        if not self._has_ended:
            raise MalformedBody("The multipart form ends in the middle.")

    def _begin_part(self) -> None:
        self._is_wanted = False
        self._header = (bytearray(), bytearray())

    def _end_header(self) -> None:
        field, value = self._header
        self._header = (bytearray(), bytearray())
        if field.lower() != b"content-disposition":
            return
        _, options = parse_options_header(bytes(value))
        self._is_wanted = options.get(b"name") == self._name
        if self._is_wanted and self.is_found:
            raise MalformedBody(f"The multipart form has more than one part named {self._name.decode()!r}.")
        self.is_found = self.is_found or self._is_wanted

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._is_wanted:
            self._write(memoryview(data)[start:end])

    def _end(self) -> None:
        self._has_ended = True
