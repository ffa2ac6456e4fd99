"""The engine in this process: the parts of a running flow, put together and taken apart again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Self

from ..exceptions import NotRunningError
from ..handler import BaseTaskHandler
from ..logger import log
from ..task import shared_memories
from .loops.engine_calls import EngineCalls
from .loops.owner import Owner
from .memory.flow_memory import FlowMemory
from .memory.limits import check_limits
from .memory.mapping import Mapping, create_memory
from .memory.regions import divide_regions, make_layout
from .options import EngineOptions
from .reporter import Reporter
from .scheduling.autoscaler import Autoscaler
from .scheduling.caller import Caller
from .scheduling.canary import CanaryTraffic
from .scheduling.dispatcher import Dispatcher
from .scheduling.entry import QueueEntry
from .scheduling.meter import Meter
from .scheduling.shadow import ShadowTraffic
from .statistics import FlowStatistics
from .system.cpu import available_cores
from .system.process_memory import default_memory_limit
from .trial import OpenTrial, T
from .wire.codec import Codec
from .workers.launch_errors import memory_error
from .workers.launcher import Launcher
from .workers.lifeline import Lifeline
from .workers.pool import Pool
from .workers.starter import ProcessStarter, Starter
from .workers.supervisor import Supervisor
from .workers.worker_logs import WorkerLogs


@dataclass
class LocalEngine(EngineCalls):
    """The parts of a running flow.

    Attributes:
        name: Name of the flow.
        memory_fd: Descriptor of the shared memory.
        lifeline: The pipe by which workers detect the end of this process.
        memory: Holds and allocation of the shared memory.
        dispatcher: Owns the tasks.
        entry: Lets tasks in, or has them wait.
        caller: Submits tasks to it.
        supervisor: Keeps the workers alive.
        autoscaler: Decides how many workers elastic steps have.
        reporters: Report on this object in its event loop.
        loop: The event loop that drives them; None while there is none.
        thread: Identifier of the thread in which that loop ran when it began to drive them.
        owner: Tracks that loop and hands it the calls of other threads.
    """

    name: str
    memory_fd: int
    lifeline: Lifeline
    memory: FlowMemory
    dispatcher: Dispatcher
    entry: QueueEntry
    caller: Caller
    supervisor: Supervisor
    autoscaler: Autoscaler
    reporters: Sequence[Reporter] = ()
    loop: asyncio.AbstractEventLoop | None = None
    thread: int = 0
    owner: Owner = field(init=False)

    def __post_init__(self) -> None:
        self.owner = Owner(self)
        self.memory.arena.is_here = self.owner.is_here

    @classmethod
    def build(cls, options: EngineOptions, starter: Starter | None = None, guests: int = 0) -> Self:
        """Create the shared memory and put the parts together; nothing is started.

        Args:
            options: What the flow declares.
            starter: Starts the workers; None: each in a process of its own.
            guests: Number of other API processes that may share it; see `Gateway`.

        Raises:
            ConfigurationError: A limit of this process does not allow the flow, or the starter refuses it; see
                `ProcessStarter.make_specs`.
            StartError: The system has no memory or no descriptors left; nothing is left open.
        """
        name, timing = options.name, options.timing
        starter = starter or ProcessStarter(options)
        nprocs = [step.most_workers for _, step in options.steps]
        workers = sum(nprocs)
        cores = available_cores()
        layout = make_layout(nprocs, cores, options.memory_limit or default_memory_limit(), guests)
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
            specs = starter.make_specs()
            undo.pop_all()
        memory = FlowMemory(mapping, layout, options.refusals)
        regions = divide_regions(layout, nprocs, cores)
        pools = [Pool(spec, regions[spec.index], timing) for spec in specs]
        meter = Meter([step for _, step in options.steps]) if options.metrics_enabled else None
        dispatcher = Dispatcher(
            *(name, pools, memory, options.queue_size, options.priorities, timing),
            *(meter, options.subscribers, options.begin_spans, options.recording, options.fair, options.shape),
        )
        for pool in pools:
            pool.observer = dispatcher
        launcher = Launcher(name, starter, memory_fd, lifeline, memory, timing, options.forward_logs)
        logs = WorkerLogs(name, options.context, timing.log_interval) if options.forward_logs else None
        supervisor = Supervisor(name, pools, launcher, options.start_timeout, timing, logs)
        autoscaler = Autoscaler(dispatcher.stages, supervisor.fit)
        dispatcher.admission.wake = autoscaler.wake
        entry = QueueEntry(dispatcher, options.queue_size, options.refusals)
        caller = Caller(dispatcher, memory, entry, options.context)
        parts = memory_fd, lifeline, memory, dispatcher, entry, caller, supervisor, autoscaler
        return cls(name, *parts, options.reporters)

    async def start(self, timeout: float) -> None:
        """Start every worker, in the running event loop, and wait until all are ready; see `Supervisor.start`."""
        self.loop, self.thread = asyncio.get_running_loop(), threading.get_ident()
        self.dispatcher.attach(self.loop)
        await self.supervisor.start(timeout)
        shared_memories.append(self.memory.arena)
        self.autoscaler.attach(self.loop)
        for reporter in self.reporters:
            reporter.attach(self, self.loop)
        log.info("flow %s is running: %s", self.name, ", ".join(stage.name for stage in self.dispatcher.stages))

    @property
    def memory_limit(self) -> int:
        """Bytes of shared memory that all processes may use."""
        return self.memory.arena.layout.limit

    @property
    def in_flight(self) -> int:
        """Number of tasks that are not settled."""
        return self.dispatcher.in_flight

    @property
    def call_memory(self) -> FlowMemory:
        """The shared memory that callers of this process fill; see `EngineCalls`."""
        return self.memory

    def end_streams(self) -> None:
        """End the streams that are read in the running event loop; see `Flow.end_streams`."""
        if self.loop is asyncio.get_running_loop():
            self.dispatcher.streams.end_all()

    async def replace(self, index: int, handler: BaseTaskHandler, is_in_place: bool) -> None:
        """Replace the workers of a step; see `Changes.replace`.

        Args:
            index: Index of the step.
            handler: The handler of the new ones.
            is_in_place: Whether the old worker leaves before the new one is started.
        """

        async def run() -> None:
            launcher, spec = self.supervisor.launcher, self.supervisor.changes.spec_of(index)
            renewed = await launcher.renew(spec, handler)
            await self.supervisor.changes.replace(index, renewed, is_in_place)

        await self.owner.run(run)

    async def restart(self, index: int, is_in_place: bool) -> None:
        """Replace the workers of a step by fresh ones with the same handler, whatever it is by now."""
        await self.replace(index, self.dispatcher.stages[index].pool.spec.step.handler, is_in_place)

    async def canary(self, index: int, handler: BaseTaskHandler, share: float) -> OpenTrial[CanaryTraffic]:
        """Give a share of the tasks of a step to a worker with another handler; see `Engine.canary`."""
        stage = self.dispatcher.stages[index]
        return await self._try_out(index, handler, lambda version: CanaryTraffic(stage, version, share))

    async def shadow(self, index: int, handler: BaseTaskHandler, keep: int) -> OpenTrial[ShadowTraffic]:
        """Give copies of the tasks of a step to a worker with another handler; see `Engine.shadow`."""
        dispatcher, stage = self.dispatcher, self.dispatcher.stages[index]

        def make(version: int) -> ShadowTraffic:
            parts = self.memory.ledger, Codec(self.memory.arena), dispatcher, dispatcher.forget
            return ShadowTraffic(stage, version, *parts, self.name, keep)

        return await self._try_out(index, handler, make)

    async def _try_out(self, index: int, handler: BaseTaskHandler, make: Callable[[int], T]) -> OpenTrial[T]:
        trials: list[OpenTrial[T]] = []

        async def run() -> None:
            launcher, spec = self.supervisor.launcher, self.supervisor.changes.spec_of(index)
            renewed = await launcher.renew(spec, handler)
            traffic = make(renewed.version)
            trial = self.supervisor.changes.trial(index, renewed, traffic)
            await trial.run()
            trials.append(OpenTrial(self.owner, self.supervisor.changes, index, trial, traffic))

        await self.owner.run(run)
        return trials[0]

    async def resize(self, index: int, size: int) -> None:
        """Give a step another number of workers; see `Changes.resize`."""
        await self.owner.run(partial(self._resize, index, size))

    async def _resize(self, index: int, size: int) -> None:
        self.autoscaler.note_size(index, size)
        try:
            await self.supervisor.changes.resize(index, size)
        finally:  # if that has failed, it is the number from before
            self.autoscaler.note_size(index, self.supervisor.changes.size_of(index))

    async def wait_idle(self, timeout: float) -> bool:
        """Wait until no task is in flight; tell whether that was within ``timeout`` seconds."""
        return await self.dispatcher.wait_idle(timeout)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in another event loop."""
        self.dispatcher.attach(loop)
        self.supervisor.attach(loop)
        self.autoscaler.attach(loop)
        self.loop, self.thread = loop, threading.get_ident()
        for reporter in self.reporters:
            reporter.attach(self, loop)

    def detach(self) -> None:
        """Stop watching the workers, which go on, until there is another event loop."""
        self.dispatcher.detach("its event loop has ended", handed=False)
        self.supervisor.detach()
        self.autoscaler.detach()
        for reporter in self.reporters:
            reporter.detach()
        self.loop = None

    def abandon(self) -> None:
        """End tasks and arriving bodies with `NotRunningError`."""
        self.dispatcher.abandon("the flow was stopped")
        self.supervisor.changes.abandon(NotRunningError(f"flow {self.name} was stopped while a step was being changed"))
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
        for reporter in self.reporters:
            await reporter.finish()
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
        stages, meter, outcomes = self.dispatcher.stages, self.dispatcher.meter, self.dispatcher.outcomes
        template = self.supervisor.launcher.template
        workers = [worker for stage in stages for worker in stage.pool.all_workers()]
        retained = [offset for worker in workers for offset in list(worker.retained)]
        return FlowStatistics(
            name=self.name,
            state=state,
            steps=tuple(stage.statistics() for stage in stages),
            arena=self.memory.statistics(retained),
            in_flight=self.dispatcher.in_flight,
            uploads=len(self.memory.arrivals),
            completed=outcomes["completed"],
            failed=outcomes["failed"],
            timed_out=outcomes["timed_out"],
            cancelled=outcomes["cancelled"],
            histograms=meter.histograms() if meter is not None else None,
            refusals=self.memory.refusals.by_reason(),
            template=template.statistics() if template is not None else None,
        )
