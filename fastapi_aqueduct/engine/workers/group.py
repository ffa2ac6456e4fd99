"""The process group that a worker leads: the worker, and the processes that its handler has started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from typing import Protocol

from ..child.process_group import kill_members, signal_members
from .process import Process

GRACE = 0.5
"""Seconds from SIGTERM to SIGKILL for the processes that remain of a group without its leader."""


class Group(Protocol):
    """What a worker runs in, as its sentinel sees it: a process group, or in tests a thread.

    Attributes:
        pid: Id of the process that runs the worker.
        number: The number of the process group; 0 if there is none.
        pidfd: Becomes readable when the worker has ended; None before `open`, and where the system has no such
            descriptor.
    """

    pid: int
    number: int
    pidfd: int | None

    @property
    def status_fd(self) -> int | None:
        """As `Process.status_fd`."""

    def open(self) -> None:
        """Open `pidfd`.

        Raises:
            OSError: No descriptor is left.
        """

    def exit_code(self) -> int | None:
        """Return the exit status, negative for a signal; None until it has been read."""

    def signal_leader(self, signum: signal.Signals) -> None:
        """Send a signal to the worker, unless it has ended."""

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the worker and to what it has started."""

    def end(self) -> bool:
        """Terminate what is left of a worker that has ended, and read its exit status if that is known.

        Returns:
            Whether the exit status has been read.
        """

    def reap(self) -> None:
        """As `end`, but wait for the exit status; the worker is killed if it has not ended after a second."""

    def close(self) -> None:
        """Close the descriptors of a worker that has ended."""

    def forget(self) -> None:
        """Close the descriptors only: in a forked child, which does not own the worker."""


class ProcessGroup:
    """A worker process and its descendants, unless they have left its group (setsid(2)).

    Args:
        leader: The worker; its process id is the id of the group.

    Attributes:
        pid: The process id of the leader.
        number: The number of the group.
        pidfd: Becomes readable when the leader has ended; None before `open`, and where the system has no such
            descriptor.
    """

    def __init__(self, leader: Process) -> None:
        self._leader = leader
        self.pid = self.number = leader.pid
        self.pidfd: int | None = None

    def open(self) -> None:
        """Open a pidfd of the leader.

        Raises:
            OSError: No descriptor is left.
        """
        if hasattr(os, "pidfd_open"):
            self.pidfd = self._leader.open_pidfd()

    def exit_code(self) -> int | None:
        """Return the leader's exit status, negative for a signal; None until it has been read."""
        return self._leader.exit_code()

    def signal_leader(self, signum: signal.Signals) -> None:
        """Send a signal to the leader, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            if self.pidfd is not None:
                # The forkserver may have reaped the leader, and another process may have its number by now.
                signal.pidfd_send_signal(self.pidfd, signum)
            elif self._leader.exit_code() is None:
                os.kill(self.number, signum)

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to every process of the group."""
        if not self._is_reserved():
            signal_members(self.number, signum)
            return
        try:
            os.killpg(self.number, signum)
        except ProcessLookupError:
            # A fork of the forkserver that does not lead a group yet has started nothing.
            self.signal_leader(signum)
        except OSError:
            pass

    @property
    def status_fd(self) -> int | None:
        """As `Process.status_fd`."""
        return self._leader.status_fd

    def end(self) -> bool:
        """Terminate what is left of the group of a leader that has ended, and read its exit status if that is known.

        The group is signalled first: a number belongs to a leader that has ended until its status has been read.

        Returns:
            Whether the exit status has been read.
        """
        self.signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            return self._leader.wait(0.0) is not None
        return False

    def reap(self) -> None:
        """As `end`, but wait for the exit status of the leader; it is killed if it has not ended after a second."""
        if self.pidfd is not None:
            self.signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            self._leader.wait(1.0)
        if self._leader.exit_code() is None:
            self.signal_leader(signal.SIGKILL)
            self._leader.wait(1.0)
        if self.pidfd is None:
            signal_members(self.number, signal.SIGTERM)

    def close(self) -> None:
        """Close the pidfd, and what else is open of a leader that has ended."""
        if self.pidfd is not None:
            os.close(self.pidfd)
            self.pidfd = None
        self._leader.close()

    def forget(self) -> None:
        """Close the pidfd and forget the leader: in a forked child, which is not its parent."""
        self._leader.forget()
        self.close()

    def _is_reserved(self) -> bool:
        """Tell whether the number belongs to the leader: it runs, or its status has not been read."""
        if self.pidfd is None:
            return self._leader.exit_code() is None
        try:
            signal.pidfd_send_signal(self.pidfd, 0)
        except ProcessLookupError:
            return False
        return True


class Remains:
    """The process groups whose leaders are gone: their members got SIGTERM, and get SIGKILL after `GRACE`."""

    def __init__(self) -> None:
        self._timers: dict[int, asyncio.TimerHandle] = {}
        self._killed_at = 0.0

    def add(self, number: int) -> None:
        """Kill what is left of a group after `GRACE`; called in the event loop.

        Args:
            number: The number of the group; 0 if there is none.
        """
        if number and signal_members(number, 0):  # 0 stands for the group of this process
            self._killed_at = time.monotonic() + GRACE
            self._timers[number] = asyncio.get_running_loop().call_later(GRACE, self._kill, number)

    async def wait(self) -> None:
        """Wait until SIGKILL has been sent to all that are left."""
        if self._timers:
            await asyncio.sleep(self._killed_at - time.monotonic())
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to all that are left, without waiting."""
        for number, timer in list(self._timers.items()):
            timer.cancel()
            self._kill(number)

    def _kill(self, number: int) -> None:
        del self._timers[number]
        kill_members(number)
        with contextlib.suppress(RuntimeError):  # no event loop runs at the exit of the interpreter
            asyncio.get_running_loop().call_later(GRACE, signal_members, number, 0)  # reaps inherited ones
