"""Flow: the pipeline that a user builds, starts and calls."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, TypeVar

from .engine.configuration import Configuration
from .engine.declaration import LONGEST_TIMEOUT, checked_method, checked_timeout, declared, not_a_task
from .engine.engine import LocalEngine
from .engine.lifecycle import Lifecycle
from .engine.loops.event_loop import check_asyncio as check_asyncio
from .engine.loops.event_loop import check_may_block
from .engine.loops.owner import Guard
from .engine.memory.arrivals import Arrival as Arrival
from .engine.memory.banker import NO_CAP
from .engine.memory.banker import ArrivalCap as ArrivalCap
from .engine.memory.block_writer import BlockWriter as BlockWriter
from .engine.options import DEFAULT_QUEUE_SIZE, DEFAULT_START_TIMEOUT, DEFAULT_STOP_TIMEOUT, EngineOptions
from .engine.recorder import Recording
from .engine.recorder import TaskRecorder as TaskRecorder
from .engine.recorder import checked_recorder as checked_recorder
from .engine.refusals import Refusals
from .engine.scheduling.stream import FlowStream as FlowStream
from .engine.shape import Shape, describe
from .engine.state import FlowState as FlowState
from .engine.statistics import FlowStatistics as FlowStatistics
from .engine.statistics import Histogram as Histogram
from .engine.statistics import StepStatistics as StepStatistics
from .engine.statistics import TrialReport as TrialReport
from .engine.statistics import TrialSide as TrialSide
from .engine.statistics import WorkerStatistics as WorkerStatistics
from .engine.statistics import statistics_at_rest
from .engine.system.process_memory import default_memory_limit
from .engine.timing import DEFAULT_TIMING, Timing
from .exceptions import InvalidArgument
from .fair_share import FairShare
from .metrics.collect import Collector
from .metrics.export import Exporter
from .metrics.manager import make_reporters
from .metrics.tracing import TracerProvider, Tracing
from .recording.flow_name import find_flow_name
from .reports import Subscriber
from .settings import Setting
from .step import FlowStep as FlowStep  # users of the package aqueduct import it from here
from .step import Part
from .step_changes import StepChanges
from .steps import Steps
from .task import BaseTask, check_streamable

T = TypeVar("T", bound=BaseTask)

caller_guard: ContextVar[Guard | None] = ContextVar("caller_guard", default=None)
"""Makes a context around each call of a flow in this context: one that cancels it when the client disconnects."""


class Flow:
    """A pipeline of steps, each run by worker processes.

    The constructor starts nothing, so a module that builds a flow can be imported anywhere. Start the flow with
    ``async with flow``, with the lifespan of `fastapi_aqueduct.Aqueduct`, or with `start` and `stop`.

    Args:
        *steps: The steps in their order; a handler alone means ``FlowStep(handler)``. A list is a group: its members
            are branches, which run side by side, and a tuple in it is a branch of several steps. See "Branches".
        queue_size: Tasks that may wait for a step, at each level of priority; default 1024. While the queue of a step
            is full, the steps before it get no tasks; while that of the first step is full, `process` waits and
            HTTP requests are refused.
        queue_priorities: Number of priority levels; see `BaseTask.priority`. A waiting task rises by one each second.
        fair: How tenants share the flow, as a `FairShare`: whose tasks go next when many wait, and how many of one
            tenant may wait. It counts for the first step: later steps work in the order in which tasks pass it.
        mp_start_method: ``"spawn"`` or ``"forkserver"``. ``"fork"`` is refused: a server has threads and an event
            loop, and a fork copies them in an unusable state.
        memory_limit: Bytes of shared memory of the flow; default: half of the memory of the machine or container.
        start_timeout: Seconds in which all workers must be ready; default 300.
        stop_timeout: Seconds that a graceful stop waits for tasks in flight; default 25.
        name: Name of the flow in logs, errors, probes and metrics.
        context: Context variables of the caller that are set while its task is handled, in every worker.
        worker_init: Runs in each worker before `on_start`, to set up logging, tracing or seeds; may be ``async def``.
        template: Loads once what all workers need, in a process of its own from which they are forked, so that they
            share the memory. A plain function at the top level of a module: a loader under ``functools.cache``, which
            `on_start` calls again in each worker. What it returns is not used. See "Sharing weights".
        forward_logs: Whether the handlers of this process get what user code in workers logs.
        tracing: Whether tasks of traced requests have spans of OpenTelemetry; or the ``TracerProvider`` for them.
        timing: The times of the engine; tests shorten them.
        metrics_enabled: Whether times of tasks are measured.
        metrics_collector: Gathers what is measured for ``metrics_exporter``; default: a `metrics.Collector`.
        metrics_exporter: Gets in periods what is measured, such as `metrics.ToStatsDMetricsExporter`; Prometheus needs
            none.
        recorder: A `Recorder`, which writes tasks that fail to files. ``Aqueduct(flow, recorder=...)`` gives all flows
            of an application one.

    Attributes:
        subscribers: Functions that are called with the `fastapi_aqueduct.reports.TaskRecord` of each task that ends, in
            the event loop of the flow and before the caller continues. For exporters; what they raise is logged.
        refusals: Counts what the flow refuses.

    Raises:
        ConfigurationError: The flow cannot work as declared.
    """

    def __init__(
        self,
        *steps: Part,
        queue_size: int | None = None,
        queue_priorities: int = 1,
        fair: FairShare | None = None,
        mp_start_method: Literal["spawn", "forkserver", "fork"] = "spawn",
        memory_limit: int | None = None,
        start_timeout: float = DEFAULT_START_TIMEOUT,
        stop_timeout: float = DEFAULT_STOP_TIMEOUT,
        name: str = "flow",
        context: Sequence[ContextVar[Any]] = (),
        worker_init: Callable[[], object] | None = None,
        template: Callable[[], object] | None = None,
        forward_logs: bool = True,
        tracing: bool | TracerProvider = True,
        timing: Timing = DEFAULT_TIMING,
        metrics_enabled: bool = True,
        metrics_collector: Collector | None = None,
        metrics_exporter: Exporter | None = None,
        recorder: TaskRecorder | None = None,
    ) -> None:
        self.name = name
        self.tracing = Tracing(name, tracing)
        self._steps, self._shape = declared(steps)
        size = DEFAULT_QUEUE_SIZE if queue_size is None else queue_size
        self.subscribers: list[Subscriber] = []
        self.refusals = Refusals(self.tracing.note_refusal)
        reporters = make_reporters(
            name, self._steps, metrics_enabled, metrics_collector, metrics_exporter, self.subscribers
        )
        self._measures_tasks = metrics_enabled and all(reporter.collects_tasks for reporter in reporters)
        self._recording = Recording(partial(find_flow_name, weakref.ref(self)))
        self._recording.recorder = checked_recorder(recorder)
        options = EngineOptions(
            *(name, self._steps, checked_method(mp_start_method), size, queue_priorities, memory_limit),
            *(start_timeout, timing, self.subscribers, metrics_enabled, context),
            *(worker_init, reporters, forward_logs, self.refusals, self.tracing.begin if tracing else None),
            *(template, stop_timeout),
            shape=self._shape,
            recording=self._recording,
            fair=fair,
        )
        self._configuration = Configuration(options, self._steps)
        self._lifecycle = Lifecycle(self._configuration, LocalEngine.build)
        self._changes = StepChanges(self._lifecycle, self._configuration)

    @property
    def state(self) -> FlowState:
        """State of the flow: stopped, starting, running or stopping."""
        return self._lifecycle.state

    @property
    def is_running(self) -> bool:
        """Whether the flow accepts tasks."""
        return self._lifecycle.state is FlowState.RUNNING

    @property
    def are_steps_initialized(self) -> bool:
        """Whether the workers are ready and the flow accepts no tasks yet; see `init_processes`."""
        return self._lifecycle.state is FlowState.STEPS_INITIALIZED

    @property
    def need_collect_task_timers(self) -> bool:
        """Whether the times of tasks are measured."""
        return self._measures_tasks

    @property
    def stop_timeout(self) -> float:
        """Seconds that a graceful stop waits for tasks in flight."""
        return self._configuration.options.stop_timeout

    @property
    def recorder(self) -> TaskRecorder | None:
        """Writes tasks that fail to files; None: nothing does. With a shared pipeline one that is set before the start.

        It may be set while the flow runs, after `Recorder.open`.
        """
        return self._recording.recorder

    @recorder.setter
    def recorder(self, recorder: TaskRecorder | None) -> None:
        self._recording.recorder = checked_recorder(recorder)

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The numbers of the flow and its steps, and where they come from; while it is stopped, what a start would use.

        Raises:
            ConfigurationError: The flow is stopped, and a variable of the environment is wrong.
        """
        is_stopped = self._lifecycle.state is FlowState.STOPPED
        return self._configuration.preview() if is_stopped else self._configuration.settings

    @property
    def fair(self) -> FairShare | None:
        """How tenants share the flow; None if they do not."""
        return self._configuration.options.fair

    @property
    def steps(self) -> Steps:
        """The steps by name, in their order: ``flow.steps["classify"]``. A step is also found by its numbered name."""
        return Steps(self, self._changes, self._steps)

    @property
    def shape(self) -> Shape:
        """Which steps run one after the other, and which side by side: their names, nested.

        A group is a tuple of branches, and each branch a tuple of its steps. So the shape of
        ``Flow(Decode(), [Faces(), (Plates(), Read())], Merge())`` has the form
        ``("decode", (("faces",), ("plates", "read")), "merge")``. Without groups it is a tuple of names.
        """
        return self._shape

    def start(self, timeout: float | None = None) -> None:
        """Start the workers and block until all are ready.

        Can be called with and without a running event loop. In an event loop use ``async with flow``, which does not
        block it.

        Args:
            timeout: Seconds in which all workers must be ready; default: ``start_timeout`` of the flow.

        Raises:
            StartError: A worker failed; nothing is left running. The cause is the worker's own exception.
            StartTimeout: The workers were not ready in time; nothing is left running.
        """
        self._lifecycle.start_blocking(timeout)

    def init_processes(self, timeout: float | None = None) -> None:
        """Start the workers and block until all are ready, as `start` does, but accept no tasks until `start_inited`.

        Args:
            timeout: Seconds in which all workers must be ready; default: ``start_timeout`` of the flow.

        Raises:
            StartError, StartTimeout: As for `start`.
        """
        self._lifecycle.init_blocking(timeout)

    def start_inited(self) -> None:
        """Accept tasks after `init_processes`, in the same process.

        Raises:
            NotRunningError: `init_processes` was not called.
            ForkedError: It was called in the process that this one is a fork of.
        """
        self._lifecycle.start_inited()

    async def __aenter__(self) -> Self:
        await self.start_async()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.stop()

    async def start_async(self, start_timeout: float | None = None) -> None:
        """Start the workers and wait until all are ready, without blocking the event loop.

        Args:
            start_timeout: Seconds in which all workers must be ready; default: ``start_timeout`` of the flow.

        Raises:
            StartError, StartTimeout: As for `start`.
            NotRunningError: The flow is not stopped.
            ConfigurationError: The running event loop is not of asyncio.

        A cancellation stops the workers again.
        """
        await self._lifecycle.start(start_timeout)

    async def process(self, task: T, timeout_sec: float = 5.0) -> T:
        """Send a task through the steps and set the results in it.

        Args:
            task: The task. Its fields are the input, and handlers set fields of it.
            timeout_sec: Seconds in which the answer must come.

        Returns:
            The same object.

        Raises:
            ConfigurationError: ``task`` is no task, or its priority or ``timeout_sec`` is no number.
            NotRunningError: The flow is not running, or was stopped meanwhile.
            ForkedError: The flow was started in a process that this one is a fork of.
            TaskTimeout: The answer did not come in time; the message says where the task was.
            TaskNotPicklable: A field, or a value of a context variable, cannot be sent to another process.
            TaskTooLarge: The task can never fit into shared memory.
            ArenaFull: Shared memory had no space in time.
            StepUnavailable: A step has no ready worker and will not have one in time.
            WorkerDied: The worker died, and the task has no retries left; see ``FlowStep(max_retries=...)``.
            Exception: An exception of a handler, with the worker's traceback as its cause.

        While the queue of the first step is full, the call waits for a place. A cancellation withdraws the task: it
        does not run unless a worker has begun it, and then the handler can ask `BaseTask.is_cancelled`.
        """
        if not isinstance(task, BaseTask):
            raise not_a_task(task)
        if timeout_sec.__class__ is not float or not 0.0 <= timeout_sec <= LONGEST_TIMEOUT:
            timeout_sec = checked_timeout(timeout_sec)
        engine = self._lifecycle.running_engine()
        try:
            processing = engine.process(task, timeout_sec)
        except RuntimeError:
            check_asyncio()
            raise
        guard = caller_guard.get()
        if guard is None:
            await processing
        else:
            with guard(None):
                await processing
        return task

    def stream(self, task: BaseTask, timeout_sec: float = 5.0, item_timeout: float | None = None) -> FlowStream[Any]:
        """Send a task through the steps, and iterate over the items that its handlers yield or emit.

            async for token in flow.stream(task):
                print(token)
            print(task.usage)               # the fields are set after the last item

        The task begins with the first step of the iteration, and an end of the iteration (``break``, a cancellation, no
        reference to the stream any more) ends it. The iteration raises what `process` raises, after the items that came
        before. A task of which an item has come is not tried again when its worker dies.

        While the consumer is behind by 256 items or 4 MiB, the stream pauses, and its clock stands still.

        Args:
            task: As for `process`.
            timeout_sec: Seconds in which the first item must come, or the end if there is none.
            item_timeout: Seconds in which each further item, and the end, must come; default: ``timeout_sec``.

        Returns:
            An asynchronous iterator, which is also a context manager (``async with``) that ends the stream.

        Raises:
            ConfigurationError, NotRunningError, ForkedError: As for `process`.
            InvalidArgument: A field of the task hides a method that streams need.
            UsageError: The event loop of another thread drives the flow.

        The iteration raises `SlowConsumer` if more than 4096 items or 64 MiB wait for the consumer: a handler that
        emits items for several tasks, or in a coroutine, cannot pause one of them.
        """
        if not isinstance(task, BaseTask):
            raise not_a_task(task)
        check_streamable(task)
        timeout = checked_timeout(timeout_sec)
        gap = timeout if item_timeout is None else checked_timeout(item_timeout)
        guard = caller_guard.get()
        context = nullcontext if guard is None else partial(guard, None)
        return self._lifecycle.running_engine().stream(task, timeout, gap, context)

    def process_blocking(self, task: T, timeout_sec: float = 5.0) -> T:
        """Send a task through the steps, as `process` does, from a thread in which no event loop runs.

        For ``def`` endpoints, background tasks, ``run_in_executor`` and scripts. The call blocks the thread; the event
        loop that drives the flow does the work, or a background loop of the flow if there is none.

        Args:
            task: As for `process`.
            timeout_sec: As for `process`.

        Returns:
            The same object.

        Raises:
            BlockingCallError: An event loop runs in this thread: use ``await flow.process(task)``.
            Exception: As for `process`.

        KeyboardInterrupt withdraws the task.
        """
        check_may_block(self.name)
        if not isinstance(task, BaseTask):
            raise not_a_task(task)
        timeout = checked_timeout(timeout_sec)
        self._lifecycle.running_engine().process_blocking(task, timeout, caller_guard.get())
        return task

    async def stop(self, graceful: bool = True) -> None:
        """Stop the workers. Does nothing for a flow that is not running.

        Args:
            graceful: Whether to wait for tasks in flight first, for ``stop_timeout`` seconds at most, and to run
                `on_stop` in the workers. New tasks are refused at once.

        The remaining tasks end with `NotRunningError`. The flow can be started again. A second stop that is not
        graceful ends the wait of a graceful one; a cancellation does the same, and the workers are killed.
        """
        await self._lifecycle.stop(graceful)

    def end_streams(self) -> None:
        """End the open streams with `NotRunningError`, after the items that have come, and refuse new ones.

        A server does this when it stops: a stream can be endless, and servers wait for open responses. Other tasks go
        on. Streams are possible again when the flow has been started anew. Does nothing for a flow that is not running,
        and while another event loop than the running one drives it.
        """
        if self._lifecycle.engine is not None:
            self._lifecycle.engine.end_streams()

    def kill_workers(self) -> None:
        """Kill the workers without waiting, before a `stop` that is not graceful, which must follow.

        For an event loop that may not run again.
        """
        if self._lifecycle.engine is not None:
            self._lifecycle.engine.kill_at_once()

    def check_entry(
        self, priority: int = 0, timeout_sec: float = 5.0, task: BaseTask | None = None
    ) -> None:
        """Refuse a task that would have to wait for a place now, or would miss its deadline.

        A server calls this before it reads the body of a request. `process` waits where this refuses.

        Args:
            priority: Priority of the task.
            timeout_sec: Seconds in which its answer must come.
            task: The task, or another one of its class with the fields that are known already: a flow with ``fair``
                reads the tenant from it, if it can.

        Raises:
            NotRunningError: The flow is not running.
            StepUnavailable: A step has no ready worker.
            QueueFull: The queue of the first step is full.
            TenantOverShare: The tenant has as many tasks in the queue as it may; see `FairShare`.
            DeadlineUnreachable: At the measured rate, or because a step is asleep and has to start, the task would take
                longer than ``timeout_sec``. The step is woken.
        """
        self._lifecycle.running_engine().check_entry(priority, timeout_sec, task)

    @property
    def memory_limit(self) -> int:
        """Bytes of shared memory that all processes of the flow may use."""
        engine = self._lifecycle.engine
        return engine.memory_limit if engine else self._configuration.options.memory_limit or default_memory_limit()

    def expect(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap = NO_CAP) -> Arrival:
        """Expect a body. It counts as arriving from its first byte, and waits while too much is arriving.

        Args:
            size: Size of the body in bytes; None if it is not known.
            most: The most bytes that a body of unknown size may have.
            wait_timeout: Seconds that it may wait in total.
            cap: Limits of what may be arriving at the same time.

        Raises:
            NotRunningError: The flow is not running.
            Overloaded: Too many bodies are arriving.
        """
        return self._lifecycle.running_engine(counts=False).expect(size, most, wait_timeout, cap)

    def receive(self, size: int | None, most: int, wait_timeout: float, cap: ArrivalCap = NO_CAP) -> BlockWriter:
        """Expect a body that is written to shared memory.

        Args:
            size: As for `expect`.
            most: As for `expect`.
            wait_timeout: As for `expect`.
            cap: As for `expect`.

        Raises:
            NotRunningError, Overloaded: As for `expect`.
        """
        return self._lifecycle.running_engine(counts=False).receive(size, most, wait_timeout, cap)

    def adopt(self) -> None:
        """Have the running event loop drive the flow, if no loop does or a background loop of the flow does.

        A server does this when it starts with a flow that already runs: calls from the loop that drives a flow are the
        cheapest. Calls in progress continue. If another event loop drives the flow, it continues to do so.

        Raises:
            NotRunningError: The flow is not running.
        """
        self._lifecycle.running_engine(counts=False).adopt()

    def statistics(self) -> FlowStatistics:
        """Return a snapshot of workers, queues and shared memory. Does no I/O, so that probes can call it."""
        engine, state = self._lifecycle.engine, self._lifecycle.state
        if engine is None:
            steps = {name: step.nprocs for name, step in self._steps}
            found = statistics_at_rest(self.name, state, steps, self.memory_limit, self.refusals.by_reason())
        else:
            found = engine.statistics(state)
        recordings = self._recording.statistics()
        return found if recordings is None else replace(found, recordings=recordings)

    def __reduce__(self) -> NoReturn:
        # Otherwise pickle fails at the first lock that it finds in here, and names that.
        raise InvalidArgument(
            f"flow {self.name} cannot be sent to another process, nor can an application or an object that refers to "
            "it: give it a function that imports the application"
        )

    def __repr__(self) -> str:
        return f"<Flow {self.name} {self.state}: {describe(self._shape)}>"
