"""The interface between the stages that the body of an upload passes."""

from __future__ import annotations

from typing import Protocol


class Sink(Protocol):
    """The next stage for the bytes of a body.

    A body passes from ``stream`` through `Guards`, `Gunzip` (if compressed), `Multipart` and `FormParts` (if it is
    a form; else `RawBody`) to the block writer. Each stage knows only the next one.

    Under uvicorn `write` runs in the server's parser, so that a byte is in shared memory before the server frees it.
    Therefore `write` never waits: a stage that cannot finish a piece at once keeps it and leaves the rest to `drain`.
    """

    def write(self, data: bytes | bytearray) -> bool:
        """Process the next piece of the body.

        Args:
            data: The piece. It must not change afterwards.

        Returns:
            Whether another piece may follow; otherwise only after `drain`.

        Raises:
            BodyError: The body is refused.
        """
        ...

    async def drain(self) -> None:
        """Finish the piece that `write` has kept: wait for memory, or for the next turn of the event loop.

        After an exception or a cancellation the stages cannot be used any more.

        Raises:
            BodyError: The body is refused.
            Overloaded: There was no memory in time.
        """
        ...

    def finish(self) -> None:
        """Check that the body is complete, at its end.

        Raises:
            BodyError: It is not.
        """
        ...
