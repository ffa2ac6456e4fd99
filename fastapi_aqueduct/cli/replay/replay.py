"""Runs a recorded task through the steps of its flow, in this thread, so that a debugger sees what a handler sees."""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import os
import signal
import time
from asyncio import Runner
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, Protocol, Self

from ...engine.shape import Shape
from ...engine.statistics import DeathCause
from ...engine.wire.packing import copy_of, pack
from ...engine.workers.environment import make_environment
from ...engine.workers.starter import share_of_cores
from ...exceptions import ConfigurationError, HandlerTimeout
from ...flow import Flow
from ...handler import BaseTaskHandler, form_of
from ...recording.task_file import TaskFile
from ...runtime import drop_runtime
from ...step import FlowStep
from ...task import BaseTask
from ...worker import WorkerInfo, set_thread_info
from ..target import find_flow


class Progress(Protocol):
    """Shows how far a replay is."""

    def note_step(self, name: str, seconds: float, items: int) -> None:
        """Handle the end of a step.

        Args:
            name: Name of the step.
            seconds: How long it took, without `on_start`.
            items: The items that it has yielded.
        """

    def note_skipped(self, name: str) -> None:
        """Handle a step that the task does not visit."""


class Replay:
    """A recorded task, and the flow that it is run through.

    Args:
        file: The task.
        target: Where the flow is, as ``module:name``.
        flow: The flow.
        position: The position of the step that has failed.

    Attributes:
        file: As given.
        target: As given.
        flow: As given.
        position: As given.
    """

    def __init__(self, file: TaskFile, target: str, flow: Flow, position: int) -> None:
        self.file = file
        self.target = target
        self.flow = flow
        self.position = position

    @classmethod
    def prepare(cls, file: TaskFile, target: str | None, flow_name: str | None) -> Self:
        """Import the flow of a recorded task.

        Args:
            file: The task.
            target: Where the flow is, as ``module:name``; None: where it was.
            flow_name: The name of the flow; None: that of the record.

        Raises:
            ConfigurationError: There is no such flow, or it has no such step.
            Exception: What the module has raised.
        """
        metadata = file.metadata
        target = target or metadata["target"]
        if target is None:
            raise ConfigurationError(
                f"flow {metadata['flow']} was no attribute of a module when the task was recorded: say where it is, "
                f"fastapi-aqueduct replay {file.path} MODULE:NAME"
            )
        flow = find_flow(target, flow_name or metadata["flow"])
        steps = list(flow.steps)
        if metadata["step"] not in flow.steps:
            raise ConfigurationError(
                f"flow {flow.name} has no step {metadata['step']}, in which the task has failed, but {', '.join(steps)}"
            )
        return cls(file, target, flow, flow.steps[metadata["step"]].position)

    def steps(self, step_only: bool) -> list[str]:
        """List the names of the steps that are run.

        A step before a group, or the last one of a branch, is the last one: the record has nothing of other branches.

        Args:
            step_only: Whether only the one that has failed is.
        """
        names = list(self.flow.steps)
        name = names[self.position]
        return [name] if step_only else list(_following(self.flow.shape, name))

    def run(self, progress: Progress, step_only: bool) -> Exception | None:
        """Run the task; return the exception with which it fails.

        Args:
            progress: Shows each step.
            step_only: Whether it ends after the step that has failed.

        Raises:
            RecordingError: The task cannot be restored.
            KeyboardInterrupt: On Ctrl-C.
        """
        faulthandler.enable()  # a crash of a library shows where it was
        task = self.file.make_task()
        try:
            with Runner() as loop:
                self._call(self.flow._configuration.options.worker_init, loop)
                for position, name in enumerate(self.steps(step_only), self.position):
                    step = self.flow._configuration.step(position)
                    if position != self.position and not step.handle_condition(task):
                        progress.note_skipped(name)
                        continue
                    limit = step.handle_timeout if position == self.position and self._has_hung else None
                    task = self._visit(name, step, task, loop, progress, limit)
        except Exception as exc:
            return exc
        return None

    @property
    def _has_hung(self) -> bool:
        """Whether the task took too long. It gets as long now; any other one may wait at a breakpoint."""
        error, worker = self.file.metadata["exception"], self.file.metadata["worker"]
        is_late: bool = error["type"] == f"{HandlerTimeout.__module__}.{HandlerTimeout.__qualname__}"
        return is_late or bool(worker["cause"] == DeathCause.HANG)

    def _visit(
        self, name: str, step: FlowStep, task: BaseTask, loop: Runner, progress: Progress, limit: float | None
    ) -> BaseTask:
        self._become_worker(name, step)
        handler = step.handler
        self._call(handler.on_start, loop)
        try:
            began = time.monotonic()
            items = _handle(handler, task, loop, limit)
            failure = drop_runtime(task, "failure")
            if failure is not None:
                raise failure
            progress.note_step(name, time.monotonic() - began, items)
            return _travel(task)
        finally:
            self._call(handler.on_stop, loop)

    def _become_worker(self, name: str, step: FlowStep) -> None:
        """Set what a handler can know about its worker: the first one of its step."""
        share = share_of_cores(self.flow._configuration.options)
        environment = make_environment(step.worker, 0, share, os.environ)
        os.environ.update(environment.variables)
        version = self.file.metadata["version"]
        parts = environment.threads, version, environment.device, environment.device_id
        set_thread_info(WorkerInfo(self.flow.name, name, 0, os.getpid(), *parts))

    def _call(self, function: Any, loop: Runner) -> None:
        value = None if function is None else function()
        if inspect.isawaitable(value):
            loop.run(_wait_for(value))


def _following(shape: Shape, name: str) -> Iterator[str]:
    """Yield a step and those that follow it one after the other, in the sequence that has it."""
    for index, element in enumerate(shape):
        if element == name:
            yield from takewhile(lambda other: isinstance(other, str), shape[index:])
        elif not isinstance(element, str):
            for branch in element:
                yield from _following(branch, name)


async def _wait_for(value: Any) -> Any:
    return await value


def _handle(handler: BaseTaskHandler, task: BaseTask, loop: Runner, limit: float | None) -> int:
    """Call a handler for one task; return the number of items that it has yielded.

    Raises:
        HandlerTimeout: It takes longer than ``limit`` seconds; the cause shows where it was.
        Exception: Raised by the handler.
    """
    form = form_of(handler)
    if form.is_async:
        return loop.run(_handle_async(handler.handle(task), form.yields, limit))
    with _interrupted(limit):
        value = handler.handle(task)
        if form.yields:
            return sum(1 for _ in value)
    if inspect.isawaitable(value):  # of a wrapper
        loop.run(_wait_for(value))
    return 0


async def _handle_async(value: Any, yields: bool, limit: float | None) -> int:
    count = 0
    try:
        async with asyncio.timeout(limit) as limited:
            if yields:
                async for _ in value:
                    count += 1
            else:
                await value
    except TimeoutError as exc:
        if not limited.expired():
            raise
        raise _timeout(limit) from exc
    return count


@contextmanager
def _interrupted(limit: float | None) -> Iterator[None]:
    """Raise an exception where the code is when it takes too long."""

    def interrupt(signum: int, frame: object) -> None:
        raise _timeout(limit)

    if limit is None:
        yield
        return
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        yield
    except HandlerTimeout as exc:
        trace = exc.__traceback__
        while trace is not None and trace.tb_next is not None:
            if trace.tb_next.tb_frame.f_code is interrupt.__code__:
                trace.tb_next = None  # a debugger opens where the handler was
                break
            trace = trace.tb_next
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _timeout(limit: float | None) -> HandlerTimeout:
    return HandlerTimeout(f"the handler takes longer than handle_timeout={limit:g} s, as it did")


def _travel(task: BaseTask) -> BaseTask:
    """Return a task as another worker would get it.

    Raises:
        TaskNotPicklable: A field cannot travel.
    """
    return copy_of(pack(task))
