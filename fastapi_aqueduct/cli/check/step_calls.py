"""Has one step make calls: copies of a task are sent to it, so that the steps before it need not run again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from ...engine.memory.flow_memory import FlowMemory
from ...engine.scheduling.dispatcher import Dispatcher
from ...engine.scheduling.ticket import Ticket
from ...engine.wire.codec import Codec
from ...engine.wire.frames import Envelope, Status
from ...flow import Flow
from ...task import BaseTask
from ..sample import Sample
from .watch import Call, StepWatch


class Round(NamedTuple):
    """Tasks that were sent together.

    Attributes:
        elapsed: Seconds from their submission to the last answer of the step; None if other steps have run, too.
        calls: The calls of the handler.
    """

    elapsed: float | None
    calls: Sequence[Call]


class Calls(Protocol):
    """Has a step make calls of its handler."""

    async def run(self, task: BaseTask, count: int) -> Round:
        """Send tasks together, and wait for their answers.

        Args:
            task: The task as it came to the step.
            count: Number of tasks.

        Raises:
            Exception: Why one of them has failed.
        """


class FlowCalls:
    """Sends samples through the whole flow: a step in a group does not get tasks from elsewhere.

    Args:
        flow: The flow.
        sample: Makes the tasks.
        watch: Watches the step.
        timeout: Seconds in which the tasks must be answered.
    """

    def __init__(self, flow: Flow, sample: Sample, watch: StepWatch, timeout: float) -> None:
        self._flow = flow
        self._sample = sample
        self._watch = watch
        self._timeout = timeout

    async def run(self, task: BaseTask, count: int) -> Round:
        """Send samples through the flow together; see `Calls.run`.

        For a batch they are twice as many: the first of them find the worker idle, and a full batch waits behind them.
        """
        before = len(self._watch.calls)
        tasks = [self._sample.next_task() for _ in range(count if count == 1 else 2 * count)]
        try:
            async with asyncio.TaskGroup() as group:
                for each in tasks:
                    group.create_task(self._flow.process(each, self._timeout))
        except ExceptionGroup as errors:
            raise errors.exceptions[0]  # noqa: B904  # its cause is the traceback of the worker
        return Round(None, self._watch.calls[before:])


class StepCalls:
    """Sends copies of a task to a step.

    Args:
        dispatcher: The owner of the tasks.
        memory: The shared memory of the flow.
        watch: Watches the step, and has seen a task.
        step: Index of the step.
        timeout: Seconds in which the copies must be answered.
    """

    def __init__(
        self, dispatcher: Dispatcher, memory: FlowMemory, watch: StepWatch, step: int, timeout: float
    ) -> None:
        self._dispatcher = dispatcher
        self._watch = watch
        self._step = step
        self._timeout = timeout
        self._codec = Codec(memory.arena)

    async def run(self, task: BaseTask, count: int) -> Round:
        """Send copies of a task together, and wait for the answers of the step; see `Calls.run`.

        They visit no further step: when they are answered they are withdrawn.
        """
        loop = asyncio.get_running_loop()
        begun_at, before = time.monotonic(), len(self._watch.calls)
        ends: list[asyncio.Future[None]] = [loop.create_future() for _ in range(count)]
        open_numbers = {self._submit(task, end) for end in ends}
        answered = asyncio.Event()

        def note_answers(envelopes: Sequence[Envelope]) -> None:
            for envelope in envelopes:
                if envelope.id in open_numbers:
                    open_numbers.remove(envelope.id)
                    if envelope.status != Status.ERROR:
                        self._dispatcher.withdraw(envelope.id)  # before it goes to the next step
            if not open_numbers:
                answered.set()

        def note_end(end: asyncio.Future[None]) -> None:
            if not end.cancelled() and end.exception() is not None:
                answered.set()  # a worker has died, which answers nothing

        self._watch.on_answers = note_answers
        for end in ends:
            end.add_done_callback(note_end)
        try:
            await answered.wait()  # the deadline of the tasks limits it
        finally:
            self._watch.on_answers = lambda envelopes: None
            for number in open_numbers:
                self._dispatcher.withdraw(number)
        elapsed = time.monotonic() - begun_at
        for end in ends:
            if end.done() and not end.cancelled():
                end.result()
        return Round(elapsed, self._watch.calls[before:])

    def _submit(self, task: BaseTask, end: asyncio.Future[None]) -> int:
        content = self._codec.encode(_copied(task))._replace(extras=self._watch.extras)
        now = time.monotonic()
        # The end of the last step fills in a task, so it is another one than the task that is sent.
        ticket = Ticket(0, self._codec.decode(content), end, content, 0, now + self._timeout, now)
        return self._dispatcher.submit(ticket, self._step)


def _copied(task: BaseTask) -> BaseTask:
    """Return a task with the same fields and an id of its own, by which handlers tell tasks apart."""
    copied: BaseTask = object.__new__(type(task))
    copied.__dict__.update(task.__dict__)
    copied.task_id = BaseTask().task_id
    return copied
