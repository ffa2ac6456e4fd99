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
from functools import partial
from typing import Any

from ...handler import form_of
from ..child.trace import DUMP_SIGNAL, create_trace, read_trace
from ..statistics import DeathCause, WorkerRole, WorkerState, WorkerStatistics
from ..system.fair_timer import FairTimer
from ..timing import DEFAULT_TIMING
from ..wire.channel import Channel
from ..wire.frames import Kind, pack, pack_batches, pack_offsets
from .busy_poll import BusyPoll
from .environment import NO_ENVIRONMENT, WorkerEnvironment
from .group import Group
from .health import Health, limit_of
from .in_flight import InFlight, Outgoing
from .level_watch import LevelWatch
from .sentinel import Sentinel
from .spec import WorkerSpec

DUMP_TIME = 0.5
"""Seconds that a hung worker gets to write its stack before it is killed."""


class WorkerHandle:
    """A worker process, seen from the API process.

    Args:
        spec: What it runs.
        index: Its number in the step; a worker that replaces another one has the same.
        region: The number of the region it allocates in.
        sock: The API process's end of the channel.
        call_of: Returns when the owner of a region began its last call of the handler; 0 if there was none.
        on_frames: Called with this worker and the frames that have arrived.
        on_exit: Called once with this worker when its process has ended.
        frame_timeout: Seconds within which the rest of a frame must arrive.
        level_watch: The levels of the loggers of this process; None if log records are not forwarded.
        environment: What it gets of its machine.
        check_of: Returns when the check began that runs in the owner of a region; if none runs, the time at which the
            last one ended as a negative number, or 0.
        check_interval: Seconds between two checks of its handler.

    Attributes:
        step: Index of its step.
        name: Name of its step.
        index: As given.
        version: The version of what it runs.
        role: Whether it serves, or tries out another handler.
        region: The number of the region it allocates in.
        sentinel: Watches its process.
        health: How its model is.
        busy_poll: Keeps the event loop from sleeping while it has tasks in hand.
        pid: The process id; 0 before there is a process.
        group: The number of its process group; 0 if there is none.
        state: The state of the worker.
        trace_fd: Descriptor of the file into which it writes its stack.
        launched_at: When its launch began, on the clock of ``time.monotonic``.
        reason: Why this process has killed it, in words.
        cause: The same as a `DeathCause`; None while it has not killed it.
        in_flight: The batches it has in hand.
        retained: Offsets of blocks that user code in the worker still looks at.
        failure: The exception with which it could not start.
        failed_in: What it did then, such as `on_start`.
        ready_at: When it became ready, on the clock of ``time.monotonic``; 0 before.
        log_levels: The levels of loggers that it was last sent.
        environment: As given.
        batch_ceiling: The most tasks that its calls get, as it has reported; 0: as many as the step allows.
        on_unneeded: Called with this worker when it retires and a task has ended after which no caller waits for it.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        index: int,
        region: int,
        sock: socket.socket,
        call_of: Callable[[int], float],
        on_frames: Callable[[WorkerHandle, list[tuple[Kind, bytes]]], None],
        on_exit: Callable[[WorkerHandle], None],
        frame_timeout: float = DEFAULT_TIMING.frame_timeout,
        level_watch: LevelWatch | None = None,
        environment: WorkerEnvironment = NO_ENVIRONMENT,
        check_of: Callable[[int], float] = lambda region: 0.0,
        check_interval: float = DEFAULT_TIMING.check_interval,
    ) -> None:
        step = spec.step
        self.step = spec.index
        self.name = spec.name
        self.index = index
        self.version = spec.version
        self.role = WorkerRole.SERVING
        self.region = region
        self.pid = self.group = 0
        self.state = WorkerState.STARTING
        # Of tickets, which belong to the dispatcher.
        self.in_flight: InFlight[Any] = InFlight(step.call_size, step.places, step.sends_ahead)
        self.retained: set[int] = set()
        self.failure: BaseException | None = None
        self.failed_in = ""
        self.reason = ""
        self.cause: DeathCause | None = None
        self.launched_at = time.monotonic()
        self.ready_at = 0.0
        self.environment = environment
        self.batch_ceiling = 0
        self.on_unneeded: Callable[[WorkerHandle], None] = lambda worker: None
        self._level_watch = level_watch
        self.log_levels = None if level_watch is None else level_watch.current()
        self._handle_timeout = step.handle_timeout
        self._unread_since = math.inf
        self._call_of = call_of
        self._start_timeout = 0.0
        self._start_timer = FairTimer(self._end_slow_start)
        self._hang_timer = FairTimer(self._check_hang)
        self._check_timeout = step.check_timeout
        self._check_of = check_of
        self._runs_in_loop = form_of(step.handler).is_async
        parts = partial(check_of, region), self._ask_check, self._end_check
        self.health = Health(check_interval, limit_of(step), *parts)
        self._on_frames = on_frames
        self._on_exit = on_exit
        self.busy_poll = BusyPoll(step.busy_poll, self.in_flight)
        self._channel = Channel(sock, self._receive, self._on_channel_end, self.distrust, frame_timeout)
        is_watched = step.handle_timeout is not None or step.places > 0
        self._send = self._send_watched if is_watched else self._channel.send  # no test for every task
        self.sentinel = Sentinel(self._exited)
        self._loop: asyncio.AbstractEventLoop | None = None
        self.trace_fd = create_trace()  # nothing that can fail comes after it, or it would stay open

    def adopt(self, group: Group) -> None:
        """Adopt the process that was started for this worker; as `Sentinel.adopt`."""
        self.pid, self.group = group.pid, group.number
        self.sentinel.adopt(group)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch the worker from an event loop."""
        self._loop = loop
        self._channel.attach(loop)
        self.sentinel.attach(loop)
        self.busy_poll.attach(loop)
        self.health.attach(loop)
        self._watch_hang()

    def limit_start(self, timeout: float) -> None:
        """Kill the worker if it is not ready after ``timeout`` seconds in which the event loop has run."""
        self._start_timeout = timeout
        if self._loop is not None and self.state is WorkerState.STARTING:
            # Not from the launch on: the loop may have paused between that and now.
            self._start_timer.start(self._loop, timeout)

    def detach(self) -> None:
        """Stop watching; `attach` handles what has happened meanwhile."""
        self._channel.detach()
        self.sentinel.detach()
        self._hang_timer.cancel()
        self._start_timer.cancel()
        self.busy_poll.detach()
        self.health.detach()
        self._loop = None

    def hanging_since(self) -> float:
        """Return since when it has been in a call whose tasks have all been settled without it.

        Returns:
            The time on the clock of ``time.monotonic``; infinity if a task waits for the call, or the worker is idle.
        """
        if not self.in_flight.is_abandoned() or self._channel.has_unread():
            return math.inf
        return self._running_since()

    def _running_since(self) -> float:
        checked_at = 0.0 if self._runs_in_loop else self._check_of(self.region)
        if checked_at > 0:  # it is between two calls, and `health` limits the time
            return math.inf
        called_at = self._call_of(self.region)
        if called_at < math.inf:
            return max(called_at, self.in_flight.head_since, -checked_at)
        # It is in no call: its streams are paused, or it has none. It waits for frames, so it must read them.
        return max(self._unread_since, -checked_at) if self._channel.is_behind() else math.inf

    def _send_watched(self, frames: bytes) -> None:
        if self._call_of(self.region) < math.inf or not self._channel.is_behind():
            self._unread_since = time.monotonic()
        self._channel.send(frames)

    def _watch_hang(self) -> None:
        if self._handle_timeout is None or self._loop is None or self._hang_timer.is_running or not self.in_flight:
            return
        remaining = self._running_since() + self._handle_timeout - time.monotonic()
        # A worker whose streams are all paused or idle notes a call in the future, until it reads what it is sent.
        self._hang_timer.start(self._loop, min(max(remaining, 0.001), self._handle_timeout))

    def _check_hang(self) -> None:
        # The clock of the API process and the worker's own note decide, and no heartbeat: a thread for it goes on
        # beside an endless loop, and stops during a legitimate call that holds the interpreter's lock.
        if not self.in_flight or self._handle_timeout is None:
            return
        if time.monotonic() - self._running_since() >= self._handle_timeout:
            self.kill(f"its handler took longer than handle_timeout={self._handle_timeout:g} s", DeathCause.HANG)
        else:
            self._watch_hang()

    def _ask_check(self) -> bool:
        if self.state is not WorkerState.READY:
            return False
        self._send(pack(Kind.CHECK))
        return True

    def _end_check(self) -> None:
        self.kill(f"its check took longer than check_timeout={self._check_timeout:g} s", DeathCause.HANG)

    def send_tasks(self, batches: list[Outgoing[Any]], released: list[int]) -> None:
        """Send batches that are in the in-flight table.

        Args:
            batches: The batches.
            released: Blocks of the worker's region that are free again.
        """
        if self._level_watch is not None and self._level_watch.current() is not self.log_levels:
            self._send_levels()
        frames = pack(Kind.TASKS, pack_batches(batches))
        self._send(pack(Kind.RELEASE, pack_offsets(released)) + frames if released else frames)
        if self.busy_poll.seconds:
            self.busy_poll.start()
        if self._handle_timeout is not None:
            self._watch_hang()

    def stop(self) -> None:
        """Tell the worker to stop when it has answered its tasks."""
        self._send_levels()
        self._send(pack(Kind.STOP))

    def _send_levels(self) -> None:
        if self._level_watch is not None:
            self.log_levels = self._level_watch.current()
            self._send(pack(Kind.LEVELS, self.log_levels.pack()))

    def send_released(self, released: list[int]) -> None:
        """Send which blocks of the worker's region are free again, if there are any."""
        if released:
            self._send(pack(Kind.RELEASE, pack_offsets(released)))

    def cancel(self, task: int) -> None:
        """Tell the worker that the answer to a task that it has in hand is not needed any more.

        Args:
            task: Id of the task.
        """
        self._send(pack(Kind.CANCEL, pack_offsets([task])))
        if self.state is WorkerState.RETIRING and not self.in_flight.is_awaited():
            self.on_unneeded(self)

    def grant(self, task: int, weight: int, released: list[int]) -> None:
        """Let the worker send more items of a stream.

        Args:
            task: Id of the task.
            weight: What is added to its window.
            released: Blocks of the worker's region that are free again.
        """
        self.send_released(released)
        self._send(pack(Kind.GRANT, pack_offsets([task, weight])))

    def send(self, data: bytes) -> None:
        """Send packed frames."""
        self._send(data)

    def drain(self) -> list[tuple[Kind, bytes]]:
        """Return the frames that a dead worker has left in the channel."""
        return self._channel.drain()

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        self.sentinel.signal(signum)

    def kill(self, reason: str, cause: DeathCause) -> None:
        """Kill a worker that hangs, after it has written its stack.

        Args:
            reason: Why, for the log and for the errors of its tasks.
            cause: The same, to be counted.
        """
        if self.reason or self._loop is None:
            return
        self.reason, self.cause = reason, cause
        self.signal(DUMP_SIGNAL)
        self.sentinel.kill_later(DUMP_TIME)

    def distrust(self, error: Exception) -> None:
        """Kill a worker that has sent an invalid message, and read nothing more from it.

        Args:
            error: What is wrong, for the log and for the errors of its tasks.
        """
        self._channel.stop_reading()
        self.reason = self.reason or f"it sent an invalid message: {error}"
        self.cause = self.cause or DeathCause.PROTOCOL
        self.signal(signal.SIGKILL)

    def trace(self) -> str:
        """Return the stack that the worker has written; an empty string if it has written none."""
        return read_trace(self.trace_fd)

    def close(self) -> None:
        """Close the channel, the trace and the descriptor of the process."""
        with contextlib.ExitStack() as stack:  # if one fails, the others are closed nevertheless
            stack.callback(self.sentinel.close)
            stack.callback(os.close, self.trace_fd)
            stack.callback(self._channel.close)
            stack.callback(self.detach)

    def forget(self) -> None:
        """Close the descriptors only: in a forked child, which does not own the worker."""
        self._loop = None
        self._channel.forget()
        os.close(self.trace_fd)
        self.sentinel.forget()

    def unanswered_time(self, now: float) -> float:
        """Return the seconds for which it has worked on what it has not answered."""
        return max(0.0, now - self.in_flight.head_since) if self.in_flight else 0.0

    def death_cause(self) -> DeathCause:
        """Return why its process has ended."""
        if not self.ready_at:
            return DeathCause.START
        if self.cause is not None:
            return self.cause
        exit_code = self.sentinel.exit_code
        return DeathCause.SIGNAL if exit_code is not None and exit_code < 0 else DeathCause.EXIT

    def statistics(self, now: float, hang_limit: float) -> WorkerStatistics:
        """Return a snapshot.

        Args:
            now: The time on the clock of ``time.monotonic``.
            hang_limit: Seconds after which a call counts as hanging.
        """
        device_id, in_flight = self.environment.device_id, len(self.in_flight)
        hanging_for = now - self.hanging_since() if self.state is WorkerState.READY else 0.0
        return WorkerStatistics(
            *(self.pid or None, self.state, in_flight, self.index, self.version, device_id, self.role),
            *(self.health.problem, hanging_for if hanging_for >= hang_limit else 0.0, self.batch_ceiling),
        )

    def _end_slow_start(self) -> None:
        if self.state is WorkerState.STARTING:
            self.kill(f"it was not ready in start_timeout={self._start_timeout:g} s", DeathCause.START)

    def _receive(self, frames: list[tuple[Kind, bytes]]) -> None:
        if self.reason:
            # It goes on, only just too late: what it has done counts, but it must begin no other task now.
            if any(kind in (Kind.READY, Kind.ANSWERS) for kind, _ in frames):
                self.signal(signal.SIGKILL)
        elif self.state is WorkerState.STARTING and any(kind is Kind.READY for kind, _ in frames):
            self.state = WorkerState.READY
            self.ready_at = time.monotonic()
            self._start_timer.cancel()
        self._on_frames(self, frames)

    def _on_channel_end(self) -> None:
        # The process has ended or is about to. If it has only closed its end, it is useless.
        if self.sentinel.sees_end:
            self.sentinel.kill_later(1.0)
        else:
            self.sentinel.end()

    def _exited(self) -> None:
        self.detach()
        self._on_exit(self)
