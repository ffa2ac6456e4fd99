"""The handle of one worker process: its channel, signals, state and timers."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import Any

from ..child.trace import DUMP_SIGNAL, create_trace, read_trace
from ..statistics import WorkerState, WorkerStatistics
from ..system.fair_timer import FairTimer
from ..timing import DEFAULT_TIMING
from ..wire.channel import Channel
from ..wire.frames import Kind, pack, pack_batches, pack_offsets
from .busy_poll import BusyPoll
from .group import ProcessGroup
from .in_flight import InFlight, Outgoing
from .sentinel import Sentinel

DUMP_TIME = 0.5
"""Seconds that a hung worker gets to write its stack before it is killed."""


class WorkerHandle:
    """A worker as the API process sees it.

    Args:
        step: Index of its step.
        name: Name of its step.
        region: The number of the region it allocates in.
        sock: The API process's end of the channel.
        batch_size: The most tasks that one call of the handler gets.
        handle_timeout: Seconds that one call of the handler may take; None: no limit.
        call_of: Tells when the owner of a region called its handler last; 0 when it never did.
        on_frames: Called with this worker and the frames that have arrived.
        on_exit: Called once with this worker when the process is gone.
        busy_poll: Seconds for which the event loop polls for an answer; 0: it sleeps.
        frame_timeout: Seconds after which a frame that does not go on counts as garbage.

    Attributes:
        sentinel: Watches its process.
        busy_poll: Keeps the event loop from sleeping while it has tasks in hand.
        pid: The process id; 0 before there is one.
        state: Where it is in its life.
        trace_fd: Descriptor of the file into which it writes its stack.
        launched_at: When its start began, on the clock of ``time.monotonic``.
        reason: Why we have killed it.
        in_flight: The batches it has in hand.
        retained: Blocks that user code in the worker still looks at.
        failure: Why it could not start, once that is known.
        ready_at: When it became ready, on the clock of ``time.monotonic``; 0 before.
    """

    def __init__(
        self,
        step: int,
        name: str,
        region: int,
        sock: socket.socket,
        batch_size: int,
        handle_timeout: float | None,
        call_of: Callable[[int], float],
        on_frames: Callable[[WorkerHandle, list[tuple[Kind, bytes]]], None],
        on_exit: Callable[[WorkerHandle], None],
        busy_poll: float = 0.0,
        frame_timeout: float = DEFAULT_TIMING.frame_timeout,
    ) -> None:
        self.step = step
        self.name = name
        self.region = region
        self.pid = 0
        self.state = WorkerState.STARTING
        self.in_flight: InFlight[Any] = InFlight(batch_size)  # of tickets, which belong to the dispatcher
        self.retained: set[int] = set()
        self.failure: BaseException | None = None
        self.reason = ""
        self.launched_at = time.monotonic()
        self.ready_at = 0.0
        self._handle_timeout = handle_timeout
        self._call_of = call_of
        self._start_timeout = 0.0
        self._start_timer = FairTimer(self._end_slow_start)
        self._hang_timer = FairTimer(self._check_hang)
        self._on_frames = on_frames
        self._on_exit = on_exit
        self.busy_poll = BusyPoll(busy_poll, self.in_flight)
        self._channel = Channel(sock, self._receive, self._on_channel_end, self.distrust, frame_timeout)
        self.sentinel = Sentinel(self._exited)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.trace_fd = create_trace()  # nothing that can fail comes after it, or it would stay open

    def adopt(self, group: ProcessGroup) -> None:
        """Take charge of the process that was started for this worker; as `Sentinel.adopt`."""
        self.pid = group.number
        self.sentinel.adopt(group)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the worker from an event loop."""
        self._loop = loop
        self._channel.attach(loop)
        self.sentinel.attach(loop)
        self.busy_poll.attach(loop)
        self._watch_hang()

    def limit_start(self, timeout: float) -> None:
        """Kill the worker if it is not ready after so many seconds in which the event loop has run."""
        self._start_timeout = timeout
        if self._loop is not None and self.state is WorkerState.STARTING:
            # Not from the launch on: the loop may have paused between that and now.
            self._start_timer.start(self._loop, timeout)

    def detach(self) -> None:
        """Stop watching; what happens meanwhile is seen when it is watched again."""
        self._channel.detach()
        self.sentinel.detach()
        self._hang_timer.cancel()
        self._start_timer.cancel()
        self.busy_poll.detach()
        self._loop = None

    def hanging_since(self) -> float:
        """Tell since when it has been in a call whose tasks have all ended without it.

        Returns:
            The time on the clock of ``time.monotonic``; infinity when a task waits for the call, or it is idle.
        """
        if not self.in_flight.is_abandoned() or self._channel.has_unread():
            return math.inf
        return self._running_since()

    def _running_since(self) -> float:
        return max(self._call_of(self.region), self.in_flight.head_since)

    def _watch_hang(self) -> None:
        if self._handle_timeout is None or self._loop is None or self._hang_timer.is_running or not self.in_flight:
            return
        remaining = self._running_since() + self._handle_timeout - time.monotonic()
        self._hang_timer.start(self._loop, max(remaining, 0.001))

    def _check_hang(self) -> None:
        # The clock of the API process and the worker's own note decide. A heartbeat would not: a thread of its own
        # goes on beating beside an endless loop, and stops in an honest call that holds the interpreter's lock.
        if not self.in_flight or self._handle_timeout is None:
            return
        if time.monotonic() - self._running_since() >= self._handle_timeout:
            self.kill(f"its handler took longer than handle_timeout={self._handle_timeout:g} s")
        else:
            self._watch_hang()

    def send_tasks(self, batches: list[Outgoing[Any]], released: list[int]) -> None:
        """Send batches that are in the in-flight table.

        Args:
            batches: The batches.
            released: Blocks of the worker's region that are free again.
        """
        frames = pack(Kind.TASKS, pack_batches(batches))
        self._channel.send(pack(Kind.RELEASE, pack_offsets(released)) + frames if released else frames)
        if self.busy_poll.seconds:
            self.busy_poll.start()
        if self._handle_timeout is not None:
            self._watch_hang()

    def send_released(self, released: list[int]) -> None:
        """Send which blocks of the worker's region are free again, if there are any."""
        if released:
            self._channel.send(pack(Kind.RELEASE, pack_offsets(released)))

    def send(self, data: bytes) -> None:
        """Send bytes that are packed already."""
        self._channel.send(data)

    def drain(self) -> list[tuple[Kind, bytes]]:
        """Read what a dead worker has left in the channel."""
        return self._channel.drain()

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal, if the process is still there."""
        self.sentinel.signal(signum)

    def kill(self, reason: str) -> None:
        """Kill a worker that hangs, after it has written down where.

        Args:
            reason: Why, for the log and for the tasks in its hands.
        """
        if self.reason or self._loop is None:
            return
        self.reason = reason
        self.signal(DUMP_SIGNAL)
        self.sentinel.kill_later(DUMP_TIME)

    def distrust(self, error: Exception) -> None:
        """Kill a worker that has sent garbage, and read nothing more from it.

        Args:
            error: What was found, for the log and for the tasks in its hands.
        """
        self._channel.stop_reading()
        self.reason = self.reason or f"it sent what makes no sense: {error}"
        self.signal(signal.SIGKILL)

    def trace(self) -> str:
        """Return the stack that the worker has written, if it has."""
        return read_trace(self.trace_fd)

    def close(self) -> None:
        """Let go of the channel and of the process."""
        with contextlib.ExitStack() as stack:  # whatever fails, the others are closed
            stack.callback(self.sentinel.close)
            stack.callback(os.close, self.trace_fd)
            stack.callback(self._channel.close)
            stack.callback(self.detach)

    def forget(self) -> None:
        """Close the descriptors and nothing else; in a forked child, whose worker it is not."""
        self._loop = None
        self._channel.forget()
        os.close(self.trace_fd)
        self.sentinel.forget()

    def statistics(self) -> WorkerStatistics:
        """Return a snapshot."""
        return WorkerStatistics(self.pid or None, self.state, len(self.in_flight))

    def _end_slow_start(self) -> None:
        if self.state is WorkerState.STARTING:
            self.kill(f"it was not ready in start_timeout={self._start_timeout:g} s")

    def _receive(self, frames: list[tuple[Kind, bytes]]) -> None:
        if self.state is WorkerState.STARTING and any(kind is Kind.READY for kind, _ in frames):
            self.state = WorkerState.READY
            self.ready_at = time.monotonic()
            self._start_timer.cancel()
        self._on_frames(self, frames)

    def _on_channel_end(self) -> None:
        # The process is gone or going. One that only closed its end is of no use any more.
        if self.sentinel.sees_end:
            self.sentinel.kill_later(1.0)
        else:
            self.sentinel.end()

    def _exited(self) -> None:
        self.detach()
        self._on_exit(self)
