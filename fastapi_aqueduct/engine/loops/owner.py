"""The event loop that drives an engine.

All parts of an engine are read and written in the thread of that loop only. Calls that other threads make are handed
to it. When the loop ends (other threads are not notified of that), the next one takes its place; handed calls go on
in a loop of the flow's own, in a background thread, which also serves where there is no loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any

from ...exceptions import NotRunningError, TaskTimeout
from ...task import BaseTask
from .background import Background
from .event_loop import in_event_loop
from .handed_call import GRACE, POLL_INTERVAL, AwaitedCall, BlockingCall, HandedCall
from .handed_calls import Driven, HandedCalls
from .loop_end import LoopEnd

Guard = Callable[[Callable[[], object] | None], AbstractContextManager[object]]
"""Makes a context for a call of a flow. Gets a function that cancels the call, from any thread; None if the call is
cancelled with the present asyncio task."""


class Owner:
    """Tracks which event loop drives an engine, and hands it the calls of other threads.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Driven) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._calls = HandedCalls(engine)
        self._loop_end = LoopEnd()
        self._background: Background | None = None
        self._end_reason = ""

    def is_here(self) -> bool:
        """Tell whether the present thread may use the engine: its loop drives it, or no loop does."""
        return not self._is_driven() or (in_event_loop() and self._engine.loop is asyncio.get_running_loop())

    def claim(self) -> bool:
        """Make the running event loop drive the engine, unless another running loop does.

        Returns:
            Whether the running event loop drives it.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            if self._engine.loop is loop:
                return True
            if self._is_driven():
                return False
            if self._calls:
                self._go_to_background()
                return False
            self._attach(loop)
            return True

    def bring_here(self) -> bool:
        """Make the running event loop drive the engine, also if a loop of the flow's own does.

        Returns:
            Whether the running event loop drives it.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            background = self._background
            if background is None or self._engine.loop is not background.loop:
                background = None
            else:
                background.call(self._detach)  # short: nothing but the flow runs there
                self._attach(loop)
                self._calls.begin_all(loop)
                self._background = None
        if background is None:
            return self.claim() or (self._has_stopped() and self.claim())
        background.end()
        background.join()
        return True

    async def process(self, task: BaseTask, timeout: float) -> None:
        """Send a task through the flow from another event loop than the engine's; see `Caller.process`."""
        call = AwaitedCall(task, timeout, self._calls.discard)
        try:
            self._hand_over(call)
            while not await call.wait():
                self._check(call)
            call.fill_in()
        except BaseException:
            self._calls.withdraw(call)
            raise

    def process_blocking(self, task: BaseTask, timeout: float, guard: Guard | None) -> None:
        """Send a task through the flow from a thread without an event loop; see `Caller.process`.

        Args:
            task: The task.
            timeout: Seconds in which the answer must come.
            guard: Makes a context for the call, given a function that cancels it in any thread.
        """
        call = BlockingCall(task, timeout, self._calls.discard)
        with contextlib.nullcontext() if guard is None else guard(call.cancel):
            try:
                self._hand_over(call)
                while not call.wait():
                    self._check(call)
                call.fill_in()
            except BaseException:  # also KeyboardInterrupt
                self._calls.withdraw(call)
                raise

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in the event loop that drives the engine, or in the running one if none does.

        A cancellation cancels it there.
        """
        while not self.claim():
            loop = self._engine.loop
            if loop is None or not loop.is_running():  # it is between two runs, or has ended in this instant
                await asyncio.sleep(POLL_INTERVAL / 10)
                continue
            running = function()
            try:
                done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(running, loop))
            except RuntimeError:  # it was closed in this instant
                running.close()
                continue
            try:
                while not done.done() and loop.is_running():
                    await asyncio.wait([done], timeout=POLL_INTERVAL)
            except asyncio.CancelledError:
                done.cancel()
                raise
            if done.done():
                return await done
            done.cancel()
            if loop.is_closed() and inspect.getcoroutinestate(running) == inspect.CORO_CREATED:
                running.close()  # it was not begun, and Python would complain
        await function()

    def close(self, reason: str) -> None:
        """End the calls that the dispatcher does not own, and refuse new ones.

        Args:
            reason: The message of their `NotRunningError`.
        """
        with self._lock:
            self._end_reason = reason
            self._calls.end(lambda: NotRunningError(reason))

    def end_background(self) -> None:
        """Make the flow's own event loop end, if there is one, when all its tasks have ended."""
        if self._background is not None:
            self._background.end()

    def join(self) -> None:
        """Wait until the flow's own thread has ended; does nothing in that thread."""
        if self._background is not None and not self._background.is_here:
            self._background.join()
            self._background = None

    def at_exit(self, function: Callable[[], object]) -> None:
        """Call a function in the loop that drives the engine, at the exit of the interpreter."""
        background = self._background
        if background is None or not background.is_alive or self._engine.loop is not background.loop:
            function()
            return
        with contextlib.suppress(TimeoutError):
            background.call(function)
        background.end()
        background.join()

    def _is_driven(self) -> bool:
        loop = self._engine.loop
        return loop is not None and not self._loop_end.has_come(loop, self._engine.thread)

    def _has_stopped(self) -> bool:
        """Wait until it is known whether the loop that drives the engine, and does not run, has ended.

        This blocks, for an instant where the loop is between two runs and for a tenth of a second where it was left
        without being closed. Then it has lost the engine.
        """
        while self._is_driven():
            loop = self._engine.loop
            if loop is None or loop.is_running():
                return False
            time.sleep(0.001)
        return True

    def _attach(self, loop: asyncio.AbstractEventLoop) -> None:
        self._calls.leave()
        self._engine.attach(loop)

    def _detach(self) -> None:
        self._calls.leave()
        self._engine.detach()

    def _hand_over(self, call: HandedCall) -> None:
        with self._lock:
            if self._end_reason:
                raise NotRunningError(self._end_reason)
            self._calls.add(call)
            if not self._is_driven() or not self._calls.send(call):
                self._go_to_background()

    def _go_to_background(self) -> None:
        if self._end_reason:
            raise NotRunningError(self._end_reason)
        if self._background is None:
            self._background = Background(f"aqueduct-{self._engine.name}")
        loop = self._engine.loop = self._background.loop
        loop.call_soon_threadsafe(self._take_over, loop)  # before any call that is handed to it, which needs the lock

    def _take_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._engine.loop is loop and not self._end_reason:
            self._attach(loop)
            self._calls.begin_all(loop)

    def _check(self, call: HandedCall) -> None:
        """End a call that is overdue, and keep one going whose event loop has ended."""
        now = time.monotonic()
        if now >= call.deadline + GRACE:
            call.set_exception(
                TaskTimeout(
                    f"timeout of a task after {now - call.started_at:.3f} s in flow {self._engine.name}: it was handed "
                    "to the event loop of another thread, which is busy with other code and has not answered"
                )
            )
        elif not self._is_driven():
            with self._lock:
                if not self._is_driven() and not call.done():
                    self._go_to_background()
