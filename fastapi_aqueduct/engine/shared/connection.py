"""What an API process has for one connection to a pipeline process."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import traceback
from collections.abc import Callable
from typing import Protocol

from ...exceptions import NotRunningError, StartError
from ...logger import log
from ...task import BaseTask, shared_memories
from ..marks import Marks
from ..memory.mapping import Mapping
from ..options import EngineOptions
from ..scheduling.caller import Caller
from ..tenants import Tenant
from ..wait import Wait
from ..wire.frames import Kind, ProtocolError, pack, unpack_pairs
from .board_reader import BoardReader
from .client_memory import ClientMemory
from .handshake import ClientEnd
from .link import Link
from .remote_logs import RemoteLogs
from .submissions import Submissions


class FrameHandler(Protocol):
    """Handles the frames of a pipeline process that are not about tasks."""

    def __call__(self, kind: Kind, payload: bytes) -> None:
        """Handle a frame.

        Raises:
            ProtocolError: It makes no sense.
        """


class BoardEntry:
    """The entry of a flow whose queues are in a pipeline process: it has tasks wait there.

    Args:
        name: Name of the flow.
        board: What the pipeline process says of its queues.
    """

    def __init__(self, name: str, board: BoardReader) -> None:
        self.is_stopping = False
        self._name = name
        self._board = board

    def check(self, priority: int, timeout: float, tenant: Tenant | None) -> None:
        """Refuse a task that would have to wait for a place, or would miss its deadline; see `Entry.check`."""
        self._check_life()
        self._board.check(priority, timeout, tenant)

    def has_place(self, step: int, priority: int, timeout: float, task: BaseTask | None, marks: Marks) -> bool:
        """Send the task, unless a step will have no worker in time; see `Entry.has_place`."""
        self._check_life()
        if task is not None:
            self._board.check_workers(timeout, task)
        return True

    def follows(self, step: int, key: bytes) -> bool:
        """Leave that to the pipeline process; see `Entry.follows`."""
        return False

    def wait(self, step: int, priority: int, deadline: float, marks: Marks) -> Wait[None]:
        """Send the task: it waits in the pipeline process."""
        yield from ()

    def _check_life(self) -> None:
        if self.is_stopping:
            raise NotRunningError(f"the pipeline process of flow {self._name} stops")


def _map(fd: int, size: int) -> Mapping:
    """Map the memory of a pipeline process.

    Former connections refer to themselves, and keep a terabyte of addresses each until garbage is collected.

    Raises:
        OSError: The system has no addresses for it.
    """
    with contextlib.suppress(OSError):
        return Mapping(fd, size)
    gc.collect()
    return Mapping(fd, size)


class Connection:
    """One connection to a pipeline process, with the tasks that go over it.

    Args:
        options: What the flow declares.
        end: The connection, after the greeting; it belongs to this object.
        on_frame: Handles the frames that are not about tasks.
        on_end: Called once with the reason when the connection has ended.
        logs: Tells the pipeline process which log records are wanted.

    Attributes:
        link: Sends and receives.
        memory: The shared memory.
        submissions: The tasks.
        caller: Submits tasks to it.
        board: What the pipeline process says of its queues.
        entry: Refuses tasks.
        pid: Process id of the pipeline process.

    Raises:
        StartError: The pipeline process has other steps.
        OSError, ProtocolError: The memory cannot be mapped.
    """

    def __init__(
        self,
        options: EngineOptions,
        end: ClientEnd,
        on_frame: FrameHandler,
        on_end: Callable[[str], None],
        logs: RemoteLogs,
    ) -> None:
        welcome = end.welcome
        steps = tuple(name for name, _ in options.steps)
        if welcome.steps != steps:
            end.close()
            raise StartError(
                f"the pipeline process (pid {welcome.pid}) of flow {options.name} has the steps {welcome.steps}, and "
                f"this one declares {steps}: restart the one with the older code"
            )
        self.pid = welcome.pid
        self.link = Link(end, self._receive, self._end)
        self._on_frame = on_frame
        self._logs = logs
        self._on_end = on_end
        try:
            mapping = _map(end.memory_fd, welcome.layout.size)
            limit = None if options.fair is None else options.fair.limit(options.queue_size)
            self.board = BoardReader(
                *(end.board_fd, options.name, options.steps, options.priorities, options.queue_size),
                *(options.refusals, self._wake, options.timing.silence, limit),
            )
        except BaseException:
            self.link.close()
            raise
        finally:
            os.close(end.memory_fd)
            os.close(end.board_fd)
        parts = mapping, welcome.layout, welcome.region, welcome.blocks, options.refusals
        self.memory = ClientMemory(*parts, lambda: self.submissions.schedule())
        self.memory.waiters.on_shortage = self._ask_for_memory
        self.submissions = Submissions(options, self.memory, steps, welcome.pid, self._send)
        self.entry = BoardEntry(options.name, self.board)
        self.caller = Caller(self.submissions, self.memory, self.entry, options.context)

    def open(self, is_here: Callable[[], bool]) -> None:
        """Let tasks of this process use the shared memory.

        Args:
            is_here: Returns whether the present thread may.
        """
        self.memory.arena.is_here = is_here
        shared_memories.append(self.memory.arena)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Work in an event loop."""
        self.submissions.attach(loop)
        self.link.attach(loop)

    def detach(self, error: Callable[[], Exception], handed: bool = True) -> None:
        """Leave the event loop; see `Submissions.detach`."""
        self.link.detach()
        self.submissions.detach(error, handed)

    def abandon(self, error: Callable[[], Exception]) -> None:
        """End tasks and arriving bodies with an error; it is made for each."""
        self.submissions.abandon(error)
        self.memory.arrivals.abandon(error)

    def close(self, error: Callable[[], Exception]) -> None:
        """End all with an error, and close the connection."""
        self._unshare()
        self.submissions.detach(error)
        self.memory.arrivals.abandon(error)
        self.link.close()
        self.board.close()

    def forget(self) -> None:
        """Close the descriptors in a forked child. The shared memory stays mapped: there may be views of it."""
        self._unshare()
        self.memory.arena.mapping.wake = None
        self.submissions.loop = None
        self.link.forget()
        self.board.close()

    def leave(self) -> None:
        """Tell the pipeline process that no task follows; it closes the connection, at its own end if this is last."""
        self.submissions.flush()
        self.link.send(pack(Kind.LEAVE))

    def post(self, kind: Kind, payload: bytes) -> None:
        """Send a frame."""
        self.link.send(pack(kind, payload))

    def _send(self, data: bytes) -> None:
        self._logs.tell_levels(self.post)  # before the tasks that may log at these levels
        self.link.send(data)

    def collect(self) -> None:
        """Return what nothing here needs any more."""
        self.submissions.flush()

    def _unshare(self) -> None:
        if self.memory.arena in shared_memories:
            shared_memories.remove(self.memory.arena)

    def _receive(self, frames: list[tuple[Kind, bytes]]) -> None:
        try:
            for kind, payload in frames:
                self._handle(kind, payload)
        except ProtocolError as exc:
            self.link.distrust(exc)
        except Exception as exc:  # as of a worker: bytes that look like a frame, or a defect that must not pass unseen
            log.error("a message from the pipeline process %d has failed: %s", self.pid, traceback.format_exc())
            self.link.distrust(exc)

    def _handle(self, kind: Kind, payload: bytes) -> None:
        if kind is Kind.ANSWERS:
            self.submissions.receive_answers(payload)
        elif kind is Kind.ITEMS:
            self.submissions.streams.receive(payload)
        elif kind is Kind.RECORD:
            self.submissions.failures.receive(payload)
        elif kind is Kind.RELEASE:
            self.memory.release(unpack_pairs(payload))
        elif kind is Kind.TRIM:
            self._trim()
        elif kind is Kind.STOPPING:
            self.entry.is_stopping = True
        else:
            self._on_frame(kind, payload)

    def _trim(self) -> None:
        self.memory.arena.collect_garbage()
        self.submissions.flush()
        self.memory.arena.trim()
        self.link.send(pack(Kind.TRIMMED))

    def _ask_for_memory(self) -> None:
        self.submissions.flush()
        self.memory.arena.collect_garbage()
        self.link.send(pack(Kind.FULL))

    def _wake(self, step: int) -> None:
        self.link.send(pack(Kind.WAKE, step.to_bytes(8, "little")))

    def _end(self, reason: str) -> None:
        self._on_end(reason)
