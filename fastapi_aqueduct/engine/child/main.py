"""Entry point of a worker process, after `bootstrap` has prepared the interpreter.

Imports nothing that a worker does not need: no event loop, no web framework.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from typing import Protocol

from ...handler import BaseTaskHandler, HandlerForm, form_of
from ...runtime import task_hosts
from ...task import shared_memories
from ..memory.mapping import Mapping
from ..memory.tenant import Tenant
from ..route import Route
from ..system.malloc import keep_freed_memory
from ..wire.channel import WorkerChannel
from ..wire.failures import encode_error
from ..wire.frames import Kind
from .continuous import ContinuousRunner
from .generators import GeneratorRunner
from .hand import Hand
from .hooks import Hooks
from .parent_death import ParentDeathSignal, end_group, watch_parent
from .program import read_program
from .return_check import ReturnCheck
from .runners import PlainRunner
from .setup import Setup
from .trace import write_trace_on_faults
from .worker import Worker

START_FAILURE = 3
"""Exit code of a worker whose `on_start` failed."""

LARGE = 256 << 20
"""Bytes from which a freed buffer goes back to the system at once, whatever a worker keeps."""



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


def main(sock: socket.socket, memory_fd: int, trace_fd: int, lifeline: int, program_fd: int) -> None:
    """Run a worker until it is stopped or the API process has ended.

    Args:
        sock: The worker's end of the channel.
        memory_fd: Descriptor of the shared memory.
        trace_fd: Descriptor of the file for its stack.
        lifeline: Descriptor of a pipe that ends with the API process.
        program_fd: Descriptor of the program.
    """
    write_trace_on_faults(trace_fd)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    channel = WorkerChannel(sock)
    os.register_at_fork(after_in_child=channel.close)
    watch_parent(channel.fileno())
    parent_death_signal = ParentDeathSignal(lifeline)
    parent_death_signal.arm()
    try:
        runner, hooks = _set_up(channel, memory_fd, program_fd, parent_death_signal)
        try:
            runner.run()
        finally:
            if not channel.is_closed:
                hooks.stop()
        parent_death_signal.arm()  # what the handler has left behind is the API process's to end
    except (EOFError, BrokenPipeError, ConnectionResetError):
        if channel.is_closed:
            raise
        # The API process has ended. What this process has printed would be lost with it.
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        end_group()


def _set_up(
    channel: WorkerChannel, memory_fd: int, program_fd: int, parent_death_signal: ParentDeathSignal
) -> tuple[Runner, Hooks]:
    frames = channel.receive()
    try:
        setup = Setup.unpack(frames.pop(0)[1])
        handler, conditions = read_program(program_fd)
        tenant = Tenant(Mapping(memory_fd, setup.layout.size), setup.layout, setup.region, setup.blocks)
        shared_memories.append(tenant.arena)
        worker = Worker(setup, Route(conditions), channel, tenant, parent_death_signal)
        worker.process(frames)
        check = ReturnCheck(setup.name, type(handler).__qualname__)
        hooks = Hooks(handler, check)
        hooks.start()
    except BaseException as exc:
        if channel.is_closed:
            raise
        channel.send(Kind.FAILED, encode_error(exc))
        sys.exit(START_FAILURE)
    if channel.is_closed:
        sys.exit()
    channel.send(Kind.READY)
    # Not before: what loading has freed is not needed again.
    keep_freed_memory(setup.kept, min(setup.kept, LARGE))
    runner = _make_runner(worker, handler, check, hooks)
    task_hosts.append(runner.hand)
    return runner, hooks


def _make_runner(worker: Worker, handler: BaseTaskHandler, check: ReturnCheck, hooks: Hooks) -> Runner:
    form = form_of(handler)
    if form.is_async:
        from .coroutines import CoroutineRunner  # imports asyncio, which other workers do not need

        return CoroutineRunner(worker, handler, check, hooks.event_loop, form.yields)
    if form is HandlerForm.GENERATOR:
        return GeneratorRunner(worker, handler)
    if worker.setup.is_continuous:
        return ContinuousRunner(worker, handler, check)
    return PlainRunner(worker, handler, check)
