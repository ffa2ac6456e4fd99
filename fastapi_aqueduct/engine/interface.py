"""The interface between a flow and its engine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..handler import BaseTaskHandler
from ..task import BaseTask
from .loops.owner import Guard
from .memory.arrivals import Arrival
from .memory.banker import ArrivalCap
from .memory.block_writer import BlockWriter
from .scheduling.stream import FlowStream
from .statistics import FlowStatistics
from .trial import ShadowControl, TrialControl


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

    def check_entry(self, priority: int, timeout: float, task: BaseTask | None) -> None:
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

    async def replace(self, index: int, handler: BaseTaskHandler, is_in_place: bool) -> None:
        """Replace the workers of a step while it serves; see `fastapi_aqueduct.steps.Step.replace`.

        Args:
            index: Index of the step.
            handler: The handler of the new ones.
            is_in_place: Whether the old worker leaves before the new one is started.
        """

    async def restart(self, index: int, is_in_place: bool) -> None:
        """Replace the workers of a step by fresh ones; see `fastapi_aqueduct.steps.Step.restart`.

        Args:
            index: Index of the step.
            is_in_place: As for `replace`.
        """

    async def canary(self, index: int, handler: BaseTaskHandler, share: float) -> TrialControl:
        """Give a share of the tasks of a step to one more worker; see `fastapi_aqueduct.steps.Step.canary`.

        Args:
            index: Index of the step.
            handler: The handler of that worker.
            share: Its part of the tasks.

        Returns:
            The trial, which has begun.
        """

    async def shadow(self, index: int, handler: BaseTaskHandler, keep: int) -> ShadowControl:
        """Give copies of the tasks of a step to one more worker; see `fastapi_aqueduct.steps.Step.shadow`.

        Args:
            index: Index of the step.
            handler: The handler of that worker.
            keep: How many pairs of answers are held until they are read.

        Returns:
            The trial, which has begun.
        """

    async def resize(self, index: int, size: int) -> None:
        """Give a step another number of workers while it serves; see `fastapi_aqueduct.steps.Step.scale`.

        Args:
            index: Index of the step.
            size: How many workers it should have.
        """

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
