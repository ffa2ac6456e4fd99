"""What exists while a flow runs, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from dataclasses import dataclass, field
from typing import Self

from ..exceptions import NotRunningError
from ..step import FlowStep
from .loops.owner import Owner
from .memory.layout import Layout
from .memory.ledger import Ledger
from .memory.limits import check_limits
from .memory.mapping import Mapping, create_memory
from .scheduling.dispatcher import Dispatcher
from .statistics import FlowStatistics
from .timing import DEFAULT_TIMING, Timing
from .workers.launcher import Launcher
from .workers.lifeline import Lifeline
from .workers.pool import Pool
from .workers.process import StartMethod
from .workers.start_errors import memory_error
from .workers.supervisor import Supervisor


@dataclass
class Engine:
    """The parts of a running flow.

    Attributes:
        name: Name of the flow.
        memory_fd: Descriptor of the shared memory.
        lifeline: What workers see the end of this process by.
        ledger: Who holds which block of it.
        dispatcher: Owns the tasks.
        launcher: Starts workers.
        supervisor: Keeps the workers alive.
        loop: The event loop that they work in; None while they wait for one.
        owner: Knows whether that one runs, and takes calls from other threads.
    """

    name: str
    memory_fd: int
    lifeline: Lifeline
    ledger: Ledger
    dispatcher: Dispatcher
    launcher: Launcher
    supervisor: Supervisor
    loop: asyncio.AbstractEventLoop | None = None
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self)
        self.ledger.arena.is_here = self.owner.is_here

    @classmethod
    def build(
        cls,
        name: str,
        steps: list[tuple[str, FlowStep]],
        method: StartMethod,
        memory_limit: int,
        queue_size: int,
        priorities: int,
        start_timeout: float,
        timing: Timing = DEFAULT_TIMING,
    ) -> Self:
        """Take the shared memory and put the parts together; nothing is started.

        Args:
            name: Name of the flow.
            steps: Its steps, each with its name.
            method: How processes are started.
            memory_limit: Bytes of shared memory that all processes may use.
            queue_size: Tasks that may wait for a step, in each level.
            priorities: Number of priority levels.
            start_timeout: Seconds in which a worker must be ready.
            timing: The times by which workers are supervised.

        Raises:
            ConfigurationError: A limit of this process does not allow the flow.
            StartError: The system does not give the memory or the descriptors; nothing is left open.
        """
        workers = sum(step.nprocs for _, step in steps)
        # One for this process, one for each worker, and one to spare for each step: a worn worker and its
        # replacement are there together.
        layout = Layout(1 + workers + len(steps), memory_limit)
        check_limits(name, workers, layout)
        with contextlib.ExitStack() as undo:
            try:
                memory_fd = create_memory(name, layout.size)
                undo.callback(os.close, memory_fd)
                mapping = Mapping(memory_fd, layout.size)
                lifeline = Lifeline()
            except OSError as exc:
                raise memory_error(name, exc) from exc
            undo.pop_all()
        ledger = Ledger(mapping, layout)
        pools = [Pool(index, step_name, step, timing) for index, (step_name, step) in enumerate(steps)]
        dispatcher = Dispatcher(name, pools, ledger, queue_size, priorities)
        for pool in pools:
            pool.observer = dispatcher
        launcher = Launcher(name, steps, method, memory_fd, lifeline, layout, ledger, timing)
        supervisor = Supervisor(name, pools, launcher, start_timeout, timing)
        return cls(name, memory_fd, lifeline, ledger, dispatcher, launcher, supervisor)

    async def start(self, timeout: float) -> None:
        """Start every worker, in the running event loop, and wait until all are ready; see `Supervisor.start`."""
        self.loop = asyncio.get_running_loop()
        self.dispatcher.attach(self.loop)
        await self.supervisor.start(timeout)

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
        self.ledger.arrivals.abandon(lambda: NotRunningError(f"flow {self.name} was stopped while a body arrived"))

    async def close(self, kill: bool) -> None:
        """End every task and every worker, and give the memory back.

        Args:
            kill: Whether workers are killed, or asked to leave first.
        """
        self.abandon()
        self.dispatcher.detach("the flow was stopped")
        self.owner.close(f"the task ended with flow {self.name}: the flow was stopped")
        await (self.supervisor.kill() if kill else self.supervisor.stop())
        self.detach()
        self.launcher.close()
        self.lifeline.close()
        os.close(self.memory_fd)
        self.owner.end_background()

    def let_go(self) -> None:
        """Have the workers end without waiting for them, at the end of the interpreter."""
        self.supervisor.let_go()
        self.lifeline.close()  # now: multiprocessing waits for those of the forkserver before this process ends

    def forget(self) -> None:
        """Close what a forked child has of this, directly: it shares the event loop's epoll set with its parent.

        A copy of a descriptor would keep the workers alive after the death of the parent. The shared memory stays
        mapped: there may be views of it.
        """
        self.loop = None
        self.ledger.arena.mapping.wake = None
        self.supervisor.forget()
        self.launcher.forget()
        self.lifeline.close()
        os.close(self.memory_fd)

    def statistics(self, state: str) -> FlowStatistics:
        """Return a snapshot.

        Args:
            state: Where the flow is in its life.
        """
        if self.owner.is_here():
            # The books belong to the loop; an endpoint for metrics may well ask from another thread.
            self.ledger.arena.collect()
        stages = self.dispatcher.stages
        retained = [offset for stage in stages for worker in list(stage.workers) for offset in list(worker.retained)]
        return FlowStatistics(
            name=self.name,
            state=state,
            steps=tuple(stage.statistics() for stage in stages),
            arena=self.ledger.statistics(retained),
            in_flight=self.dispatcher.in_flight,
            **self.dispatcher.outcomes,
        )
