"""The pipeline a user drives."""

from __future__ import annotations

import asyncio
import atexit
import math
import os
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from contextvars import ContextVar
from enum import StrEnum
from types import TracebackType
from typing import Literal, Self, SupportsFloat, TypeVar

from .engine.engine import Engine
from .engine.event_loop import check_asyncio
from .engine.intake import NO_CAP, Intake, IntakeCap
from .engine.memory import default_memory_limit
from .engine.process import StartMethod
from .engine.statistics import ArenaStatistics, FlowStatistics, StepStatistics
from .exceptions import ConfigurationError, ForkedError, MPStartMethodValueError, NotRunningError
from .handler import BaseTaskHandler
from .logger import log
from .step import FlowStep as FlowStep  # users of the package aqueduct import it from here
from .task import BaseTask, got, shared_memories

T = TypeVar("T", bound=BaseTask)

DEFAULT_QUEUE_SIZE = 1024
"""Tasks that may wait for a step, if the flow does not say."""

DEFAULT_START_TIMEOUT = 300.0
"""Seconds in which all workers must be ready, if the flow does not say."""

LONGEST_TIMEOUT = 1e9
"""Seconds; stands for "for ever", which clocks and timers cannot count."""

DEFAULT_STOP_TIMEOUT = 25.0
"""Seconds that a graceful stop waits for tasks in flight, if the flow does not say: Kubernetes kills after 30."""

caller_guard: ContextVar[Callable[[], AbstractContextManager[object]] | None] = ContextVar(
    "caller_guard", default=None
)
"""Makes a context for each `Flow.process` of the present caller: who serves callers that may go away cancels there."""


class FlowState(StrEnum):
    """Where a flow is in its life."""

    STOPPED = "stopped"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"


class Flow:
    """Steps in order, run by worker processes.

    Building a flow starts nothing: a module may build one and be imported anywhere. Start it with
    ``async with flow``, with the lifespan of `fastapi_aqueduct.Aqueduct`, or with `start` and `stop`.

    Args:
        *steps: The stages; a handler alone stands for ``FlowStep(handler)``.
        queue_size: Tasks that may wait for a step, in each level of priority. While a later step has that many, those
            before it rest; when the first has that many, `process` waits and HTTP refuses. Default 1024.
        queue_priorities: Number of priority levels; see `BaseTask.priority`. Waiting raises a task by one level a
            second, so that none starves.
        mp_start_method: ``"spawn"``, or ``"forkserver"``. A server has threads and an event loop, which a fork would
            copy in an unusable state; so ``"fork"`` is refused.
        memory_limit: Bytes of shared memory that all processes of the flow may use; default: half of the memory of
            the machine or container.
        start_timeout: Seconds in which all workers must be ready; default 300.
        stop_timeout: Seconds that a graceful stop waits for tasks in flight; default 25.
        name: Name of the flow in logs, errors, probes and metrics.

    Raises:
        ConfigurationError: The flow cannot work as declared.
    """

    def __init__(
        self,
        *steps: FlowStep | BaseTaskHandler,
        queue_size: int | None = None,
        queue_priorities: int = 1,
        mp_start_method: Literal["spawn", "forkserver", "fork"] = "spawn",
        memory_limit: int | None = None,
        start_timeout: float = DEFAULT_START_TIMEOUT,
        stop_timeout: float = DEFAULT_STOP_TIMEOUT,
        name: str = "flow",
    ) -> None:
        self.name = name
        self._steps = _named(steps)
        self._queue_size = DEFAULT_QUEUE_SIZE if queue_size is None else queue_size
        self._priorities = queue_priorities
        self._method: StartMethod = _checked_method(mp_start_method)
        self._memory_limit = memory_limit
        self._start_timeout = start_timeout
        self._stop_timeout = stop_timeout
        self._state = FlowState.STOPPED
        self._engine: Engine | None = None
        self._forked_from = 0
        self._has_told_of_fork = False
        _check_numbers(self._queue_size, queue_priorities, memory_limit, start_timeout)

    @property
    def state(self) -> FlowState:
        """Where the flow is in its life."""
        return self._state

    @property
    def is_running(self) -> bool:
        """Whether the flow takes tasks."""
        return self._state is FlowState.RUNNING

    def start(self, timeout: float | None = None) -> None:
        """Start the workers and block until all are ready.

        Works with and without a running event loop; inside one, prefer ``async with flow``, which does not block it.

        Args:
            timeout: Seconds in which all workers must be ready; default: ``start_timeout`` of the flow.

        Raises:
            StartError: A worker failed; nothing is left running. Its cause is the worker's own exception.
            StartTimeout: The workers were not ready in time; nothing is left running.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self._start_detached(timeout))
            return
        _run_in_thread(lambda: asyncio.run(self._start_detached(timeout)))
        if self._engine is not None:
            self._engine.attach(loop)

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start_async(self, timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready, without blocking the event loop.

        Args:
            timeout: As for `start`.

        Raises:
            StartError, StartTimeout: As for `start`. A cancellation stops what was started.
            ConfigurationError: No event loop of asyncio runs here.
        """
        check_asyncio()
        if self._state is not FlowState.STOPPED:
            raise NotRunningError(f"flow {self.name} cannot be started: it is {self._state}")
        engine = self._engine = self._build()
        self._state = FlowState.STARTING
        self._forked_from = 0
        _started.add(self)
        try:
            await engine.start(self._start_timeout if timeout is None else timeout)
        except BaseException:
            await asyncio.shield(asyncio.ensure_future(self._discard(engine, kill=True)))
            raise
        shared_memories.append(engine.ledger.arena)
        self._state = FlowState.RUNNING
        log.info("flow %s is running: %s", self.name, ", ".join(name for name, _ in self._steps))

    async def process(self, task: T, timeout_sec: float = 5.0) -> T:
        """Take a task through the steps and fill it in.

        Args:
            task: Its fields are the input; it comes back with the fields that the handlers set.
            timeout_sec: Seconds in which the answer must come.

        Returns:
            The same object.

        Raises:
            ConfigurationError: It is no task, or its priority or ``timeout_sec`` is no number.
            NotRunningError: The flow is not running, or was stopped meanwhile.
            ForkedError: It was started in a process that this one is a fork of.
            TaskTimeout: The answer did not come in time; the message says where the task was.
            TaskNotPicklable: A field cannot travel to another process.
            ArenaFull: There was no room in shared memory in time.
            StepUnavailable: A step has no ready worker, and will not have one in time.
            WorkerDied: Workers died with the task in their hands, more of them than its step puts up with.
            Exception: What a handler raised, as itself, with the worker's traceback as its cause.

        When the queue of the first step is full the call waits for a place. A cancellation withdraws the task: it
        does not run if no worker has it yet.
        """
        if not isinstance(task, BaseTask):
            raise ConfigurationError(f"process() takes a task, an object of a subclass of BaseTask, {got(task)}")
        if timeout_sec.__class__ is not float or not 0.0 <= timeout_sec <= LONGEST_TIMEOUT:
            timeout_sec = _checked_timeout(timeout_sec)
        engine = self._engine
        try:
            if engine is None or self._state is not FlowState.RUNNING or engine.loop is not asyncio.get_running_loop():
                engine = self._attached()
        except RuntimeError:
            check_asyncio()
            raise
        processing = engine.dispatcher.process(task, timeout_sec)
        guard = caller_guard.get()
        if guard is None:
            await processing
        else:
            with guard():
                await processing
        return task

    async def stop(self, graceful: bool = True) -> None:
        """Stop the workers; a flow that is not running is left alone.

        Args:
            graceful: Wait for tasks in flight first, for ``stop_timeout`` seconds at most, and let
                workers run `on_stop`. New tasks are refused at once.

        Tasks that are left end with `NotRunningError`. The flow can be started again. A graceful stop that is under way
        is ended by another one that is not.
        """
        engine = self._engine
        if engine is None or self._state is FlowState.STARTING:
            return
        if self._state is FlowState.STOPPING:
            if not graceful:
                engine.dispatcher.abandon("the flow was stopped")
                await engine.supervisor.kill()
            return
        self._attached()
        self._state = FlowState.STOPPING
        has_waited = False
        try:
            if graceful:
                if not await engine.dispatcher.wait_idle(self._stop_timeout):
                    log.warning("flow %s stops with %d tasks unfinished", self.name, engine.dispatcher.in_flight)
                has_waited = True
        finally:
            # Whoever cancels the stop ends the wait for tasks and not the stop.
            await asyncio.shield(asyncio.ensure_future(self._discard(engine, kill=not has_waited)))

    def kill_workers(self) -> None:
        """Kill the workers without waiting, as the first act of a stop that is not graceful; `stop` must follow.

        For an event loop that may not turn again.
        """
        if self._engine is not None:
            self._engine.supervisor.kill_at_once()

    def check_entry(self, priority: int = 0, timeout_sec: float = 5.0) -> None:
        """Refuse a task that comes now if it would have to wait for a place, or could not be done in time.

        `process` waits where this refuses. A server asks before it takes in the body of a request.

        Args:
            priority: Priority the task will have.
            timeout_sec: Seconds it will have.

        Raises:
            NotRunningError: The flow is not running.
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            DeadlineUnreachable: At the measured rate it would take longer than ``timeout_sec``.
        """
        self._attached().dispatcher.check_entry(priority, timeout_sec)

    async def reserve(self, size: int, timeout: float, cap: IntakeCap = NO_CAP) -> Intake:
        """Take a block of shared memory to fill, waiting for room.

        Args:
            size: Bytes.
            timeout: Seconds to wait at most.
            cap: How much may be arriving at the same time, here and elsewhere.

        Raises:
            NotRunningError: The flow is not running.
            ArenaFull: There was no room in time.
            Overloaded: Too much is arriving already.
        """
        return await Intake.open(self._attached().ledger, size, timeout, cap)

    def statistics(self) -> FlowStatistics:
        """Return a snapshot of workers, queues and shared memory; from memory only, cheap enough for probes."""
        engine = self._engine
        if engine is None:
            steps = tuple(StepStatistics(name, (), step.nprocs, 0) for name, step in self._steps)
            arena = ArenaStatistics(self._memory_limit or default_memory_limit())
            return FlowStatistics(self.name, self._state, steps, arena, 0, 0, 0, 0, 0)
        return engine.statistics(self._state)

    def __repr__(self) -> str:
        return f"<Flow {self.name} {self._state}: {' > '.join(name for name, _ in self._steps)}>"

    def _attached(self) -> Engine:
        engine = self._engine
        if engine is None or self._state is not FlowState.RUNNING:
            raise self._not_running()
        loop = asyncio.get_running_loop()
        if engine.loop is not loop:
            engine.attach(loop)
        return engine

    def _not_running(self) -> NotRunningError:
        if self._forked_from:
            return self._forked()
        advice = {
            FlowState.STOPPED: "start it with `async with flow:`, with the lifespan of Aqueduct, or with flow.start()",
            FlowState.STARTING: "wait until its start has returned",
            FlowState.STOPPING: "it takes no more tasks",
            FlowState.RUNNING: "",
        }
        return NotRunningError(f"flow {self.name} is {self._state}: {advice[self._state]}")

    def _forked(self) -> ForkedError:
        message = (
            f"flow {self.name} was started in process {self._forked_from}, and this is process {os.getpid()}, a fork "
            "of that: its workers answer only the process that has started them. Start the flow after the fork: with "
            "the lifespan of Aqueduct and not by flow.start() at import (gunicorn --preload)"
        )
        if not self._has_told_of_fork:
            log.error("%s", message)  # not every server logs what an endpoint raises
            self._has_told_of_fork = True
        return ForkedError(message)

    async def _start_detached(self, timeout: float | None) -> None:
        await self.start_async(timeout)
        engine = self._engine
        assert engine is not None
        engine.detach()

    def _build(self) -> Engine:
        return Engine.build(
            self.name,
            self._steps,
            self._method,
            self._memory_limit or default_memory_limit(),
            self._queue_size,
            self._priorities,
            self._start_timeout,
        )

    async def _discard(self, engine: Engine, kill: bool) -> None:
        _started.discard(self)
        if engine.ledger.arena in shared_memories:
            shared_memories.remove(engine.ledger.arena)
        await engine.close(kill)
        self._engine = None
        self._state = FlowState.STOPPED

    def _forget(self) -> None:
        # In a fork of the process that has started the flow. The workers answer that process only: with two readers
        # one gets the other's answers.
        engine = self._engine
        if engine is None:
            return
        if engine.ledger.arena in shared_memories:
            shared_memories.remove(engine.ledger.arena)
        engine.forget()
        _forked.append(engine)
        self._engine = None
        self._state = FlowState.STOPPED
        self._forked_from = os.getppid()
        self._has_told_of_fork = False

    def _let_go(self) -> None:
        if self._engine is not None:
            self._engine.let_go()


_started: set[Flow] = set()
"""Also those that nothing else refers to any more: their workers must be let go all the same."""

_forked: list[Engine] = []
"""Engines of the parent of this process. Kept, so that nothing in them is ended here by the garbage collector."""


@atexit.register
def _let_go_of_started() -> None:
    # A flow that was never stopped must not keep the interpreter: its workers leave when their channels close.
    for flow in list(_started):
        flow._let_go()


def _forget_started() -> None:
    for flow in _started:
        flow._forget()
    _started.clear()


os.register_at_fork(after_in_child=_forget_started)


def _named(steps: tuple[FlowStep | BaseTaskHandler, ...]) -> list[tuple[str, FlowStep]]:
    if not steps:
        raise ConfigurationError("a flow needs at least one step")
    full = [step if isinstance(step, FlowStep) else FlowStep(step) for step in steps]
    return [(step.handler.get_step_name(number), step) for number, step in enumerate(full, start=1)]


def _checked_method(method: str) -> StartMethod:
    if method == "spawn":
        return "spawn"
    if method == "forkserver":
        return "forkserver"
    raise MPStartMethodValueError(
        f"mp_start_method {method!r} is refused: use 'spawn' or 'forkserver'"
        + ("; a forked server leaves its workers with locks and an event loop that nobody serves" * (method == "fork"))
    )


def _check_numbers(queue_size: int, priorities: int, memory_limit: int | None, start_timeout: float) -> None:
    for name, value, least in (
        ("queue_size", queue_size, 1),
        ("queue_priorities", priorities, 1),
        ("memory_limit", memory_limit if memory_limit is not None else 1 << 20, 1 << 20),
    ):
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {value}")
    if start_timeout <= 0:
        raise ConfigurationError(f"start_timeout must be positive, got {start_timeout}")


def _checked_timeout(timeout: object) -> float:
    if not isinstance(timeout, SupportsFloat) or math.isnan(timeout):
        raise ConfigurationError(f"process() needs a number of seconds as timeout_sec, {got(timeout)}")
    return max(0.0, min(float(timeout), LONGEST_TIMEOUT))


def _run_in_thread(function: Callable[[], object]) -> None:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=run, name="aqueduct-start")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
