"""The last stage of a form: sorts its parts."""

from __future__ import annotations

from collections.abc import Mapping

from ...flow import BlockWriter
from ..errors import BodyTooLarge, MalformedBody
from .disposition import decoded
from .multipart import PartBegin, PartData, PartSink
from .parts import Hash, Received, UploadPart

MAX_FIELDS_SIZE = 1 << 20
"""Bytes that all fields of a form beside the uploads may have; they lie on the heap."""


class FormParts(PartSink):
    """Writes uploads to shared memory, collects fields on the heap, and drops other files.

    Args:
        parts: The uploads by the names of their parts.
        media_types: The types that the endpoint accepts.
        writer: Writes to shared memory.

    Attributes:
        received: The parts that are complete.
    """

    def __init__(self, parts: Mapping[str, UploadPart], media_types: tuple[str, ...], writer: BlockWriter) -> None:
        self.received = Received()
        self._parts = parts
        self._media_types = media_types
        self._writer = writer
        self._part: PartBegin | None = None
        self._upload: UploadPart | None = None
        self._hash: Hash | None = None
        self._field = bytearray()
        self._fields_size = 0
        self._kept: PartData | None = None

    def begin(self, part: PartBegin) -> None:
        """Begin a part: find out where its content goes."""
        self._part, self._field = part, bytearray()
        # A browser sends an empty name where no file was chosen.
        upload = self._upload = self._parts.get(part.name) if part.filename else None
        if upload is None:
            return
        if part.name in self.received.uploads and not upload.is_list:
            raise MalformedBody(f"The multipart form has more than one part named {part.name!r}.")
        upload.check_type(part.content_type, self._media_types)
        self._hash = upload.new_hash()
        self._writer.begin()

    def write(self, data: PartData) -> bool:
        """Write a piece, if there is memory for it; see `PartSink`."""
        is_written = self._write_field(data) if self._upload is None else self._write_upload(self._upload, data)
        if not is_written:
            self._kept = data
        return is_written

    async def drain(self) -> None:
        """Write the kept piece as soon as there is memory."""
        data, self._kept = self._kept, None
        if data is None:
            return
        if self._upload is not None:
            await self._writer.write(data.view)
            if self._hash is not None:
                self._hash.update(data.view)
        else:
            await self._writer.arrival.acquire(data.end - data.start)
            self._add_to_field(data)

    def end(self) -> None:
        """Complete the part."""
        part = self._part
        assert part is not None
        if self._upload is not None:
            self.received.add(part.name, self._writer.finish(), part.filename, part.content_type, self._hash)
        elif part.filename is None and part.name not in self._parts:
            self.received.fields.append((part.name, decoded(self._field)))

    def _write_upload(self, upload: UploadPart, data: PartData) -> bool:
        if upload.max_size is not None and self._writer.received + data.end - data.start > upload.max_size:
            raise BodyTooLarge(f"{upload.name} may have at most {upload.max_size} bytes.")
        if not self._writer.try_write(data.view):
            return False
        if self._hash is not None:
            self._hash.update(data.view)
        return True

    def _write_field(self, data: PartData) -> bool:
        part = self._part
        assert part is not None
        if part.name in self._parts:
            self.received.nameless.add(part.name)
        elif part.filename is None:
            size = data.end - data.start
            if self._fields_size + size > MAX_FIELDS_SIZE:
                raise BodyTooLarge(f"The fields of the form may have at most {MAX_FIELDS_SIZE} bytes together.")
            if not self._writer.arrival.try_acquire(size):
                return False
            self._add_to_field(data)
        return True

    def _add_to_field(self, data: PartData) -> None:
        self._fields_size += data.end - data.start
        self._field += data.view
