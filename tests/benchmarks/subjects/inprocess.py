"""The whole engine in one process, so that the work of a task's trip can be counted without a process switch."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from fastapi_aqueduct import BaseTask, BaseTaskHandler, FlowStep
from fastapi_aqueduct.engine.child.continuous import ContinuousRunner
from fastapi_aqueduct.engine.child.generators import GeneratorRunner
from fastapi_aqueduct.engine.child.parent_death import ParentDeathSignal
from fastapi_aqueduct.engine.child.program import Program
from fastapi_aqueduct.engine.child.return_check import ReturnCheck
from fastapi_aqueduct.engine.child.runners import PlainRunner
from fastapi_aqueduct.engine.child.session import Runner
from fastapi_aqueduct.engine.child.setup import Setup
from fastapi_aqueduct.engine.child.worker import Worker
from fastapi_aqueduct.engine.memory.flow_memory import FlowMemory
from fastapi_aqueduct.engine.memory.layout import Layout
from fastapi_aqueduct.engine.memory.mapping import Mapping, create_memory
from fastapi_aqueduct.engine.memory.tenant import Tenant
from fastapi_aqueduct.engine.route import Route
from fastapi_aqueduct.engine.scheduling.caller import Caller
from fastapi_aqueduct.engine.scheduling.dispatcher import Dispatcher
from fastapi_aqueduct.engine.scheduling.entry import QueueEntry
from fastapi_aqueduct.engine.scheduling.meter import Meter
from fastapi_aqueduct.engine.scheduling.stream import FlowStream
from fastapi_aqueduct.engine.wire.channel import make_pair
from fastapi_aqueduct.engine.wire.frames import Kind
from fastapi_aqueduct.engine.wire.worker_channel import WorkerChannel
from fastapi_aqueduct.engine.workers.handle import WorkerHandle
from fastapi_aqueduct.engine.workers.pool import Pool
from fastapi_aqueduct.engine.workers.spec import SpecMaker
from fastapi_aqueduct.runtime import task_hosts
from fastapi_aqueduct.worker import WorkerInfo

MEMORY_LIMIT = 64 << 20
QUEUE_SIZE = 1024


class LocalWorker:
    """A worker that works when it is asked to.

    Args:
        setup: What the worker receives at its start.
        program: What it runs.
        memory_fd: Descriptor of the shared memory.

    Attributes:
        sock: The other end of its channel.
    """

    def __init__(self, setup: Setup, program: Program, memory_fd: int) -> None:
        self.sock, theirs = make_pair()
        self.channel = WorkerChannel(theirs)
        lifeline, _ = os.pipe()
        tenant = Tenant(Mapping(memory_fd, setup.layout.size), setup.layout, setup.region, setup.blocks)
        self._worker = Worker(setup, Route(program.conditions), self.channel, tenant, ParentDeathSignal(lifeline))
        self._runner = self._make_runner(setup, program.handler)
        # After STOP the runner returns when all that has arrived is answered, and may run again.
        self._worker.process([(Kind.STOP, b"")])

    def serve(self) -> None:
        """Work on what has arrived; something must have."""
        self._worker.process(self.channel.receive())
        self._runner.run()

    def _make_runner(self, setup: Setup, handler: BaseTaskHandler) -> Runner:
        return PlainRunner(self._worker, handler, ReturnCheck(setup.name, "handler"))


class LocalStreamWorker(LocalWorker):
    """The same for handlers whose tasks send items.

    It must not send more than the window of a stream: a worker whose consumers are behind waits, and so would they.
    """

    def serve(self) -> None:
        """Work on what has arrived; something must have."""
        task_hosts[:] = [self._runner.hand]  # a process has one worker otherwise
        super().serve()

    def _make_runner(self, setup: Setup, handler: BaseTaskHandler) -> Runner:
        if setup.is_continuous:
            return ContinuousRunner(self._worker, handler, ReturnCheck(setup.name, "handler"))
        return GeneratorRunner(self._worker, handler)


class LocalFlow:
    """A dispatcher, one worker for each step, and the workers at the other ends of them.

    Args:
        *steps: The stages.
        worker_class: Makes their workers.
    """

    def __init__(self, *steps: FlowStep, worker_class: type[LocalWorker] = LocalWorker) -> None:
        self._worker_class = worker_class
        self._loop = asyncio.get_running_loop()
        self._layout = Layout(1 + len(steps), MEMORY_LIMIT)
        self._memory_fd = create_memory("local", self._layout.size)
        memory = FlowMemory(Mapping(self._memory_fd, self._layout.size), self._layout)
        named = [(f"step{number}", step) for number, step in enumerate(steps, start=1)]
        self._pools = [Pool(spec, [1 + spec.index]) for spec in SpecMaker("local", named).make_all()]
        self._dispatcher = Dispatcher("local", self._pools, memory, QUEUE_SIZE, 1, meter=Meter(steps))
        self._caller = Caller(self._dispatcher, memory, QueueEntry(self._dispatcher, QUEUE_SIZE, memory.refusals))
        for pool in self._pools:
            pool.observer = self._dispatcher
        self._dispatcher.attach(self._loop)
        for index in range(len(steps)):
            program = make_program(steps, index)
            setup = replace(make_setup(self._layout, index), is_continuous=steps[index].continuous)
            self._add(setup, program, memory)

    async def start(self) -> None:
        """Wait until the dispatcher has heard from all workers."""
        while not all(pool.ready_workers() for pool in self._pools):
            await asyncio.sleep(0)

    async def process(self, task: BaseTask) -> None:
        """Take a task through the steps."""
        await self._caller.process(task, 60.0)

    def stream(self, task: BaseTask) -> FlowStream[Any]:
        """Return the items of a task."""
        return self._caller.stream(task, 60.0, 60.0, nullcontext)

    def _add(self, setup: Setup, program: Program, memory: FlowMemory) -> None:
        local = self._worker_class(setup, program, self._memory_fd)
        pool = self._pools[setup.step]
        call_of = memory.arena.status.call_of
        worker = WorkerHandle(pool.spec, 0, setup.region, local.sock, call_of, self._receive, _never)
        worker.pid = os.getpid()
        worker.attach(self._loop)
        pool.add(pool.slots[0], worker)
        self._loop.add_reader(local.channel.fileno(), local.serve)
        local.channel.send(Kind.READY)

    def _receive(self, worker: WorkerHandle, frames: list[tuple[Kind, bytes]]) -> None:
        for kind, payload in frames:
            if kind is Kind.READY:
                self._pools[worker.step].note_ready(worker)
            else:
                self._dispatcher.receive(worker, kind, payload)


def make_program(steps: Sequence[FlowStep], index: int = 0) -> Program:
    """Make what the worker of a step runs."""
    return Program(steps[index].handler, [step.handle_condition for step in steps])


def make_setup(layout: Layout, index: int = 0) -> Setup:
    """Make the setup of the worker of a step."""
    return Setup(
        step=index,
        name=f"step{index + 1}",
        may_run_again=True,
        layout=layout,
        region=1 + index,
        blocks={},
        info=WorkerInfo("flow", f"step{index + 1}", 0, 0, 1),
    )


def _never(worker: WorkerHandle) -> None:
    raise RuntimeError(f"the worker of {worker.name} is gone, but it is this process")
