"""Recorder: writes tasks that have failed to files."""

from __future__ import annotations

import inspect
import os
import traceback
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..engine.recorder import FailedTask
from ..engine.wire.packing import copy_of, pack
from ..exceptions import InvalidArgument, got
from ..logger import log
from ..task import BaseTask
from .backlog import Backlog
from .budget import Budget
from .directory import Directory, file_name
from .metadata import Entry, metadata_of
from .options import RecorderOptions
from .task_file import Parts, task_file_parts

_BACKLOG = 8
"""Tasks that may wait to be written. Each keeps its shared memory."""

_LONGEST_MESSAGE = 200


class Recorder:
    """Writes each task that has failed in a handler, or with which a worker has died, to a file for
    ``fastapi-aqueduct replay``: as it entered the step, with what happened.

        def redact(task: Scan) -> None:
            task.customer = ""

        aqueduct = Aqueduct(flow, recorder=Recorder("failures/", keep=50, redact=redact))

    A task that was cancelled, or that only timed out, is not recorded. The file is written by a thread. Fields that
    handlers change in shared memory (`share_value`) are recorded as they are when the task fails. The values of context
    variables are not recorded.

    Args:
        directory: Where the files are. It is made with mode 0700, the files with 0600; one that is open to other users
            is refused. Several processes may use it. Not in a place of which files are served.
        keep: The most files. The oldest of the step and exception that has the most files goes first.
        max_size: The most bytes of all files together; a larger task is not recorded.
        per_minute: The most tasks of one step and class of exception that this process records in a minute.
        redact: Changes a copy of the task before it is written, such as to remove private data. Large fields are
            read-only, so it replaces them. It runs in a thread of the API process. If it raises, or returns another
            task, nothing is written. The text of the exception and the traceback are written as they are.
        ignore: Classes of exceptions that are not recorded, such as those that an endpoint answers with 4xx.

    Attributes:
        directory: As an absolute path.
        options: The numbers, as the environment has set them at the start.

    Raises:
        ConfigurationError: A number cannot work, or an argument is of the wrong type.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        keep: int = RecorderOptions.keep,
        max_size: int = RecorderOptions.max_size,
        per_minute: int = RecorderOptions.per_minute,
        redact: Callable[[Any], object] | None = None,
        ignore: Collection[type[BaseException]] = (),
    ) -> None:
        if redact is not None and not callable(redact):
            raise InvalidArgument(f"redact of Recorder must be a function of the task, {got(redact)}")
        if inspect.iscoroutinefunction(redact):
            raise InvalidArgument(f"redact of Recorder runs in a thread, so it is declared with def, {got(redact)}")
        self._ignored = tuple(ignore)
        for kind in self._ignored:
            if not (isinstance(kind, type) and issubclass(kind, BaseException)):
                raise InvalidArgument(f"ignore of Recorder must be classes of exceptions, {got(kind)}")
        self.directory = Path(directory).absolute()
        self._declared = self.options = RecorderOptions(keep=keep, max_size=max_size, per_minute=per_minute)
        self._redact = redact
        self._budget = Budget()
        self._files = Directory(self.directory)
        self._backlog: Backlog[tuple[Entry, BaseTask]] = Backlog(self._write, _BACKLOG)

    def open(self) -> None:
        """Make the directory; a start of a flow does this. May block.

        Raises:
            ConfigurationError: A variable of the environment is wrong.
            RecordingError: The directory cannot be made, or is open to other users.
        """
        self.options = self._declared.read()
        self._files.make()
        numbers = self.options.keep, self.options.max_size, self.options.per_minute
        log.info("failed tasks are recorded in %s: keep=%d max_size=%d per_minute=%d", self.directory, *numbers)

    def record(self, task: FailedTask) -> str | None:
        """Record a task in the background, if it is one of few; the engine calls this in the event loop.

        Args:
            task: The task.

        Returns:
            The path that it will have; None if it is not recorded.
        """
        flow, failure, exception, decode, recording = task
        if isinstance(exception, self._ignored):
            return None
        if not self._budget.spend((flow, failure.step, failure.error), self.options.per_minute):
            recording.dropped["too_many"] += 1
            return None
        if self._backlog.is_full:
            recording.dropped["backlog"] += 1
            return None
        at = datetime.now(UTC)
        path = self.directory / file_name(flow, failure.step, failure.error, at)
        try:
            decoded = decode()
        except Exception as exc:
            why = f"it cannot be restored: {type(exc).__name__}: {exc}"
            self._fail(Entry(flow, failure, recording, None, path, at), "unwritable", why)
            return None
        # Without the exception, whose frames are those of the engine.
        entry = Entry(flow, failure, recording, getattr(decoded, "task_id", None), path, at)
        self._backlog.put((entry, decoded))
        return str(path)

    def wait(self, timeout: float) -> bool:
        """Block until all is written.

        Args:
            timeout: Seconds that it may take.

        Returns:
            Whether all was written in time.
        """
        return self._backlog.wait(timeout)

    def _write(self, item: tuple[Entry, BaseTask]) -> None:
        entry, task = item
        try:
            parts = self._parts(entry, task)
            self._files.add(entry.path.name, lambda file: file.writelines(parts))
        except _NotWritten as exc:
            self._fail(entry, exc.reason, exc.why)
            return
        except Exception as exc:
            # As text: log handlers keep records, and the frames of an exception the task.
            self._fail(entry, "unwritable", f"{type(exc).__name__}: {exc}")
            return
        entry.recording.recorded += 1
        self._log(entry)
        try:
            self._files.prune(self.options.keep, self.options.max_size)
        except Exception as exc:
            log.error("old files of failed tasks in %s cannot be removed: %s", self.directory, exc)

    def _parts(self, entry: Entry, task: BaseTask) -> Parts:
        packed = pack(task)
        self._check_size(len(packed.head) + sum(map(len, packed.buffers)))  # before it is copied
        if self._redact is not None:
            task = _redacted(copy_of(packed), self._redact)
            packed = pack(task)
        parts = task_file_parts(metadata_of(entry, task, is_redacted=self._redact is not None), packed)
        self._check_size(sum(map(len, parts)))
        return parts

    def _check_size(self, size: int) -> None:
        if size > self.options.max_size:
            raise _NotWritten("too_large", f"it has {size} bytes, and max_size is {self.options.max_size}")

    def _log(self, entry: Entry) -> None:
        failure = entry.failure
        message = failure.message.partition("\n")[0][:_LONGEST_MESSAGE]
        log.warning(
            "task %s of flow %s has failed in step %s (worker pid %d): %s: %s; it is recorded: %s",
            *(entry.task_id, entry.flow, failure.step, failure.pid, failure.error, message, entry.path),
            extra={
                **{"flow": entry.flow, "step": failure.step, "worker": failure.worker, "pid": failure.pid},
                **{"task_id": entry.task_id, "worker_version": failure.version, "task_file": str(entry.path)},
            },
        )

    def _fail(self, entry: Entry, reason: str, why: str) -> None:
        entry.recording.dropped[reason] += 1
        what = "redact has failed" if reason == "redact" else "it cannot be written"
        log.error(
            "task %s of flow %s, which has failed in step %s, is not recorded in %s: %s: %s",
            *(entry.task_id, entry.flow, entry.failure.step, entry.path, what, why),
        )


class _NotWritten(Exception):
    """A task must not be written.

    Args:
        reason: The reason under which it is counted.
        why: The same in words.
    """

    def __init__(self, reason: str, why: str) -> None:
        super().__init__(reason, why)
        self.reason = reason
        self.why = why


def _redacted(task: BaseTask, redact: Callable[[Any], object]) -> BaseTask:
    """Have a function change a task; return the task.

    Raises:
        _NotWritten: The function has raised, or has done something else than to change the task.
    """
    try:
        value = redact(task)
    except BaseException as exc:  # also SystemExit
        why = f"{type(exc).__name__}: {exc}\n{''.join(traceback.format_exception(exc))}"
        raise _NotWritten("redact", why.strip()) from None
    if inspect.isawaitable(value) or (isinstance(value, BaseTask) and value is not task):
        # Not the value: its text may have what was to be removed.
        why = f"it must change the task that it gets, and has returned a {type(value).__qualname__}"
        raise _NotWritten("redact", why)
    return task
