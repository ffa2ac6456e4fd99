"""Runs the handlers of a flow in the process of the test."""

from __future__ import annotations

import copy
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from ..engine.declaration import LONGEST_TIMEOUT
from ..engine.engine import LocalEngine
from ..engine.loops.owner import Guard
from ..engine.options import EngineOptions
from ..engine.scheduling.stream import FlowStream
from ..flow import Flow
from ..step import FlowStep
from ..task import BaseTask
from ..worker_function import InWorkers, flow_of
from .substitute import Substitute, step_choice
from .threads import ThreadStarter, thread_hosts


def inline(
    flow: Flow | InWorkers, *, time_limits: bool = True, steps: Collection[str] | None = None
) -> Substitute:
    """Run the handlers of a flow in this process, each step in a thread, so that tests start no processes.

    Breakpoints, coverage and monkeypatching work. Handlers are the objects that the flow was made with, so a test can
    set and read their attributes, which are restored at the end. Everything else is as with worker processes: tasks
    pass the same queues, batches and conditions, and are pickled and laid into shared memory in the same way.

        async with inline(flow):                        # starts the flow, and stops it at the end
            task = await flow.process(Scan(picture))

        with inline(flow):                              # whatever starts the flow starts it in this way
            async with client(app) as http:
                response = await http.post("/ocr", content=picture)

    What belongs to processes does not apply. Each step has one worker, whatever its ``nprocs``. It is not replaced
    (``max_tasks``, ``max_age``, ``max_memory_growth``), and ``handle_timeout``, ``check_timeout`` and ``busy_poll``
    have no effect. A handler is not pickled, ``worker_init`` is not called, and ``template`` is called here. Log
    records are made in this process, and have the same attributes as those of workers. A handler that still runs when
    its flow is stopped goes on until it returns. A crash ends the tests.

    Args:
        flow: The flow, the function of `in_worker`, or the pool; it must not run yet.
        time_limits: Whether ``timeout_sec`` and ``item_timeout`` of calls and endpoints count. Without them a test may
            stop at a breakpoint for as long as it takes.
        steps: Names of the steps that tasks visit, in groups as they are declared; None: all. For a recorded task
            (`read_task`), which is as it entered one of them; a recorder of the flow records nothing then.

    Returns:
        A context manager, for ``with`` and ``async with``; its value is the flow.

    Raises:
        UnknownStep: The flow has no such step.
    """
    replaced = flow_of(flow)
    handlers = [step.handler for _, step in replaced._steps]
    choose = step_choice(replaced, steps)
    return Substitute(replaced, lambda options: build_inline(choose(options), time_limits), handlers, steps is None)


class InlineEngine(LocalEngine):
    """An engine whose workers are threads.

    Attributes:
        has_time_limits: Whether the timeouts of calls count.
    """

    has_time_limits: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        # No event loop may drive the flow, but a worker has its own region.
        self.memory.arena.is_here = lambda: not thread_hosts.is_worker() and self.owner.is_here()

    def process(self, task: BaseTask, timeout: float) -> Awaitable[object]:
        """Send a task through the steps."""
        return super().process(task, self._limit(timeout))

    def stream(
        self, task: BaseTask, timeout: float, item_timeout: float, guard: Callable[[], AbstractContextManager[object]]
    ) -> FlowStream[Any]:
        """Return the items of a task."""
        return super().stream(task, self._limit(timeout), self._limit(item_timeout), guard)

    def process_blocking(self, task: BaseTask, timeout: float, guard: Guard | None) -> None:
        """Send a task through the steps from a thread without an event loop."""
        super().process_blocking(task, self._limit(timeout), guard)

    def check_entry(self, priority: int, timeout: float, task: BaseTask | None) -> None:
        """Refuse a task that would have to wait for a place or would miss its deadline."""
        super().check_entry(priority, self._limit(timeout), task)

    def _limit(self, timeout: float) -> float:
        return timeout if self.has_time_limits else LONGEST_TIMEOUT


def build_inline(options: EngineOptions, has_time_limits: bool = True) -> InlineEngine:
    """Make an engine whose workers are threads.

    Args:
        options: What the flow declares.
        has_time_limits: Whether the timeouts of calls count.
    """
    threaded = replace(options, steps=[(name, _for_thread(step)) for name, step in options.steps])
    engine = InlineEngine.build(threaded, ThreadStarter(threaded))
    engine.has_time_limits = has_time_limits
    return engine


def _for_thread(step: FlowStep) -> FlowStep:
    """Return a step without what belongs to processes; threads would share the handler."""
    step = copy.copy(step)
    step.nprocs, step.autoscale = 1, None
    step.busy_poll = 0.0
    step.handle_timeout = step.check_timeout = step.max_tasks = step.max_age = step.max_memory_growth = None
    return step
