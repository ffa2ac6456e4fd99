"""Faults of real worker processes, for tests of what an application does about them.

The flow runs as in production, with processes. Each fault is of the step that is named; the flow recovers by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Mapping

from ..engine.engine import LocalEngine
from ..engine.options import EngineOptions
from ..engine.workers.environment import WorkerEnvironment
from ..engine.workers.group import Group
from ..engine.workers.handle import WorkerHandle
from ..engine.workers.pool import Pool
from ..engine.workers.spec import WorkerSpec
from ..engine.workers.starter import ProcessStarter, Starter
from ..engine.workers.template import Template
from ..exceptions import ArenaFull, FlowError, UsageError
from ..flow import Flow
from ..handler import BaseTaskHandler
from .inline import InlineEngine

_POLL_INTERVAL = 0.005

_NOTICE_TIME = 5.0
"""Seconds after which a flow that has not noticed the end of a worker is defective."""


async def kill(flow: Flow, step: str) -> None:
    """Kill the workers of a step with SIGKILL, as the kernel does when memory runs out.

    Returns when the flow has noticed. Tasks that the workers had in hand are tried again, or fail with `WorkerDied`
    (503) if ``max_retries`` does not allow it. New requests are refused with 503 until the replacements are ready.

    Args:
        flow: The flow, which the running event loop drives.
        step: Name of the step.

    Raises:
        UsageError: The flow has no worker processes, or another event loop drives it.
        UnknownStep: The flow has no step of this name.
        FlowError: The flow has not noticed the deaths; this is a defect of the package.
    """
    pool = _pool_of(flow, step)
    killed = pool.ready_workers()
    for worker in killed:
        worker.signal(signal.SIGKILL)
    deadline = time.monotonic() + _NOTICE_TIME
    while _still_in(pool, killed):
        if time.monotonic() > deadline:
            raise FlowError(f"flow {flow.name} has not noticed the death of workers of {step} in {_NOTICE_TIME:g} s")
        await asyncio.sleep(_POLL_INTERVAL)


@contextlib.contextmanager
def hang(flow: Flow, step: str) -> Iterator[None]:
    """Stop the workers of a step with SIGSTOP until the end of the context, as if their handlers hung.

    A request ends with 504 when its ``timeout_sec`` has passed. With ``handle_timeout`` the workers are killed, and
    their replacements answer.

    Args:
        flow: The flow, which the running event loop drives.
        step: Name of the step.

    Raises:
        UsageError, UnknownStep: As for `kill`.
    """
    pool = _pool_of(flow, step)
    stopped = pool.ready_workers()
    for worker in stopped:
        worker.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in _still_in(pool, stopped):
            worker.signal(signal.SIGCONT)


@contextlib.contextmanager
def slow_start(flow: Flow, step: str, seconds: float) -> Iterator[None]:
    """Delay workers of a step that start in the context, as if they loaded a large model.

    Around the start of a flow or of its application, the start takes longer, and raises `StartTimeout` after
    ``start_timeout``. With a flow that runs, it is the replacements of `kill` that take longer: requests are refused
    with 503 for that time. Leave the context before the flow is stopped.

    Args:
        flow: The flow.
        step: Name of the step.
        seconds: How much longer a worker takes until it is ready.

    Raises:
        UsageError, UnknownStep: As for `kill`.
    """
    name = flow.steps[step].name
    with contextlib.ExitStack() as stack:
        if not flow.is_running:

            def build(options: EngineOptions) -> LocalEngine:
                slow = stack.enter_context(_SlowStarter(ProcessStarter(options), name, seconds))
                return LocalEngine.build(options, slow)

            stack.enter_context(flow._lifecycle.built_by(build))
            yield
            return
        launcher = _engine_of(flow).supervisor.launcher
        starter = stack.enter_context(_SlowStarter(launcher.starter, name, seconds))
        before, launcher.starter = launcher.starter, starter
        try:
            yield
        finally:
            launcher.starter = before


@contextlib.contextmanager
def full_memory(flow: Flow) -> Iterator[None]:
    """Occupy all shared memory of a flow that is free, until the end of the context.

    An upload that finds no memory in time is refused with 503, and so is a task whose handler cannot store a result of
    16 KiB or more. Smaller tasks go on.

    Args:
        flow: The flow, which the running event loop drives.

    Raises:
        UsageError: As for `kill`.
    """
    memory = _engine_of(flow).memory
    blocks: list[int] = []
    size = memory.arena.layout.limit
    while size >= os.sysconf("SC_PAGE_SIZE"):
        try:
            blocks.append(memory.arena.allocate(size).offset)
        except ArenaFull:
            size //= 2
    try:
        yield
    finally:
        for offset in blocks:
            memory.arena.free(offset)
        memory.arena.trim()
        memory.waiters.notify_freed()


class _SlowStarter:
    """Stops each worker of a step for a while when it has started.

    Args:
        starter: Starts it.
        step: Name of the step.
        seconds: How long it stays stopped.
    """

    def __init__(self, starter: Starter, step: str, seconds: float) -> None:
        self._starter = starter
        self._step = step
        self._seconds = seconds
        self._stopped: list[_Stopped] = []

    def __enter__(self) -> _SlowStarter:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for stopped in self._stopped:
            stopped.go_on()

    @property
    def template(self) -> Template | None:
        """What is loaded once for all workers."""
        return self._starter.template

    def make_specs(self) -> list[WorkerSpec]:
        """Make what the workers of each step run."""
        return self._starter.make_specs()

    def renew(self, spec: WorkerSpec, handler: BaseTaskHandler) -> WorkerSpec:
        """Make what the workers of a step run with another handler; see `Starter.renew`."""
        return self._starter.renew(spec, handler)

    def environment(self, spec: WorkerSpec, index: int) -> WorkerEnvironment:
        """Return what a worker gets of its machine."""
        return self._starter.environment(spec, index)

    def start(
        self,
        spec: WorkerSpec,
        variables: Mapping[str, str],
        sock: socket.socket,
        memory_fd: int,
        trace_fd: int,
        lifeline_fd: int,
    ) -> Group:
        """Start a worker."""
        group = self._starter.start(spec, variables, sock, memory_fd, trace_fd, lifeline_fd)
        if spec.name == self._step:
            self._stopped.append(_Stopped(group.pid, self._seconds))
        return group

    def hint(self, exit_code: int | None) -> str:
        """Return what may have ended a worker."""
        return self._starter.hint(exit_code)


class _Stopped:
    """A process that is stopped, and goes on after a time.

    Args:
        pid: Its process id.
        seconds: The time.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        self._pidfd = os.pidfd_open(pid)
        self._lock = threading.Lock()
        self._has_gone_on = False
        signal.pidfd_send_signal(self._pidfd, signal.SIGSTOP)
        self._timer = threading.Timer(seconds, self.go_on)
        self._timer.daemon = True
        self._timer.start()

    def go_on(self) -> None:
        """Continue the process; only the first call counts."""
        with self._lock:
            if self._has_gone_on:
                return
            self._has_gone_on = True
        self._timer.cancel()
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)
        os.close(self._pidfd)


def _engine_of(flow: Flow) -> LocalEngine:
    engine = flow._lifecycle.running_engine()
    if not isinstance(engine, LocalEngine) or isinstance(engine, InlineEngine):
        raise UsageError(f"flow {flow.name} has no worker processes: start it without inline() and stub()")
    if not engine.adopt():
        raise UsageError(f"another event loop drives flow {flow.name}: call this where the application runs")
    return engine


def _pool_of(flow: Flow, step: str) -> Pool:
    return _engine_of(flow).dispatcher.stages[flow.steps[step].position].pool


def _still_in(pool: Pool, workers: list[WorkerHandle]) -> list[WorkerHandle]:
    return [worker for worker in workers if worker in pool.workers]
