"""The last stage of a body that is one upload and no form."""

from __future__ import annotations

from ...flow import BlockWriter
from .parts import Received, UploadPart
from .sink import Sink


class RawBody(Sink):
    """Writes a body to shared memory as it is.

    Args:
        part: The upload.
        filename: Name of the file, as the client gives it.
        content_type: Type of the content, as the client gives it.
        writer: Its block has begun.

    Attributes:
        received: The upload, after `finish`; nothing if the body is empty.
    """

    def __init__(self, part: UploadPart, filename: str | None, content_type: str | None, writer: BlockWriter) -> None:
        self.received = Received()
        self._name = part.name
        self._hash = part.new_hash()
        self._filename = filename
        self._content_type = content_type
        self._writer = writer
        self._kept: bytes | bytearray = b""

    def write(self, data: bytes | bytearray) -> bool:
        """Write a piece, if there is memory for it; see `Sink`."""
        if not self._writer.try_write(data):
            self._kept = data
            return False
        if self._hash is not None:
            self._hash.update(data)  # it is in the processor's cache still
        return True

    async def drain(self) -> None:
        """Write the kept piece as soon as there is memory."""
        await self._writer.write(self._kept)
        if self._hash is not None:
            self._hash.update(self._kept)
        self._kept = b""

    def finish(self) -> None:
        """Complete the upload."""
        view = self._writer.finish()
        if view:
            self.received.add(self._name, view, self._filename, self._content_type, self._hash)
