"""TaskRecorder: the interface of an object that records tasks that have failed."""

from __future__ import annotations

import contextlib
import traceback
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Generic, NamedTuple, Protocol, TypeVar

from ..exceptions import InvalidArgument, got
from ..logger import log
from ..task import BaseTask
from .statistics import RecordingStatistics

Key = TypeVar("Key", bound=Hashable)
AnyRecorder = TypeVar("AnyRecorder", bound="TaskRecorder")


class Failure(NamedTuple):
    """What has happened to a task in a step. All of it is plain: a pipeline process sends it to API processes.

    Attributes:
        step: Name of the step.
        number: The number of the task.
        version: The version of the handler.
        worker: The number of the worker in its step.
        pid: Process id of the worker.
        error: Name of the class of the exception, with its module.
        message: The text of the exception.
        traceback: The traceback in the worker; of a worker that has died, the stack that it has written.
        has_died: Whether the worker has died.
        exit_code: Its exit status then; negative: the number of a signal; None: not known.
        cause: Why it has died, as a `DeathCause`; empty if it has not.
        reason: The same in words, if it is known.
        in_hand: How many tasks it had in hand in the same call then: any of them may be the cause.
    """

    step: str
    number: int
    version: int
    worker: int
    pid: int
    error: str
    message: str
    traceback: str
    has_died: bool = False
    exit_code: int | None = None
    cause: str = ""
    reason: str = ""
    in_hand: int = 1


class FailedTask(NamedTuple):
    """A task that has failed.

    Attributes:
        flow: Name of the flow.
        failure: What has happened.
        exception: The exception that its caller gets, or would get.
        decode: Returns the task as it entered the step, with views on shared memory. Called at once or not at all.
        recording: Counts what becomes of it.
    """

    flow: str
    failure: Failure
    exception: BaseException
    decode: Callable[[], BaseTask]
    recording: Recording


class TaskRecorder(Protocol):
    """Records tasks that have failed: a `fastapi_aqueduct.Recorder`."""

    def open(self) -> None:
        """Prepare, before a flow starts. May block.

        Raises:
            AqueductError: It cannot record.
        """

    def record(self, task: FailedTask) -> str | None:
        """Record a task in the background.

        Returns:
            Where it will be; None if it is not recorded.
        """

    def wait(self, timeout: float) -> bool:
        """Block until all is recorded; tell whether that was within ``timeout`` seconds."""


def checked_recorder(recorder: AnyRecorder | None) -> AnyRecorder | None:
    """Return a recorder.

    Raises:
        InvalidArgument: It is none.
    """
    if recorder is not None and not callable(getattr(recorder, "record", None)):
        raise InvalidArgument(f'recorder must be a Recorder, such as Recorder("failures/"), {got(recorder)}')
    return recorder


class Recording:
    """What a flow has for the record of its failures. The recorder may come and go while the flow runs.

    Args:
        find_flow: Returns ``module:name`` of the flow; None if no module has it.

    Attributes:
        recorder: The recorder; None: nothing is recorded.
        recorded: Number of tasks that were recorded.
        dropped: Number of tasks that were not, by reason.
    """

    def __init__(self, find_flow: Callable[[], str | None] | None = None) -> None:
        self.recorder: TaskRecorder | None = None
        self._find_flow = find_flow
        self.recorded = 0
        self.dropped: Counter[str] = Counter()

    def record(self, task: FailedTask) -> str | None:
        """Have a task recorded; return where it will be, None if it is not recorded. Raises nothing."""
        try:
            return None if self.recorder is None else self.recorder.record(task)
        except Exception:  # such as no more threads: the task has its answer nevertheless
            log.error("a task of flow %s cannot be recorded: %s", task.flow, traceback.format_exc())
            return None

    def flow_name(self) -> str | None:
        """Return ``module:name`` of the flow; None if no module has it."""
        return None if self._find_flow is None else self._find_flow()

    def statistics(self) -> RecordingStatistics | None:
        """Return a snapshot; None where nothing was ever to be recorded."""
        if self.recorder is None and not self.recorded and not self.dropped:
            return None
        return RecordingStatistics(self.recorded, dict(self.dropped))


class RecordedTasks(Generic[Key]):
    """Where tasks are recorded of which the callers have no answer yet.

    A key is the number of a task, or that and a step: a worker may die with a task in one step, and the task be done
    there in the end, and fail in another one.
    """

    def __init__(self) -> None:
        self._paths: dict[Key, str | None] = {}

    def __contains__(self, key: Key) -> bool:
        """Tell whether a task was handed to the recorder."""
        return key in self._paths

    def add(self, key: Key, path: str | None) -> None:
        """Add a task.

        Args:
            key: Its key.
            path: Its file; None if it is not recorded.
        """
        if len(self._paths) >= _MOST_TASKS:  # some are answered without an error, as when they are tried again
            del self._paths[next(iter(self._paths))]
        self._paths[key] = path

    def pop(self, key: Key) -> str | None:
        """Remove a task, and return its file; None if it is not recorded.

        Args:
            key: Its key.
        """
        return self._paths.pop(key, None)


def add_note(error: BaseException, path: str | None) -> None:
    """Have the exception of a task say where it is recorded: the log of the server shows it with the traceback.

    Args:
        error: The exception.
        path: The file; None: it is not recorded.
    """
    if path is not None:
        with contextlib.suppress(TypeError):  # its `__notes__` is no list
            BaseException.add_note(error, f"The task is recorded: fastapi-aqueduct replay {path}")


_MOST_TASKS = 1000
