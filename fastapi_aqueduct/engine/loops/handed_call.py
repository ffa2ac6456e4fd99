"""A call of a flow that is made in another thread than that of the event loop that drives the flow.

The caller's thread makes the call, waits for it and fills in the caller's task. The owner's thread sees only a stand-in
of the task: a shallow copy, which travels in its place and receives the result.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextvars import copy_context

from ...runtime import runtime_of, set_runtime
from ...task import BaseTask

POLL_INTERVAL = 0.1
"""Seconds after which a caller checks whether its call is still driven: an event loop that ends does not notify other
threads."""

GRACE = 0.05
"""Seconds after its deadline at which a call ends even if its owner does nothing: that thread may be busy."""


class HandedCall(ABC):
    """A call that one thread hands to another.

    Args:
        task: The caller's task; read and written only in the thread that makes this object.
        timeout: Seconds in which the answer must come.
        on_end: Called with this object when it has ended, in any thread.

    Attributes:
        stand_in: The task as the owner sees it.
        timeout: As given.
        started_at: When it was made, on the clock of ``time.monotonic``.
        deadline: On the same clock.
        context: Copy of the caller's context variables.
        loop: The event loop in which it was begun; only for the owner's thread, like the number.
        number: Id of its task while the dispatcher owns it, else 0.
        is_cancelled: Whether it has ended by `cancel`.
    """

    def __init__(self, task: BaseTask, timeout: float, on_end: Callable[[HandedCall], object]) -> None:
        self.stand_in: BaseTask = object.__new__(type(task))
        self.stand_in.__dict__.update(task.__dict__)
        self.timeout = timeout
        self.started_at = time.monotonic()
        self.deadline = self.started_at + timeout
        self.context = copy_context()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.number = 0
        self.is_cancelled = False
        self._task = task
        self._on_end = on_end
        self._lock = threading.Lock()
        self._has_ended = False
        self._error: BaseException | None = None

    def done(self) -> bool:
        """Tell whether it has ended."""
        return self._has_ended

    def set_result(self, result: None) -> None:
        """End it: the stand-in has the result."""
        self._end(None)

    def set_exception(self, error: BaseException) -> None:
        """End it with an exception."""
        self._end(error)

    def cancel(self) -> None:
        """End it with ``CancelledError``, from any thread."""
        self._end(asyncio.CancelledError(), is_cancelled=True)

    def pause(self) -> float:
        """Return the seconds until its caller should check on it; 0 when its time is over."""
        return max(0.0, min(POLL_INTERVAL, self.deadline + GRACE - time.monotonic()))

    def fill_in(self) -> None:
        """Fill in the caller's task, in the caller's thread.

        Raises:
            BaseException: The error with which the call has ended.
        """
        error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame; as a cycle both would keep the task's memory
        state = runtime_of(self.stand_in)
        if "metrics" in state:  # with the time that the owner's thread took to begin it
            set_runtime(self.stand_in, "metrics", (state["metrics"][0], time.monotonic() - self.started_at))
        self._task.__dict__ = self.stand_in.__dict__

    def _end(self, error: BaseException | None, is_cancelled: bool = False) -> None:
        with self._lock:
            if self._has_ended:
                return
            self._error = error
            self.is_cancelled = is_cancelled
            self._has_ended = True
        self._on_end(self)
        self._wake()

    @abstractmethod
    def _wake(self) -> None:
        """Wake the caller, from any thread."""


class BlockingCall(HandedCall):
    """A call whose caller blocks its thread."""

    def __init__(self, task: BaseTask, timeout: float, on_end: Callable[[HandedCall], object]) -> None:
        super().__init__(task, timeout, on_end)
        self._ended = threading.Event()

    def wait(self) -> bool:
        """Wait until it has ended or its caller should check on it; return whether it has ended."""
        return self._ended.wait(self.pause())

    def _wake(self) -> None:
        self._ended.set()


class AwaitedCall(HandedCall):
    """A call whose caller awaits it in an event loop of its own, which must be running."""

    def __init__(self, task: BaseTask, timeout: float, on_end: Callable[[HandedCall], object]) -> None:
        super().__init__(task, timeout, on_end)
        self._home = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] = self._home.create_future()

    async def wait(self) -> bool:
        """Wait until it has ended or its caller should check on it; return whether it has ended."""
        await asyncio.wait([self._waiter], timeout=self.pause())
        return self.done()

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # its event loop is closed, and with it the caller is gone
            self._home.call_soon_threadsafe(_resolve, self._waiter)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
