"""Calls hooks and handlers as a worker does, but in this thread, so that a debugger sees the frames of a handler."""

from __future__ import annotations

import asyncio
import inspect
import signal
from asyncio import Runner
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ...exceptions import HandlerTimeout
from ...handler import BaseTaskHandler, form_of
from ...task import BaseTask

GRACE = 1.0
"""Seconds that the event loop has to end a coroutine that takes too long."""


def call_hook(function: Callable[[], Any], loop: Runner, is_in_loop: bool = False) -> None:
    """Call a function that may be ``async def``.

    Args:
        function: The function.
        loop: The event loop.
        is_in_loop: Whether the event loop runs while it is called, as for `on_start` of coroutines.
    """
    if is_in_loop:
        loop.run(_call_in_loop(function))
        return
    value = function()
    if inspect.isawaitable(value):
        loop.run(_wait_for(value))


async def _call_in_loop(function: Callable[[], Any]) -> None:
    value = function()
    if inspect.isawaitable(value):
        await value


async def _wait_for(value: Any) -> Any:
    return await value


def call_handler(handler: BaseTaskHandler, task: BaseTask, loop: Runner, limit: float | None) -> int:
    """Call a handler for one task, and return the number of items it yields.

    Args:
        handler: The handler.
        task: The task.
        loop: The event loop.
        limit: Time limit in seconds; None: no limit.

    Raises:
        HandlerTimeout: The call exceeds ``limit``; the cause shows where it was.
        Exception: Raised by the handler.
    """
    form = form_of(handler)
    if form.is_async:
        # The event loop ends a coroutine that waits; the alarm is for one that holds it up.
        with _interrupted(limit, GRACE):
            return loop.run(_handle_async(handler.handle(task), form.yields, limit))
    with _interrupted(limit):
        value = handler.handle(task)
        if form.yields:
            return sum(1 for _ in value)
    if inspect.isawaitable(value):  # of a wrapper
        loop.run(_wait_for(value))
    return 0


async def _handle_async(value: Any, yields: bool, limit: float | None) -> int:
    count = 0
    try:
        async with asyncio.timeout(limit) as limited:
            if yields:
                async for _ in value:
                    count += 1
            else:
                await value
    except TimeoutError as exc:
        if not limited.expired():
            raise
        raise _timeout(limit) from exc
    return count


@contextmanager
def _interrupted(limit: float | None, grace: float = 0.0) -> Iterator[None]:
    """Raise `HandlerTimeout` in the running code after ``limit`` seconds and the grace."""

    def interrupt(signum: int, frame: object) -> None:
        raise _timeout(limit)

    if limit is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit + grace)
    try:
        yield
    except HandlerTimeout as exc:
        trace = exc.__traceback__
        while trace is not None and trace.tb_next is not None:
            if trace.tb_next.tb_frame.f_code is interrupt.__code__:
                trace.tb_next = None  # a debugger opens where the handler was
                break
            trace = trace.tb_next
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timeout(limit: float | None) -> HandlerTimeout:
    return HandlerTimeout(f"the handler takes longer than handle_timeout={limit:g} s, as it did")
