"""The calls of other threads, in the thread of the event loop that drives the engine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from ..scheduling.caller import Caller
from ..wait import DetachedWait
from .handed_call import HandedCall


class Driven(Protocol):
    """What an event loop drives: an engine.

    Attributes:
        name: Name of the flow.
        caller: Submits tasks to the dispatcher.
        loop: The event loop that drives it, or has driven it last; None if there is none.
        thread: Identifier of the thread in which that loop ran when it began to drive it.
    """

    name: str
    loop: asyncio.AbstractEventLoop | None
    thread: int

    @property
    def caller(self) -> Caller:
        """As above.

        Raises:
            NotRunningError: The engine cannot run tasks now.
        """

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop, from the thread of that loop."""

    def detach(self) -> None:
        """Stop working in an event loop."""


class HandedCalls:
    """Begins and withdraws handed calls in the event loop that drives the engine.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Driven) -> None:
        self._engine = engine
        self._calls: set[HandedCall] = set()
        self._entries: dict[HandedCall, DetachedWait[int]] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: HandedCall) -> None:
        """Add a call that begins."""
        self._calls.add(call)

    def discard(self, call: HandedCall) -> None:
        """Remove a call that has ended, in any thread."""
        self._calls.discard(call)

    def end(self, make_error: Callable[[], Exception]) -> None:
        """End all calls with an error of their own."""
        for call in list(self._calls):
            call.set_exception(make_error())

    def send(self, call: HandedCall) -> bool:
        """Begin a call in the thread of the engine's loop.

        Returns:
            False if there is no event loop.
        """
        return self._deliver(self._begin, call)

    def leave(self) -> None:
        """Leave the queue of those that wait for a place or for memory, before another event loop drives the engine.

        They are begun anew in that one.
        """
        entries, self._entries = self._entries, {}
        for call, entry in entries.items():
            call.loop = None
            entry.cancel()

    def begin_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin the calls that the dispatcher does not own yet, in a new event loop of the engine."""
        for call in list(self._calls):
            if not call.number:
                loop.call_soon(partial(self._begin, call, loop), context=call.context)

    def withdraw(self, call: HandedCall) -> None:
        """Cancel a call, in the thread of its caller."""
        call.cancel()
        if call.is_cancelled:
            self._deliver(self._drop, call)

    def _deliver(self, function: Callable[[HandedCall, asyncio.AbstractEventLoop], None], call: HandedCall) -> bool:
        loop = self._engine.loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(partial(function, call, loop), context=call.context)
        except RuntimeError:  # closed
            return False
        return True

    def _begin(self, call: HandedCall, loop: asyncio.AbstractEventLoop) -> None:
        # A loop that had stopped and runs again may still have calls to begin that another one has begun meanwhile.
        if call.done() or call.loop is loop or self._engine.loop is not loop:
            return
        call.loop = loop
        hand_in = self._engine.caller.hand_in(call.stand_in, call.timeout, call, call.started_at)
        # No asyncio task: this may be the last turn of the loop, or one after its other tasks were cancelled.
        entry = self._entries[call] = DetachedWait(hand_in, partial(self._enter, call), partial(self._refuse, call))
        entry.advance()

    def _enter(self, call: HandedCall, number: int) -> None:
        del self._entries[call]
        call.number = number
        if not number:
            call.set_result(None)

    def _refuse(self, call: HandedCall, error: Exception) -> None:
        del self._entries[call]
        if self._engine.loop is call.loop:  # else it is begun anew in another one
            call.set_exception(error)

    def _drop(self, call: HandedCall, loop: asyncio.AbstractEventLoop) -> None:
        if self._engine.loop is not loop:
            self._deliver(self._drop, call)
        elif call.number:
            self._engine.caller.withdraw(call.number)
        elif (entry := self._entries.pop(call, None)) is not None:
            entry.cancel()
