"""The engine in this process: the parts of a running flow, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Self

from ..exceptions import NotRunningError, UsageError
from ..logger import log
from ..step import FlowStep
from ..task import BaseTask, shared_memories
from .child.importing import check_not_importing
from .loops.event_loop import in_event_loop
from .loops.owner import Guard, Owner
from .memory.arrivals import Arrival
from .memory.banker import ArrivalCap
from .memory.block_writer import BlockWriter
from .memory.flow_memory import FlowMemory
from .memory.limits import check_limits
from .memory.mapping import Mapping, create_memory
from .memory.regions import REPLACEMENT, make_layout
from .scheduling.caller import Caller
from .scheduling.dispatcher import Dispatcher
from .scheduling.stream import FlowStream
from .statistics import FlowStatistics
from .system.cpu import available_cores
from .system.process_memory import default_memory_limit
from .timing import DEFAULT_TIMING, Timing
from .workers.interpreter import check_interpreter
from .workers.launcher import Launcher
from .workers.lifeline import Lifeline
from .workers.pool import Pool
from .workers.process import StartMethod
from .workers.spec import make_specs
from .workers.start_errors import memory_error
from .workers.supervisor import Supervisor


@dataclass
class LocalEngine:
    """The parts of a running flow.

    Attributes:
        name: Name of the flow.
        memory_fd: Descriptor of the shared memory.
        lifeline: The pipe by which workers detect the end of this process.
        memory: Holds and allocation of the shared memory.
        dispatcher: Owns the tasks.
        caller: Submits tasks to it.
        supervisor: Keeps the workers alive.
        loop: The event loop that drives them; None while there is none.
        owner: Tracks that loop and hands it the calls of other threads.
    """

    name: str
    memory_fd: int
    lifeline: Lifeline
    memory: FlowMemory
    dispatcher: Dispatcher
    caller: Caller
    supervisor: Supervisor
    loop: asyncio.AbstractEventLoop | None = None
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self)
        self.memory.arena.is_here = self.owner.is_here

    @classmethod
    def build(
        cls,
        name: str,
        steps: list[tuple[str, FlowStep]],
        method: StartMethod,
        memory_limit: int | None,
        queue_size: int,
        priorities: int,
        start_timeout: float,
        timing: Timing = DEFAULT_TIMING,
    ) -> Self:
        """Create the shared memory and put the parts together; nothing is started.

        Args:
            name: Name of the flow.
            steps: Its steps, each with its name.
            method: How processes are started.
            memory_limit: Bytes of shared memory that all processes may use; None: half of the memory.
            queue_size: Tasks that may wait for a step, in each level.
            priorities: Number of priority levels.
            start_timeout: Seconds in which a worker must be ready.
            timing: The times of the engine.

        Raises:
            ConfigurationError: A limit of this process does not allow the flow, a handler or condition cannot be
                pickled, this is a worker that imports the module that starts the flow, or the application is frozen
                and does not call `freeze_support`.
            StartError: The system has no memory or no descriptors left; nothing is left open.
        """
        check_interpreter()
        check_not_importing(name)
        nprocs = [step.nprocs for _, step in steps]
        workers = sum(nprocs)
        layout = make_layout(nprocs, available_cores(), memory_limit or default_memory_limit())
        check_limits(name, workers, layout)
        with contextlib.ExitStack() as undo:
            try:
                memory_fd = create_memory(name, layout.size)
                undo.callback(os.close, memory_fd)
                mapping = Mapping(memory_fd, layout.size)
                lifeline = Lifeline()
                undo.callback(lifeline.close)
            except OSError as exc:
                raise memory_error(name, exc) from exc
            specs = make_specs(name, steps)
            undo.pop_all()
        memory = FlowMemory(mapping, layout)
        regions = iter(range(1, layout.regions))
        pools = [Pool(spec, itertools.islice(regions, spec.step.nprocs + REPLACEMENT), timing) for spec in specs]
        dispatcher = Dispatcher(name, pools, memory, queue_size, priorities, timing)
        for pool in pools:
            pool.observer = dispatcher
        launcher = Launcher(name, method, memory_fd, lifeline, memory, workers, timing)
        supervisor = Supervisor(name, pools, launcher, start_timeout, timing)
        caller = Caller(dispatcher, memory, queue_size)
        return cls(name, memory_fd, lifeline, memory, dispatcher, caller, supervisor)

    async def start(self, timeout: float) -> None:
        """Start every worker, in the running event loop, and wait until all are ready; see `Supervisor.start`."""
        self.loop = asyncio.get_running_loop()
        self.dispatcher.attach(self.loop)
        await self.supervisor.start(timeout)
        shared_memories.append(self.memory.arena)
        log.info("flow %s is running: %s", self.name, ", ".join(stage.name for stage in self.dispatcher.stages))

    @property
    def memory_limit(self) -> int:
        """Bytes of shared memory that all processes may use."""
        return self.memory.arena.layout.limit

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""
        return self.dispatcher.in_flight

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

    def check_entry(self, priority: int, timeout: float) -> None:
        """Refuse a task that would have to wait for a place or would miss its deadline."""
        if self.loop is not asyncio.get_running_loop():
            self.owner.claim()
        self.caller.check_entry(priority, timeout)

    def expect(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> Arrival:
        """Expect a body; see `Arrivals.expect`.

        Raises:
            NotRunningError: The event loop of another thread drives the engine.
        """
        if self.loop is not asyncio.get_running_loop() and not self.adopt():
            raise NotRunningError(f"flow {self.name} runs in another thread's event loop, where uploads must arrive")
        return self.memory.arrivals.expect(size, most, wait_timeout, cap)

    def receive(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap) -> BlockWriter:
        """Expect a body that goes to shared memory, as `expect` does."""
        return BlockWriter(self.memory.arena, self.memory.waiters, self.expect(size, most, wait_timeout, cap))

    def end_streams(self) -> None:
        """End the streams that are read in the running event loop; see `Flow.end_streams`."""
        if self.loop is asyncio.get_running_loop():
            self.dispatcher.streams.end_all()

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is in flight; tell whether that was within ``timeout`` seconds."""
        return await self.dispatcher.wait_idle(timeout)

    def adopt(self) -> bool:
        """Have the running event loop drive the engine, if none does or one of the flow's own; tell whether it does."""
        return self.owner.bring_here()

    async def run(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a function in the event loop that drives the engine; see `Owner.run`."""
        await self.owner.run(function)
        self.owner.join()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.dispatcher.attach(loop)
        self.supervisor.attach(loop)
        self.loop = loop

    def detach(self) -> None:
        """Stop watching the workers, which go on, until there is another event loop."""
        self.dispatcher.detach("its event loop has ended", handed=False)
        self.supervisor.detach()
        self.loop = None

    def abandon(self) -> None:
        """End tasks and arriving bodies with `NotRunningError`."""
        self.dispatcher.abandon("the flow was stopped")
        # Each its own: a raised exception refers to the frames of one request.
        self.memory.arrivals.abandon(lambda: NotRunningError(f"flow {self.name} was stopped while a body arrived"))

    async def kill(self) -> None:
        """End every task and kill the workers; `close` must follow."""
        self.abandon()
        await self.supervisor.shutdown.kill()

    def kill_at_once(self) -> None:
        """Kill the workers without waiting; `close` must follow."""
        self.supervisor.shutdown.kill_at_once()

    async def close(self, kill: bool) -> None:
        """End every task and every worker, and release the memory.

        Args:
            kill: Whether workers are killed instead of stopped.
        """
        self._unshare()
        self.abandon()
        self.dispatcher.detach("the flow was stopped")
        self.owner.close(f"the task ended with flow {self.name}: the flow was stopped")
        await (self.supervisor.shutdown.kill() if kill else self.supervisor.shutdown.stop())
        self.detach()
        self.supervisor.close()
        self.lifeline.close()
        os.close(self.memory_fd)
        self.owner.end_background()

    def end_at_exit(self) -> None:
        """Have the workers end without waiting for them, at the exit of the interpreter."""
        self.owner.at_exit(self._let_go)

    def _let_go(self) -> None:
        self.supervisor.shutdown.close_channels()
        self.lifeline.close()  # now: multiprocessing waits for those of the forkserver before this process ends

    def forget(self) -> None:
        """Close the descriptors in a forked child, without the event loop: its epoll set is shared with the parent.

        A copy of a descriptor would keep the workers alive after the death of the parent. The shared memory stays
        mapped: there may be views of it.
        """
        self._unshare()
        self.loop = None
        self.memory.arena.mapping.wake = None
        self.supervisor.forget()
        self.lifeline.close()
        os.close(self.memory_fd)

    def _unshare(self) -> None:
        if self.memory.arena in shared_memories:
            shared_memories.remove(self.memory.arena)

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot.

        Args:
            state: State of the flow.
        """
        if self.owner.is_here():
            # Only the thread of the loop may change the accounts; an endpoint for metrics may run in another thread.
            self.memory.arena.collect()
        stages = self.dispatcher.stages
        retained = [offset for stage in stages for worker in list(stage.workers) for offset in list(worker.retained)]
        return FlowStatistics(
            name=self.name,
            state=state,
            steps=tuple(stage.statistics() for stage in stages),
            arena=self.memory.statistics(retained),
            in_flight=self.dispatcher.in_flight,
            **self.dispatcher.outcomes,
        )
