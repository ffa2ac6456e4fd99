"""The event loop that drives an engine.

Everything of an engine is read and written in the thread of that loop only. Calls that other threads make are handed
to it. When the loop ends (nothing announces that to other threads), the next one takes its place; calls that were
handed to it go on under a loop of the flow's own, in a background thread, which also serves where there is no loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Protocol

from ...exceptions import NotRunningError, TaskTimeout
from ...task import BaseTask
from ..scheduling.dispatcher import Dispatcher
from .background import Background
from .event_loop import in_event_loop
from .handed import GRACE, LOOK, AwaitedCall, BlockingCall, HandedCall

Guard = Callable[[Callable[[], object] | None], AbstractContextManager[object]]
"""Makes a context for a call of a flow. Gets a function that cancels the call, from any thread; None when the call is
cancelled with the present asyncio task."""


class Driven(Protocol):
    """What an event loop drives: an engine.

    Attributes:
        name: Name of the flow.
        dispatcher: Owns the tasks.
        loop: The event loop that drives it, or has driven it last; None when there is none.
    """

    name: str
    dispatcher: Dispatcher
    loop: asyncio.AbstractEventLoop | None

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop, whose thread the present one is."""

    def detach(self) -> None:
        """Stop working in an event loop."""


class Owner:
    """Knows which event loop drives an engine, and hands over what other threads want of it.

    Args:
        engine: What is driven.
    """

    def __init__(self, engine: Driven) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._calls: set[HandedCall] = set()
        self._background: Background | None = None
        self._ending: asyncio.AbstractEventLoop | None = None
        self._end_reason = ""

    def is_here(self) -> bool:
        """Tell whether the present thread may use the engine: it drives it, or none does."""
        return not self._is_driven() or (in_event_loop() and self._engine.loop is asyncio.get_running_loop())

    def claim(self) -> bool:
        """Have the running event loop drive the engine, unless another one that runs does.

        Returns:
            Whether it drives it.
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
            self._engine.attach(loop)
            return True

    def bring_here(self) -> bool:
        """Have the running event loop drive the engine, also when a loop of the flow's own does.

        Returns:
            Whether it drives it.
        """
        loop = asyncio.get_running_loop()
        with self._lock:
            background = self._background
            if background is None or self._engine.loop is not background.loop:
                background = None
            else:
                background.call(self._engine.detach)  # short: nothing but the flow runs there
                self._engine.attach(loop)
                self._begin_all(loop)
                self._background = None
        if background is None:
            return self.claim()
        background.end()
        background.join()
        return True

    async def process(self, task: BaseTask, timeout: float) -> None:
        """Take a task through the flow from another event loop than that of the engine; see `Dispatcher.process`."""
        call = AwaitedCall(task, timeout, self._calls.discard)
        try:
            self._hand_over(call)
            while not await call.wait():
                self._look_after(call)
            call.take()
        except BaseException:
            self._withdraw(call)
            raise

    def process_blocking(self, task: BaseTask, timeout: float, guard: Guard | None) -> None:
        """Take a task through the flow from a thread without an event loop; see `Dispatcher.process`.

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
                    self._look_after(call)
                call.take()
            except BaseException:  # also KeyboardInterrupt
                self._withdraw(call)
                raise

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something in the event loop that drives the engine: in this one, if no other does.

        A cancellation cancels it there.
        """
        while not self.claim():
            loop = self._engine.loop
            running = function()
            try:
                assert loop is not None
                done = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(running, loop))
            except RuntimeError:  # it was closed in this instant
                running.close()
                continue
            try:
                while not done.done() and loop.is_running():
                    await asyncio.wait([done], timeout=LOOK)
            except asyncio.CancelledError:
                done.cancel()
                raise
            if done.done():
                return await done
            done.cancel()
        await function()

    def close(self, reason: str) -> None:
        """End the calls that are not with the dispatcher, and take no more.

        Args:
            reason: What their callers are told.
        """
        with self._lock:
            self._end_reason = reason
            for call in list(self._calls):
                call.set_exception(NotRunningError(reason))

    def end_background(self) -> None:
        """Have the flow's own event loop end, if there is one, when everything in it has."""
        if self._background is not None:
            self._background.end()

    def join(self) -> None:
        """Wait until the flow's own thread has ended, in another one."""
        if self._background is not None and not self._background.is_here:
            self._background.join()
            self._background = None

    def at_exit(self, function: Callable[[], object]) -> None:
        """Call a function where the engine is driven, at the end of the interpreter."""
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
        return loop is not None and loop.is_running()

    def _hand_over(self, call: HandedCall) -> None:
        with self._lock:
            if self._end_reason:
                raise NotRunningError(self._end_reason)
            self._calls.add(call)
            if not self._is_driven() or not self._deliver(self._begin, call):
                self._go_to_background()

    def _deliver(self, function: Callable[[HandedCall, asyncio.AbstractEventLoop], None], call: HandedCall) -> bool:
        """Have the owner's thread call a function; tell whether there is one."""
        loop = self._engine.loop
        if loop is None:
            return False
        try:
            loop.call_soon_threadsafe(partial(function, call, loop), context=call.context)
        except RuntimeError:  # closed
            return False
        return True

    def _go_to_background(self) -> None:
        if self._end_reason:
            raise NotRunningError(self._end_reason)
        if self._background is None:
            self._background = Background(f"aqueduct-{self._engine.name}")
        loop = self._engine.loop = self._background.loop
        loop.call_soon_threadsafe(self._take_over, loop)  # before any call that is handed to it, which needs the lock

    def _take_over(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._engine.loop is loop and not self._end_reason:
            self._engine.attach(loop)
            self._begin_all(loop)

    def _begin_all(self, loop: asyncio.AbstractEventLoop) -> None:
        for call in list(self._calls):
            if not call.number:
                loop.call_soon(partial(self._begin, call, loop), context=call.context)

    def _begin(self, call: HandedCall, loop: asyncio.AbstractEventLoop) -> None:
        # A loop that had stopped and runs again may still have calls to begin that another one has begun meanwhile.
        if call.done() or call.loop is loop or self._engine.loop is not loop or self._ending is loop:
            return
        call.loop = loop
        call.admission = loop.create_task(self._admit(call, loop))

    async def _admit(self, call: HandedCall, loop: asyncio.AbstractEventLoop) -> None:
        try:
            call.number = await self._engine.dispatcher.process(call.stand_in, call.timeout, call)
            if not call.number:
                call.set_result(None)
        except Exception as exc:
            if self._engine.loop is loop:  # else it is begun anew in another one
                call.set_exception(exc)
        except asyncio.CancelledError:
            if not call.done():  # not by its caller: `asyncio.run` cancels all tasks, and begun ones would be destroyed
                self._ending = loop
            raise
        finally:
            call.admission = None

    def _look_after(self, call: HandedCall) -> None:
        """See to a call that has not ended for a while."""
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

    def _withdraw(self, call: HandedCall) -> None:
        call.cancel()
        if call.is_cancelled:
            self._deliver(self._drop, call)

    def _drop(self, call: HandedCall, loop: asyncio.AbstractEventLoop) -> None:
        if self._engine.loop is not loop:
            self._deliver(self._drop, call)
        elif call.number:
            self._engine.dispatcher.withdraw(call.number)
        elif call.admission is not None and call.loop is loop:
            call.admission.cancel()
