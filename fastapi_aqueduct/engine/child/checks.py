"""The checks of a handler: what it says about its own model, reported to the API process."""

from __future__ import annotations

import inspect
import sys
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ...handler import BaseTaskHandler
from ..wire.frames import Kind
from .worker import Worker

if TYPE_CHECKING:  # imports asyncio, which most workers do not need
    import asyncio

    from .event_loop import EventLoop

MAX_TEXT = 1000
"""Characters of what is wrong that are reported; an exception may have any number."""


class Checks:
    """Calls `check` of a handler, and sends the API process what it has found.

    The status page shows since when a check runs: the API process kills a worker whose check does not return, because
    nothing in the worker can stop it. One that is ``async def`` is cancelled here before.

    Args:
        worker: Exchanges frames with the API process.
        handler: The handler of the step.
        event_loop: Returns the event loop of the worker.
    """

    def __init__(self, worker: Worker, handler: BaseTaskHandler, event_loop: Callable[[], EventLoop]) -> None:
        self._worker = worker
        self._handler = handler
        self._event_loop = event_loop
        self._running: asyncio.Task[None] | None = None

    def run(self) -> None:
        """Check the handler, where no event loop runs."""
        found = self._call()
        if found is not None:
            self._event_loop().run(self._wait(found))

    async def run_in_loop(self) -> None:
        """Check the handler, in the event loop of its calls."""
        found = self._call()
        if found is not None:
            await self._wait(found)

    def begin(self) -> None:
        """Check the handler beside its calls, in their event loop."""
        import asyncio

        self._running = asyncio.get_running_loop().create_task(self.run_in_loop())

    def _call(self) -> Awaitable[Any] | None:
        """Call `check`, and report what it finds; or return what is to be waited for, if it is ``async def``."""
        self._worker.note_check(time.monotonic())
        try:
            value: Any = self._handler.check()
            if inspect.isawaitable(value):
                return value
            problem = _judge(value)
        except BaseException as exc:  # also SystemExit: a check must not end its worker
            problem = _text_of(exc)
        self._report(problem)
        return None

    async def _wait(self, awaitable: Awaitable[Any]) -> None:
        import asyncio

        limit, problem = self._worker.setup.check_timeout, ""
        timeout = asyncio.timeout(limit)
        try:
            async with timeout:
                problem = _judge(await awaitable)
        except BaseException as exc:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # the worker stops
                raise
            is_late = isinstance(exc, TimeoutError) and timeout.expired()
            problem = f"it took longer than check_timeout={limit:g} s" if is_late else _text_of(exc)
        self._report(problem)

    def _report(self, problem: str) -> None:
        if self._worker.channel.is_closed:
            sys.exit()  # a child that the handler has forked, which would be a second worker
        self._worker.note_check(-time.monotonic())
        self._worker.channel.send(Kind.CHECKED, problem[:MAX_TEXT].encode("utf-8", "backslashreplace"))


def _judge(value: Any) -> str:
    # What is no bool may raise: the truth of an array, for example.
    return "" if value is None or value else f"check() returned {value!r}"


def _text_of(error: BaseException) -> str:
    name = type(error).__name__
    try:
        return f"{name}: {error}"
    except Exception:  # of its __str__
        return name
