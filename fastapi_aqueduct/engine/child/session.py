"""Session: what a worker does from its setup until it is stopped.

It changes no state of its process, because the workers of a test may be threads; `main` does that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from ...handler import BaseTaskHandler, HandlerForm, form_of
from ...logger import log
from ...runtime import task_hosts
from ...task import shared_memories
from ...worker import WorkerInfo, set_process_info
from ..memory.arena import Arena
from ..memory.mapping import Mapping
from ..memory.tenant import Tenant
from ..route import Route, make_route
from ..wire.failures import pack_failure
from ..wire.frames import Kind
from ..wire.worker_channel import WorkerChannel
from .continuous import ContinuousRunner
from .current import source
from .generators import GeneratorRunner
from .hand import Hand
from .hooks import Hooks
from .logs import LogForwarder
from .program import Program
from .remote.link import FailedStart
from .remote.runner import RemoteWorker
from .remote.stand_in import StandIn
from .return_check import ReturnCheck
from .runners import PlainRunner
from .setup import Setup
from .task_context import TaskContext
from .trace_context import makes_spans
from .worker import DeathSignal, Worker

START_FAILURE = 3
"""Exit code of a worker whose ``worker_init`` or `on_start` failed."""


class Runner(Protocol):
    """Runs the calls of a handler."""

    @property
    def hand(self) -> Hand:
        """The tasks of the calls."""

    def run(self) -> None:
        """Work until the API process sends STOP and all calls have ended.

        Raises:
            EOFError: The API process has ended.
        """


class Session:
    """The work of one worker: `prepare`, then `run`.

    Args:
        channel: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        death_signal: Kills the worker in the middle of a call when the API process ends.
        logs: Forwards what user code logs; None if the worker is no process of its own.

    Attributes:
        setup: The settings of the worker, once it is prepared.
    """

    setup: Setup

    def __init__(
        self, channel: WorkerChannel, memory_fd: int, death_signal: DeathSignal, logs: LogForwarder | None = None
    ) -> None:
        self._channel = channel
        self._memory_fd = memory_fd
        self._death_signal = death_signal
        self._logs = logs
        self._hooks: Hooks
        self._runner: Runner

    def prepare(self, read_program: Callable[[], Program]) -> None:
        """Receive the setup, call ``worker_init``, `on_start` and `check`, and report that the worker is ready.

        Args:
            read_program: Returns the user's code.

        Raises:
            SystemExit: One of them failed, and the API process has been sent why; or this is a fork that it has made.
            EOFError, OSError: The API process has ended.
        """
        channel = self._channel
        frames = channel.receive()
        phase = "its setup"
        try:
            setup = self.setup = Setup.unpack(frames.pop(0)[1])
            self.join_info(replace(setup.info, pid=os.getpid()))
            program = self._read(read_program)
            handler = program.handler
            mapping = Mapping(self._memory_fd, setup.layout.size)
            tenant = Tenant(mapping, setup.layout, setup.region, setup.blocks)
            self.join_memory(tenant.arena)
            worker = self.make_worker(handler, make_route(program.conditions, program.markers, program.shape), tenant)
            worker.process(frames)
            check = ReturnCheck(setup.name, type(handler).__qualname__)
            hooks = self._hooks = Hooks(handler, check)
            if program.worker_init is not None:
                phase = f"worker_init ({getattr(program.worker_init, '__qualname__', program.worker_init)})"
                hooks.init(program.worker_init)
            phase = "on_start"
            hooks.start()
            phase = "check"
            hooks.check(worker)
            if program.context or makes_spans():
                worker.context = TaskContext(program.context)
        except BaseException as exc:
            if channel.is_closed:
                raise
            channel.send(Kind.FAILED, exc.payload if isinstance(exc, FailedStart) else pack_failure(phase, exc))
            sys.exit(START_FAILURE)
        if channel.is_closed:
            sys.exit()
        channel.send(Kind.READY)
        self._runner = _make_runner(worker, handler, check, hooks)
        if worker.check is not None:  # else there would be a cycle for nothing
            worker.is_between_calls = self._runner.hand.is_between_calls
        self.join_hosts(self._runner.hand)
        source.set(self._runner.hand.in_hand)

    def make_worker(self, handler: BaseTaskHandler, route: Route, tenant: Tenant) -> Worker:
        """Make what the runner works with."""
        if not isinstance(handler, StandIn):
            return Worker(self.setup, route, self._channel, tenant, self._death_signal, self._logs)
        worker = RemoteWorker(self.setup, route, self._channel, tenant, self._death_signal, self._logs)
        handler.join(worker)
        return worker

    def _read(self, read_program: Callable[[], Program]) -> Program:
        levels = self.setup.log_levels
        if self._logs is None or levels is None:
            return read_program()
        self._logs.start(levels)
        program = read_program()
        # The modules of the user may have configured logging. They have done so in the API process, which decides.
        self._logs.restore_levels()
        if program.context:
            self._logs.context = TaskContext(program.context).values
        return program

    def run(self) -> None:
        """Work until the worker is stopped, and call `on_stop`.

        Raises:
            EOFError, OSError: The API process has ended.
        """
        try:
            self._runner.run()
        finally:
            if not self._channel.is_closed:
                self.stop()

    def stop(self) -> None:
        """Call `on_stop`; what it raises is logged."""
        try:
            self._hooks.stop()
        except Exception:
            log.exception("on_stop of step %s (pid %d) has failed", self.setup.name, os.getpid())

    def join_info(self, info: WorkerInfo) -> None:
        """Let user code find what it can know about the worker."""
        set_process_info(info)

    def join_memory(self, arena: Arena) -> None:
        """Let tasks find the shared memory."""
        shared_memories.append(arena)

    def join_hosts(self, hand: Hand) -> None:
        """Let tasks find what runs them."""
        task_hosts.append(hand)


def _make_runner(worker: Worker, handler: BaseTaskHandler, check: ReturnCheck, hooks: Hooks) -> Runner:
    if isinstance(handler, StandIn):
        return handler.make_runner()
    form = form_of(handler)
    if form.is_async:
        from .coroutines import CoroutineRunner  # imports asyncio, which other workers do not need

        return CoroutineRunner(worker, handler, check, hooks.event_loop, form.yields)
    if form is HandlerForm.GENERATOR:
        return GeneratorRunner(worker, handler)
    if worker.setup.is_continuous:
        return ContinuousRunner(worker, handler, check)
    return PlainRunner(worker, handler, check)
