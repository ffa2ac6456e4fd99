"""Passes what user code in workers logs to the logging of this process."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import time
import traceback
import warnings
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from typing import Any, Protocol

from ...logger import log
from ..statistics import WorkerState
from ..wire.frames import ProtocolError, unpack_offsets
from ..wire.log_records import Arrived, Warned, split_record, unpack_record

TURN = 0.001
"""Seconds in which records are handled in one turn of the event loop, and after which the others wait for the next."""

MAX_WAITING = 8 << 20
"""Bytes of records that may wait for their turn."""


class Environment(Protocol):
    """What a worker gets of its machine.

    Attributes:
        device_id: As of `WorkerStatistics`.
    """

    @property
    def device_id(self) -> str | None:
        """As above."""


class Source(Protocol):
    """A worker whose records arrive.

    Attributes:
        name: Name of its step.
        index: Its number in the step.
        pid: Its process id.
        version: The version of its handler.
        state: Its state.
        environment: What it gets of its machine.
    """

    name: str
    index: int
    pid: int
    version: int
    state: WorkerState

    @property
    def environment(self) -> Environment:
        """As above."""

    def distrust(self, error: Exception) -> None:
        """Handle an invalid message of it."""


class Step(Protocol):
    """The step of a worker.

    Attributes:
        name: Its name.
        log_records_dropped: Records of its workers that were dropped.
    """

    name: str
    log_records_dropped: int


class WorkerLogs:
    """Handles the log records of the workers of a flow as if they were made in this process, in the order of arrival.

    The levels, filters and handlers of this process decide about them.

    Args:
        flow: Name of the flow.
        variables: The context variables that travel with tasks.
        report_interval: Seconds between two reports of dropped records.

    Attributes:
        forward: Passes a record on to another process, and tells whether that was possible; None: all are handled here.
    """

    def __init__(self, flow: str, variables: Sequence[ContextVar[Any]], report_interval: float) -> None:
        self.forward: Callable[[Step, Source, bytes], bool] | None = None
        self._flow = flow
        self._variables = variables
        self._report_interval = report_interval
        self._waiting: deque[tuple[Step, Source, bytes]] = deque()
        self._size = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._turn: asyncio.Handle | None = None
        self._dropped: Counter[str] = Counter()  # since the last report, by step
        self._report: asyncio.TimerHandle | None = None
        self._reported_at = -math.inf
        self._has_failed = False

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._loop = loop

    def detach(self) -> None:
        """Leave the event loop, when all records that have arrived are handled."""
        self._loop = None
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        self._handle_until(math.inf)
        if self._report is not None:
            self._report.cancel()
            self._report_dropped()

    def receive(self, step: Step, worker: Source, payload: bytes) -> None:
        """Accept a frame of kind LOG; `handle_some` must follow when the frames with which it has come are handled."""
        if self._size + len(payload) > MAX_WAITING:
            self._drop(step, 1)
            return
        self._waiting.append((step, worker, payload))
        self._size += len(payload)

    def note_dropped(self, step: Step, payload: bytes) -> None:
        """Handle a frame of kind DROPPED.

        Raises:
            ProtocolError: It is invalid.
        """
        self._drop(step, sum(unpack_offsets(payload)))

    def handle_some(self) -> None:
        """Handle the records that have arrived, at once or in the next turns of the event loop."""
        if self._turn is None:  # else earlier records wait for the next turn, and go first
            self._handle_turn()

    def _handle_turn(self) -> None:
        self._turn = None
        self._handle_until(time.monotonic() + TURN)
        if self._waiting and self._loop is not None:
            self._turn = self._loop.call_soon(self._handle_turn)

    def _handle_until(self, end: float) -> None:
        waiting = self._waiting
        while waiting:
            step, worker, payload = waiting.popleft()
            self._size -= len(payload)
            try:
                if self.forward is None or not self.forward(step, worker, payload):
                    self._handle(worker, payload)
            except ProtocolError as exc:
                if worker.state is not WorkerState.DEAD:
                    worker.distrust(exc)
            except Exception:
                self._fail(step)
            if time.monotonic() >= end:
                break

    def _handle(self, worker: Source, payload: bytes) -> None:
        arrived = unpack_record(split_record(payload)[1])
        record = arrived.record
        attributes = record.__dict__
        for name, value in (
            *(("flow", self._flow), ("step", worker.name), ("worker", worker.index), ("pid", worker.pid)),
            *(("device_id", worker.environment.device_id), ("worker_version", worker.version)),
        ):
            attributes.setdefault(name, value)
        record.processName = f"{self._flow}:{worker.name}"
        if not self._variables:
            self._pass_on(arrived)
            return
        # In the context of the caller, for filters and handlers that read it.
        context = copy_context()
        for variable in self._variables:
            if variable.name in arrived.context:
                context.run(variable.set, arrived.context[variable.name])
            attributes.setdefault(variable.name, None)
        context.run(self._pass_on, arrived)

    def _pass_on(self, arrived: Arrived) -> None:
        record, warning = arrived.record, arrived.warning
        # `logging` replaces this function when it captures warnings.
        if warning is not None and getattr(warnings.showwarning, "__module__", "") != logging.__name__:
            text, _, _, filename, lineno, line = warning
            warnings.showwarning(text, _category(warning), filename, lineno, None, line)
            return
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)

    def _fail(self, step: Step) -> None:
        """Report an exception of a filter, handler or record factory, but not as a record, which may fail too."""
        if not self._has_failed:
            self._has_failed = True
            traceback.print_exc()
        self._drop(step, 1)

    def _drop(self, step: Step, count: int) -> None:
        step.log_records_dropped += count
        self._dropped[step.name] += count
        if self._report is None and self._loop is not None:
            delay = self._reported_at + self._report_interval - time.monotonic()
            self._report = self._loop.call_later(max(0.0, delay), self._report_dropped)

    def _report_dropped(self) -> None:
        self._report = None
        self._reported_at = time.monotonic()
        counts = ", ".join(f"{count} of {step}" for step, count in self._dropped.items())
        self._dropped.clear()
        why = "too many at once, or an error in logging"
        log.warning("log records of workers in flow %s were dropped (%s): %s", self._flow, why, counts)


def _category(warning: Warned) -> type[Warning]:
    """Return the category of a warning; one of the same name if this process has not imported its module."""
    found = getattr(sys.modules.get(warning.module), warning.category, None)
    if isinstance(found, type) and issubclass(found, Warning):
        return found
    return type(warning.category, (Warning,), {"__module__": warning.module})
