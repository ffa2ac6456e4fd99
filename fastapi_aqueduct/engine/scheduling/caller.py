"""The calling side of a flow: admits tasks, encodes them, and waits for their end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from ...exceptions import ArenaFull, NotRunningError, TaskTimeout, UsageError
from ...task import BaseTask
from ..memory.flow_memory import FlowMemory
from ..route import FINISHED, START
from ..wire.codec import Encoded
from .dispatcher import Dispatcher
from .outlet import Outlet, StreamTicket
from .stage import Stage
from .stream import FlowStream
from .ticket import Receiver
from .whereabouts import outside


class Caller:
    """Makes tickets of the tasks of callers, and submits them to the dispatcher.

    Args:
        dispatcher: The owner of the tickets.
        memory: The shared memory of the flow.
        queue_size: Tasks that may wait for a step, in each level.
    """

    def __init__(self, dispatcher: Dispatcher, memory: FlowMemory, queue_size: int) -> None:
        self._dispatcher = dispatcher
        self._route = dispatcher.route
        self._admission = dispatcher.admission
        self._memory = memory
        self._arena = memory.arena
        self._codec = dispatcher.codec
        self._queue_size = queue_size

    def check_entry(self, priority: int, timeout: float) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline.

        Raises:
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            DeadlineUnreachable: At the measured rate it would take longer than ``timeout`` seconds.
        """
        self._admission.check(priority, timeout, is_idle=not self._dispatcher.in_flight)

    async def process(self, task: BaseTask, timeout: float) -> None:
        """Take a task through the flow and fill it in.

        A cancellation removes the task from the queue; a worker that has it gets CANCEL, and its answer is dropped.

        Args:
            task: The task.
            timeout: Seconds in which the answer must come.

        Raises:
            TaskTimeout: The answer did not come in time.
            StepUnavailable: A step has no ready worker, and will not have one before the deadline.
            NotRunningError: The flow was stopped meanwhile.
            WorkerDied: More workers died with it in hand than `max_retries` of the step allows.
            Exception: Raised by the handler.
        """
        started_at = time.monotonic()
        step = self._route.next(START, task)
        if step == FINISHED:
            return
        content = self._encode_now(task, step, timeout)
        if content is None:
            content = await self._encode_later(task, step, started_at + timeout)
        future = asyncio.get_running_loop().create_future()
        number = self._dispatcher.submit(task, content, future, step, started_at, started_at + timeout)
        try:
            await future
        except asyncio.CancelledError:
            self._dispatcher.withdraw(number)
            raise
        finally:
            del future  # its exception refers to this frame; as a cycle both would keep the memory of the task

    async def hand_in(self, task: BaseTask, timeout: float, receiver: Receiver, started_at: float) -> int:
        """Take a task into the flow whose caller is in another thread.

        Args:
            task: The task.
            timeout: Seconds from ``started_at`` in which the answer must come.
            receiver: Receives its end.
            started_at: When the call began, on the clock of ``time.monotonic``.

        Returns:
            Its number, for `withdraw`; 0 when it has no step to visit.

        Raises:
            TaskTimeout: There was no place in the queue in time.
            StepUnavailable: A step has no ready worker, and will not have one before the deadline.
            NotRunningError: The flow was stopped meanwhile.
        """
        step = self._route.next(START, task)
        if step == FINISHED:
            return 0
        content = self._encode_now(task, step, timeout)
        if content is None:
            content = await self._encode_later(task, step, started_at + timeout)
        return self._dispatcher.submit(task, content, receiver, step, started_at, started_at + timeout, is_handed=True)

    def stream(
        self, task: BaseTask, timeout: float, item_timeout: float, guard: Callable[[], AbstractContextManager[object]]
    ) -> FlowStream[Any]:
        """Return the items of a task, which begins with the iteration.

        Args:
            task: The task.
            timeout: Seconds in which the first item must come.
            item_timeout: Seconds in which each further item, and the end, must come.
            guard: Makes a context for the wait for the first item.
        """
        submit = partial(self._submit_stream, task, timeout)
        return FlowStream(Outlet(item_timeout), submit, self._dispatcher.streams, guard)

    async def _submit_stream(self, task: BaseTask, timeout: float, outlet: Outlet) -> int:
        if self._dispatcher.loop not in (None, asyncio.get_running_loop()):
            raise UsageError(f"this stream of flow {self._dispatcher.name} is of another event loop: read it there")
        started_at = time.monotonic()
        streams = self._dispatcher.streams
        streams.check()
        step = self._route.next(START, task)
        if step == FINISHED:
            outlet.set_result(None)
            return 0
        content = self._encode_now(task, step, timeout)
        if content is None:
            content = await self._encode_later(task, step, started_at + timeout)
        number = self._dispatcher.submit(
            task, content, outlet, step, started_at, started_at + timeout, ticket_class=StreamTicket
        )
        if streams.has_ended:  # while it waited for a place; from here on its memory has an owner
            streams.end_all()
        return number

    def withdraw(self, number: int) -> None:
        """End a task whose caller does not wait any more."""
        self._dispatcher.withdraw(number)

    def _encode_now(self, task: BaseTask, step: int, timeout: float) -> Encoded | None:
        """Encode a task, unless there is no place in the queue or no memory for it now."""
        if self._admission.unavailable:
            self._admission.check_workers(timeout)
        stage = self._dispatcher.stages[step]
        # The first two questions are cheap, and nearly always enough.
        if (stage.waiters.contenders or stage.queue.count >= self._queue_size) and not self._has_place(stage, task):
            return None
        if self._dispatcher.loop is None:
            raise NotRunningError(f"flow {self._dispatcher.name} was stopped")
        if self._arena.mapping.dropped:
            self._arena.collect()  # the memory of results that callers have dropped is warm
        try:
            return self._codec.encode(task)
        except ArenaFull:
            return None

    async def _encode_later(self, task: BaseTask, step: int, deadline: float) -> Encoded:
        """Wait for a place in the queue and for memory, and encode a task."""
        stage = self._dispatcher.stages[step]
        if not self._has_place(stage, task):
            await self._wait_for_place(stage, stage.queue.level(task.priority), deadline)
        while True:
            try:
                return self._codec.encode(task)
            except ArenaFull as exc:
                full = exc
            try:
                await self._memory.waiters.wait(full, deadline)
            finally:
                del full  # it refers to this frame; as a cycle both would keep the memory of the task
            if self._dispatcher.loop is not asyncio.get_running_loop():
                raise NotRunningError(
                    f"flow {self._dispatcher.name} or its event loop was stopped while the task waited for memory"
                )

    def _has_place(self, stage: Stage, task: BaseTask) -> bool:
        return stage.waiters.has_place(stage.queue.level(task.priority))

    async def _wait_for_place(self, stage: Stage, level: int, deadline: float) -> None:
        has_place = await stage.waiters.wait(level, deadline)
        name = self._dispatcher.name
        if has_place is None:
            raise NotRunningError(f"flow {name} or its event loop was stopped while the task waited for a place")
        if not has_place:
            self._dispatcher.count("timed_out")
            raise TaskTimeout(f"timeout of a task in flow {name}: it was {outside(stage)}")
