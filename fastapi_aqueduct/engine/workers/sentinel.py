"""Watches the process of a worker until it ends."""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import Callable

from .group import Group

STATUS_TIME = 1.0
"""Seconds that a forkserver has to report how a worker ended; then its exit status counts as unknown."""


class Sentinel:
    """Reports the end of a process, and kills a process whose time is over.

    Args:
        on_end: Called once when the process has ended.
    """

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._group: Group | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._kill_timer: asyncio.TimerHandle | None = None
        self._kill_at = math.inf
        self._status_fd: int | None = None
        self._status_timer: asyncio.TimerHandle | None = None

    @property
    def exit_code(self) -> int | None:
        """The exit status; None while the process runs, or if the status is unknown."""
        return self._group.exit_code() if self._group is not None else None

    @property
    def sees_end(self) -> bool:
        """Whether the end of the process is seen without the end of its channel."""
        return self._group is not None and self._group.pidfd is not None

    def adopt(self, group: Group) -> None:
        """Watch a worker from the next `attach` on.

        Raises:
            OSError: No descriptor is left to watch it; `abort` ends it.
        """
        self._group = group
        group.open()

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Watch from an event loop."""
        self._loop = loop
        if self._group is not None and self._group.pidfd is not None:
            # Not the end of the channel: a child of the worker may hold that open. Not SIGCHLD: uvloop refuses it.
            loop.add_reader(self._group.pidfd, self.end)
        if self._kill_at < math.inf:
            self._set_kill_timer(loop)

    def detach(self) -> None:
        """Stop watching; `attach` sees what has happened meanwhile."""
        pidfd = self._group.pidfd if self._group is not None else None
        if self._loop is not None and not self._loop.is_closed():
            for fd in (pidfd, self._status_fd):
                if fd is not None:
                    self._loop.remove_reader(fd)
        for timer in (self._kill_timer, self._status_timer):
            if timer is not None:
                timer.cancel()
        self._kill_timer = self._status_timer = self._status_fd = None
        self._loop = None

    def signal_group(self, signum: signal.Signals) -> None:
        """Send a signal to the process and to those it has started."""
        if self._group is not None:
            self._group.signal(signum)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the process, unless it has ended."""
        if self._group is not None:
            self._group.signal_leader(signum)

    def kill_later(self, delay: float) -> None:
        """Kill the process if it has not ended after ``delay`` seconds; only the first call counts."""
        if self._loop is not None and self._kill_at == math.inf:
            self._kill_at = time.monotonic() + delay
            self._set_kill_timer(self._loop)

    def end(self) -> None:
        """Read the exit status of a process that has ended, and report the end; if it has not ended, kill it."""
        group = self._group
        assert group is not None
        if group.pidfd is None:
            group.reap()
        elif not group.end():
            if self._await_status(group.pidfd, group.status_fd):
                return
            group.reap()
        self._finish()

    def _await_status(self, pidfd: int, status_fd: int | None) -> bool:
        """Wait for the exit status in the event loop: a forkserver that is stopped or swapped out reports it late."""
        if self._loop is None or status_fd is None:
            return False
        try:
            self._loop.add_reader(status_fd, self._read_status)
        except OSError:
            return False
        self._loop.remove_reader(pidfd)
        self._status_fd = status_fd
        self._status_timer = self._loop.call_later(STATUS_TIME, self._read_status)
        return True

    def _read_status(self) -> None:
        if self._group is not None:
            self._group.end()
        self._finish()

    def _finish(self) -> None:
        self.detach()
        self._on_end()

    def abort(self) -> None:
        """Kill the process, if there is one, of a launch that has failed half-way."""
        if self._group is not None:
            self._group.signal_leader(signal.SIGKILL)
            self._group.reap()

    def close(self) -> None:
        """Stop watching, and close the pidfd."""
        self.detach()
        if self._group is not None:
            self._group.close()

    def forget(self) -> None:
        """Close the pidfd only: in a forked child, which is not the parent of the process."""
        self._loop = None
        if self._group is not None:
            self._group.forget()

    def _set_kill_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        delay = max(0.0, self._kill_at - time.monotonic())
        self._kill_timer = loop.call_later(delay, self.signal, signal.SIGKILL)
