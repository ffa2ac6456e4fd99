"""Breaks reference cycles between exceptions and the frames they have passed, which hold the task of a request."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FrameType, TracebackType

from starlette.types import ASGIApp, Receive, Scope, Send

_LIBRARIES = frozenset({"anyio", "contextlib", "fastapi", "starlette"})
"""Packages whose frames may be left out of a traceback."""


def chain(exc: BaseException) -> Iterator[BaseException]:
    """Iterate over an exception, its causes, its contexts and the members of its groups, each once."""
    pending: list[BaseException | None] = [exc]
    seen: set[int] = set()
    while pending:
        found = pending.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        pending += [found.__cause__, found.__context__]
        if isinstance(found, BaseExceptionGroup):
            pending += found.exceptions


def untangle(exc: BaseException) -> None:
    """Break the cycles that libraries make of an exception which passes their frames.

    The cycles would keep the frames of the endpoint, and with them a task, until garbage is collected. Starlette makes
    two of them when a streamed response raises.

    Args:
        exc: The exception. Its traceback loses the frames of libraries that refer to it.
    """
    exceptions = list(chain(exc))
    members = {id(found) for found in exceptions}
    for found in exceptions:
        context = found.__context__ if found.__suppress_context__ else None
        if isinstance(context, BaseExceptionGroup) and any(member is found for member in context.exceptions):
            found.__context__ = None  # a traceback does not show it
        found.__traceback__ = _without_cycles(found.__traceback__, members)


class Untangled:
    """An ASGI application whose exceptions make no cycles.

    Args:
        application: The application, for example a response.
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        try:
            await self._application(scope, receive, send)
        except Exception as exc:
            untangle(exc)
            raise


def _without_cycles(traceback: TracebackType | None, exceptions: set[int]) -> TracebackType | None:
    # Not frame.clear(), which would end a coroutine that has caught the exception and continues.
    first, last, entry = traceback, None, traceback
    while entry is not None:
        if not _makes_cycle(entry.tb_frame, exceptions):
            last = entry
        elif last is None:
            first = entry.tb_next
        else:
            last.tb_next = entry.tb_next
        entry = entry.tb_next
    return first


def _makes_cycle(frame: FrameType, exceptions: set[int]) -> bool:
    module: str = frame.f_globals.get("__name__", "")
    if module.partition(".")[0] not in _LIBRARIES:
        return False
    return not exceptions.isdisjoint(map(id, gc.get_referents(frame)))
