"""The calls of a flow, in whatever event loop or thread they are made: the same for every engine."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Protocol

from ...exceptions import NotRunningError, UsageError
from ...task import BaseTask
from ..memory.arena import Arena
from ..memory.arrivals import Arrival, Arrivals
from ..memory.banker import ArrivalCap
from ..memory.block_writer import BlockWriter
from ..memory.memory_waiters import MemoryWaiters
from ..scheduling.caller import Caller
from ..scheduling.stream import FlowStream
from .event_loop import in_event_loop
from .owner import Guard, Owner


class CallMemory(Protocol):
    """The shared memory that calls fill.

    Attributes:
        arena: The memory as this process uses it.
        waiters: The callers that wait for memory.
        arrivals: The bodies that are arriving.
    """

    arena: Arena
    waiters: MemoryWaiters
    arrivals: Arrivals


class EngineCalls(ABC):
    """Passes the calls of a flow to the event loop that drives its engine.

    Attributes:
        name: Name of the flow.
        loop: The event loop that drives the engine; None while there is none.
        owner: Tracks that loop and hands it the calls of other threads.
        caller: Submits tasks to their owner.
    """

    name: str
    loop: asyncio.AbstractEventLoop | None
    owner: Owner

    if TYPE_CHECKING:  # an attribute of one engine, and a property of another

        @property
        def caller(self) -> Caller:
            """Submits tasks to their owner."""

    @property
    @abstractmethod
    def call_memory(self) -> CallMemory:
        """The shared memory that calls fill now.

        Raises:
            NotRunningError: There is none now.
        """

    def process(self, task: BaseTask, timeout: float) -> Awaitable[object]:
        """Send a task through the steps, from any event loop; see `Caller.process`."""
        if self.loop is asyncio.get_running_loop() or self.owner.claim():
            return self.caller.process(task, timeout)
        return self.owner.process(task, timeout)

    def stream(
        self,
        task: BaseTask,
        timeout: float,
        item_timeout: float,
        guard: Callable[[], contextlib.AbstractContextManager[object]],
    ) -> FlowStream[Any]:
        """Return the items of a task; see `Caller.stream`.

        Raises:
            UsageError: No event loop runs in this thread, or that of another thread drives the engine.
        """
        if not in_event_loop():
            raise UsageError(
                f"flow.stream() of flow {self.name} was called where no asyncio event loop runs: call it, and iterate, "
                "in a coroutine; `flow.process_blocking(task)` works without an event loop"
            )
        if self.loop is not asyncio.get_running_loop() and not self.adopt():
            raise UsageError(
                f"the event loop of another thread drives flow {self.name}, and its streams are read there: pass the "
                "coroutine that iterates to that loop with asyncio.run_coroutine_threadsafe(coroutine, loop); "
                "`await flow.process(task)` works in any event loop"
            )
        return self.caller.stream(task, timeout, item_timeout, guard)

    def process_blocking(self, task: BaseTask, timeout: float, guard: Guard | None) -> None:
        """Send a task through the steps from a thread without an event loop; see `Owner.process_blocking`."""
        self.owner.process_blocking(task, timeout, guard)

    def check_entry(self, priority: int, timeout: float, task: BaseTask | None) -> None:
        """Refuse a task that would have to wait for a place or would miss its deadline."""
        if self.loop is not asyncio.get_running_loop():
            self.owner.claim()
        self.caller.check_entry(priority, timeout, task)

    def expect(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> Arrival:
        """Expect a body; see `Arrivals.expect`.

        Raises:
            NotRunningError: The event loop of another thread drives the engine.
        """
        if self.loop is not asyncio.get_running_loop() and not self.adopt():
            raise NotRunningError(f"flow {self.name} runs in another thread's event loop, where uploads must arrive")
        return self.call_memory.arrivals.expect(size, most, wait_timeout, cap)

    def receive(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> BlockWriter:
        """Expect a body that goes to shared memory, as `expect` does."""
        memory = self.call_memory
        return BlockWriter(memory.arena, memory.waiters, self.expect(size, most, wait_timeout, cap))

    def adopt(self) -> bool:
        """Have the running event loop drive the engine, if none does or one of the flow's own; tell whether it does."""
        return self.owner.bring_here()

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in the event loop that drives the engine; see `Owner.run`."""
        await self.owner.run(function)
        self.owner.join()
