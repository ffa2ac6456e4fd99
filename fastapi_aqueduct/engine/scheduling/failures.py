"""Notices tasks that have failed, and hands them to the recorder of the flow."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol

from ...exceptions import Overloaded, WorkerDied
from ..recorder import FailedTask, Failure, RecordedTasks, Recording
from ..statistics import DeathCause
from ..wire.codec import Codec
from ..wire.failures import describe_error
from ..workers.handle import WorkerHandle
from .ticket import Ticket

_CRASHES = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGILL, signal.SIGFPE)


class FailureSink(Protocol):
    """Gets each task that has failed, while its content is still the one that entered the step."""

    @property
    def is_open(self) -> bool:
        """Whether any task is wanted."""

    def put(self, ticket: Ticket, failure: Failure, exception: BaseException) -> str | None:
        """Handle a task.

        Args:
            ticket: The task. Its blocks are held.
            failure: What has happened.
            exception: The exception that its caller gets, or would get.

        Returns:
            Where it will be recorded in this process; None if it will not, or in another process.
        """


class LocalSink:
    """Hands tasks to the recorder of this process.

    Args:
        flow: Name of the flow.
        recording: Has the recorder.
        codec: Decodes tasks.
    """

    def __init__(self, flow: str, recording: Recording, codec: Codec) -> None:
        self._flow = flow
        self._recording = recording
        self._codec = codec

    @property
    def is_open(self) -> bool:
        """Whether there is a recorder."""
        return self._recording.recorder is not None

    def put(self, ticket: Ticket, failure: Failure, exception: BaseException) -> str | None:
        """Hand a task to the recorder; see `FailureSink`."""
        decode = partial(self._codec.decode, ticket.content)
        return self._recording.record(FailedTask(self._flow, failure, exception, decode, self._recording))


class Failures:
    """Decides which tasks have failed in a way that is worth a record, each once in a step.

    Args:
        sink: Gets them.

    Attributes:
        sink: As given; another one where the recorder is in another process.
    """

    def __init__(self, sink: FailureSink) -> None:
        self.sink = sink
        self._recorded = RecordedTasks[tuple[int, int]]()

    def note_error(
        self, ticket: Ticket, worker: WorkerHandle, body: bytes, make_error: Callable[[], Exception]
    ) -> None:
        """Note a task that a worker has answered with an exception.

        Args:
            ticket: The task.
            worker: The worker.
            body: The exception as it was packed.
            make_error: Returns the same.
        """
        if not self.sink.is_open or _key(ticket) in self._recorded:
            return
        error = make_error()
        if not isinstance(error, Overloaded):  # a step that has no memory now is no failure of the task
            self._recorded.add(_key(ticket), self.sink.put(ticket, self._failure(ticket, worker, body), error))

    def _failure(self, ticket: Ticket, worker: WorkerHandle, body: bytes) -> Failure:
        text = describe_error(body)
        return Failure(
            *(worker.name, ticket.id, worker.version, worker.index, worker.pid),
            *(text.name, text.message, text.traceback),
        )

    def note_death(self, tickets: Iterable[Ticket], worker: WorkerHandle, error: WorkerDied, in_hand: int) -> None:
        """Note tasks of a worker that has died.

        Args:
            tickets: Those that have caused its death, or may have.
            worker: The worker.
            error: How it has died.
            in_hand: How many tasks it had in hand in the same call.
        """
        if not self.sink.is_open:
            return
        for ticket in tickets:
            if _key(ticket) in self._recorded or (ticket.is_settled and not _is_to_blame(worker, error)):
                continue
            failure = Failure(
                *(worker.name, ticket.id, worker.version, worker.index, worker.pid),
                *(f"{WorkerDied.__module__}.{WorkerDied.__qualname__}", str(error), worker.trace()),
                has_died=True,
                exit_code=error.exit_code,
                cause=worker.death_cause(),
                reason=error.reason,
                in_hand=in_hand,
            )
            self._recorded.add(_key(ticket), self.sink.put(ticket, failure, error))

    def pop(self, ticket: Ticket) -> str | None:
        """Return where a task is recorded that ends now because it has failed in its step; None if it is not."""
        return self._recorded.pop(_key(ticket))


def _key(ticket: Ticket) -> tuple[int, int]:
    return ticket.id, ticket.step


def _is_to_blame(worker: WorkerHandle, error: WorkerDied) -> bool:
    """Tell whether a worker has died of a task of which the caller has left, and not of the stop of the flow."""
    is_crash = error.exit_code is not None and -error.exit_code in _CRASHES
    return is_crash or worker.cause in (DeathCause.HANG, DeathCause.MEMORY)
