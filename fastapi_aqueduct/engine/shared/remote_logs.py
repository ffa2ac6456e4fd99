"""Handles in an API process what user code in the workers of a pipeline logs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from ...logger import log
from ..options import EngineOptions
from ..statistics import WorkerState
from ..wire.frames import Kind, ProtocolError
from ..wire.log_levels import LogLevels
from ..workers.level_watch import level_watch
from ..workers.worker_logs import Source, WorkerLogs
from .messages import pack_message, unpack_message
from .status_feed import Send


class Logged(NamedTuple):
    """What a frame of kind LOG to an API process contains: the worker, as in `Source`, and the record."""

    step: str
    number: int
    pid: int
    version: int
    device_id: str | None
    record: bytes


@dataclass
class _Environment:
    device_id: str | None


@dataclass
class _Worker:
    """A worker of the pipeline; see `Source`."""

    name: str
    index: int
    pid: int
    version: int
    environment: _Environment
    state: WorkerState = WorkerState.READY

    def distrust(self, error: Exception) -> None:
        """Log it: the pipeline process passes records on as they are, and is not to blame."""
        log.error("step %s (pid %d) has sent an invalid log record: %s", self.name, self.pid, str(error))


@dataclass
class _Step:
    name: str
    log_records_dropped: int = 0


def pack_source(worker: Source, payload: bytes) -> bytes:
    """Return the payload of a frame of kind LOG to an API process.

    Args:
        worker: The worker that has logged.
        payload: The record, as its frame has it.
    """
    device_id = worker.environment.device_id
    return pack_message(Logged(worker.name, worker.index, worker.pid, worker.version, device_id, payload))


class RemoteLogs:
    """Handles records as `WorkerLogs` does for the workers of this process, and tells which are wanted.

    Args:
        options: What the flow declares.
    """

    def __init__(self, options: EngineOptions) -> None:
        self._logs = WorkerLogs(options.name, options.context, options.timing.log_interval)
        self._is_wanted = options.forward_logs
        self._told: LogLevels | None = None
        self._steps = {name: _Step(name) for name, _ in options.steps}

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self._logs.attach(loop)

    def detach(self) -> None:
        """Leave the event loop, when all records that have arrived are handled."""
        self._logs.detach()

    def begin(self) -> None:
        """Note that there is another pipeline process, which does not know the levels."""
        self._told = None

    def tell_levels(self, send: Send) -> None:
        """Send the levels of the loggers of this process, if they have changed.

        Args:
            send: Sends a frame to the pipeline process.
        """
        if self._is_wanted and self._told is not (levels := level_watch.current()):
            self._told = levels
            send(Kind.LEVELS, levels.pack())

    def on_log(self, payload: bytes) -> None:
        """Handle a record.

        Raises:
            ProtocolError: It is malformed.
        """
        name, index, pid, version, device_id, record = unpack_message(payload, Logged)
        step = self._steps.get(name)
        if step is None:
            raise ProtocolError(f"a log record of {name}, which is no step")
        self._logs.receive(step, _Worker(name, index, pid, version, _Environment(device_id)), record)
        self._logs.handle_some()
