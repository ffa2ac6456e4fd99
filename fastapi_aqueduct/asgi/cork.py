"""Has the head and the body of an answer leave together.

uvicorn writes the one after the other, and event loops hand to the system at once what is written. So a small answer
takes two system calls and two segments, and a client that listens is woken for a head without a body, just when the
server needs the core to write the rest. The socket option of this name (``TCP_CORK``, tcp(7)) joins them too, but
takes two more system calls for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Self

from starlette.types import ASGIApp, Receive, Scope

from .cycle import cycle_of

LARGEST = 64 << 10
"""Bytes of a body that is copied behind its head; for a longer one the copy costs more than it saves."""

_OPEN = nullcontext()


def corked(answer: ASGIApp, scope: Scope, receive: Receive) -> AbstractContextManager[object]:
    """Return a context in which to send an answer: its head and body go together, if they can and should.

    Args:
        answer: What sends it: a response, or any other application.
        scope: Of the request.
        receive: Of the request.
    """
    cycle = cycle_of(receive)
    has_body = 0 < len(getattr(answer, "body", b"")) <= LARGEST and scope["method"] != "HEAD"
    return Cork(cycle) if cycle is not None and has_body else _OPEN


class Cork:
    """Stands in for the transport of one answer until its second piece comes.

    Use it as a context manager while the answer is sent: what is held goes out at its end at the latest.

    Args:
        cycle: uvicorn's object for the request.
    """

    def __init__(self, cycle: Any) -> None:
        self._cycle = cycle
        self._transport = cycle.transport
        self._held = b""

    def __enter__(self) -> Self:
        self._cycle.transport = self
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._release()

    def write(self, data: bytes) -> None:
        """Hold the first piece, and send it with the second."""
        if self._held:
            self._release(data)
        else:
            self._held = data

    def close(self) -> None:
        """Close the connection when all is sent."""
        self._release()
        self._transport.close()

    def is_closing(self) -> bool:
        """Tell whether the connection is closed or being closed."""
        closing: bool = self._transport.is_closing()
        return closing

    def _release(self, data: bytes = b"") -> None:
        self._cycle.transport = self._transport
        held, self._held = self._held, b""
        if held or data:
            self._transport.write(b"".join((held, data)))
