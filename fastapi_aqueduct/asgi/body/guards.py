"""The first stage of an upload: judges the bytes as they arrive."""

from __future__ import annotations

from ..errors import BodyLengthMismatch
from .limits import check_size
from .read_timeout import ReadTimeout
from .sink import Sink


class Guards(Sink):
    """Compares the length of a body with what is announced and allowed, and its arrival with the least rate.

    Args:
        announced: The Content-Length, which is allowed; None: there is none.
        max_size: The most bytes that the body may have.
        timeout: Its clock stands still while the server makes the client wait.
        sink: The next stage.
    """

    def __init__(self, announced: int | None, max_size: int, timeout: ReadTimeout, sink: Sink) -> None:
        self._announced = announced
        self._most = max_size if announced is None else announced
        self._timeout = timeout
        self._sink = sink
        self._received = 0

    def write(self, data: bytes | bytearray) -> bool:
        """Count a piece and pass it on; see `Sink`."""
        received = self._received = self._received + len(data)
        if received > self._most:
            self._refuse()
        self._timeout.note(received)
        return self._sink.write(data)

    async def drain(self) -> None:
        """Stop the clock while the next stages drain."""
        self._timeout.pause()
        await self._sink.drain()
        self._timeout.resume()

    def finish(self) -> None:
        """Compare the length with what was announced."""
        if self._announced is not None and self._received < self._announced:
            raise BodyLengthMismatch(f"The Content-Length is {self._announced}, but {self._received} bytes came.")
        self._sink.finish()

    def _refuse(self) -> None:
        if self._announced is None:
            check_size(self._received, self._most)
        raise BodyLengthMismatch(f"The Content-Length is {self._announced}, but {self._received} or more bytes came.")
