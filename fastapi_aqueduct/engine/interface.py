"""The interface between a flow and its engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..task import BaseTask
from .loops.owner import Guard
from .memory.arrivals import Arrival
from .memory.banker import ArrivalCap
from .memory.block_writer import BlockWriter
from .scheduling.stream import FlowStream
from .statistics import FlowStatistics


class Engine(Protocol):
    """Runs the tasks of a flow. `LocalEngine` has its dispatcher and its workers in and under this process."""

    @property
    def memory_limit(self) -> int:
        """Bytes of shared memory that all processes of the flow may use."""

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""

    async def start(self, timeout: float) -> None:
        """Start in the running event loop and wait until the flow accepts tasks.

        Args:
            timeout: Seconds that the start may take.

        Raises:
            StartError, StartTimeout: The start failed.
        """

    def adopt(self) -> bool:
        """Have the running event loop drive the engine, if none does or a background loop of the engine does.

        Returns:
            Whether the running event loop drives it now.
        """

    def detach(self) -> None:
        """Leave the event loop that drives the engine. The workers go on; the next loop that calls drives it."""

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in the event loop that drives the engine; a cancellation cancels it there."""

    def process(self, task: BaseTask, timeout: float) -> Awaitable[object]:
        """Send a task through the steps, from any event loop; see `Flow.process`."""

    def stream(
        self, task: BaseTask, timeout: float, item_timeout: float, guard: Callable[[], AbstractContextManager[object]]
    ) -> FlowStream[Any]:
        """Return the items of a task; see `Flow.stream`.

        Args:
            task: The task.
            timeout: Seconds in which the first item must come.
            item_timeout: Seconds in which each further item must come.
            guard: Makes a context for the wait for the first item.
        """

    def process_blocking(self, task: BaseTask, timeout: float, guard: Guard | None) -> None:
        """Send a task through the steps from a thread without an event loop; see `Flow.process_blocking`.

        Args:
            task: The task.
            timeout: Seconds in which the answer must come.
            guard: Makes a context for the call, given a function that cancels it in any thread.
        """

    def check_entry(self, priority: int, timeout: float) -> None:
        """Refuse a task that would have to wait for a place or would miss its deadline; see `Flow.check_entry`."""

    def expect(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> Arrival:
        """Expect a body; see `Flow.expect`."""

    def receive(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> BlockWriter:
        """Expect a body that goes to shared memory; see `Flow.receive`."""

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot.

        Args:
            state: State of the flow.
        """

    def end_streams(self) -> None:
        """End the streams that are read in the running event loop; see `Flow.end_streams`."""

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is in flight.

        Returns:
            Whether that was within ``timeout`` seconds.
        """

    async def kill(self) -> None:
        """End every task and kill the workers. `close` must follow."""

    def kill_at_once(self) -> None:
        """Send the workers their signal without waiting, for an event loop that may not run again."""

    async def close(self, kill: bool) -> None:
        """End every task and every worker, and release the shared memory.

        Args:
            kill: Whether workers are killed instead of stopped.
        """

    def end_at_exit(self) -> None:
        """Have the workers end without waiting for them, at the exit of the interpreter."""

    def forget(self) -> None:
        """Close, in a forked child, what belongs to the parent process."""
