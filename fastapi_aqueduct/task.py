"""Tasks: they carry inputs into a flow and results out of it."""

from __future__ import annotations

import itertools
import operator
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Protocol, SupportsIndex

from .exceptions import ConfigurationError, InvalidArgument, LengthMismatch, NotShareable, got
from .fields import SharedBytes as SharedBytes
from .fields import SharedField as SharedField
from .fields import forget_shared
from .params import no_parameter
from .reports import TaskMetrics
from .runtime import RUNTIME, drop_runtime, runtime_of, set_runtime, task_hosts
from .travel import check_class, check_field_names, check_shareable


class SharedMemory(Protocol):
    """The shared memory of a running flow, to which ``share_value`` moves values.

    Attributes:
        is_here: Returns whether the current thread may use it.
    """

    is_here: Callable[[], bool]

    def share(self, value: Any) -> Any:
        """Copy a value into shared memory and return the new value of the field."""

    def is_shared(self, value: Any) -> bool:
        """Return whether an array is in shared memory already, of any flow, and may be written there."""

    def reserve(self, size: int) -> memoryview:
        """Allocate a block of shared memory and return it for writing."""


class Readany(Protocol):
    """A stream that returns what has arrived, such as aiohttp's ``StreamReader``."""

    async def readany(self) -> bytes:
        """Return the next chunk, ``b""`` at the end."""


shared_memories: list[SharedMemory] = []
"""The arenas of the flows that run in this process, the newest last."""

DEFAULT_PRIORITY = 0
"""The priority of a task that has set none: it is served last."""

_ID_PREFIX = os.urandom(8).hex() + "-"
_ids = itertools.count(1)


class BaseTask:
    """Carries inputs to the handlers and results back. Subclass it and set any attributes.

    A dataclass shows best which fields are inputs and which are results:

        @dataclass
        class Scan(BaseTask):
            image: Upload
            lines: list[str] = field(default_factory=list, init=False)   # handlers set it

    Fields are ordinary attributes of any picklable type. Large arrays and bytes are sent in shared memory
    automatically and arrive read-only.

    Attributes:
        task_id: Unique id of the task, the same in every process.
        priority: From 0 (served last) to ``queue_priorities - 1`` of the flow.
        expiration_time: Deadline on the clock of ``time.monotonic``; None before the task is processed.
    """

    task_id: str
    priority: int = DEFAULT_PRIORITY
    expiration_time: float | None = None

    # The id is set here and not in __init__, so that dataclasses work, and subclasses that do not call
    # super().__init__().
    def __new__(cls, *args: Any, **kwargs: Any) -> BaseTask:
        task = object.__new__(cls)
        try:
            task.task_id = _ID_PREFIX + str(next(_ids))
        except AttributeError as exc:
            if type(exc).__name__ != "FrozenInstanceError":  # of dataclasses or attrs
                raise
            raise ConfigurationError(frozen_task(cls.__qualname__)) from None
        return task

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_class(cls, BaseTask)
        check_field_names(cls, BaseTask)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Return pydantic's schema of a dataclass; FastAPI asks for one where a task is an ordinary parameter.

        Args:
            source: The type that pydantic found.
            handler: Makes the schema that the type has without this method.

        Raises:
            ConfigurationError: The type has no schema.
        """
        try:
            return handler(source)
        except RuntimeError as exc:
            # Compared by name: a module that workers import must not import pydantic.
            if type(exc).__name__ != "PydanticSchemaGenerationError":
                raise
            raise ConfigurationError(no_parameter(cls.__qualname__)) from exc

    def __reduce_ex__(self, protocol: SupportsIndex) -> Any:
        """Reduce the task for pickle and copy, with fields that are in shared memory copied to ordinary ones."""
        self._copy_out()
        return super().__reduce_ex__(protocol)

    @property
    def metrics(self) -> TaskMetrics:
        """Times of the steps, once the task is finished."""
        # Made on access: most callers do not read it.
        steps, total_time = runtime_of(self).get("metrics", ((), 0.0))
        return TaskMetrics.of(steps, total_time)

    @property
    def is_cancelled(self) -> bool:
        """Whether the caller does not wait for the task any more, for checks within a long ``handle``.

        The caller was cancelled, its client has left, or the deadline has passed. A check costs a few microseconds in
        the thread that runs ``handle``; other threads of the worker see what that thread has seen last. Always False
        outside a worker.
        """
        return any(host.is_cancelled(self) for host in task_hosts)

    def set_timeout(self, timeout_sec: float) -> None:
        """Set the deadline.

        Args:
            timeout_sec: Seconds from now.
        """
        self.expiration_time = time.monotonic() + timeout_sec

    def is_expired(self) -> bool:
        """Return whether the deadline has passed, for checks within a long ``handle``."""
        return self.expiration_time is not None and time.monotonic() > self.expiration_time

    def set_priority(self, priority: int) -> None:
        """Set the priority.

        Args:
            priority: 0 is served last. A number above the highest level of the flow counts as that level.

        Raises:
            ConfigurationError: ``priority`` is no integer.
        """
        self.priority = checked_priority(priority)

    def fail(self, exc: Exception) -> None:
        """Fail this task and no other task of the batch.

        Args:
            exc: Exception that ``Flow.process`` raises. The task visits no further step.

        Raises:
            InvalidArgument: ``exc`` is no exception, but a text or a class.
        """
        if not isinstance(exc, BaseException):
            raise InvalidArgument(f"task.fail() takes an exception, such as ValueError(...), {got(exc)}")
        set_runtime(self, "failure", exc)

    def emit(self, item: Any) -> None:
        """Send an item to the caller who iterates over ``flow.stream(task)``; for other callers it does nothing.

        In ``handle`` of a batch. A generator, for ``batch_size=1``, yields its items.

        Args:
            item: A value of any picklable type; a large array or `bytes` travels in shared memory. An item that cannot
                be sent fails this task, and so does one after `finish`; nothing is raised here.

        Raises:
            UsageError: Another thread than that of ``handle`` calls it.
        """
        for host in task_hosts:
            host.emit(self, item)

    def progress(self, done: float, of: float) -> None:
        """Report how much of the work is done, as an item of type `Progress` of ``flow.stream(task)``.

        In any form of ``handle``, also in a loop: a report within 0.1 s of the one before is dropped, unless it is the
        last one (``done >= of``), and so is one while the consumer is behind. A report leaves at once, and it never
        makes the handler wait. It counts as an item, so the task is not tried again when its worker dies.

        Args:
            done: What is done, in any unit.
            of: All that is to be done, in the same unit.

        Raises:
            UsageError: Another thread than that of ``handle`` calls it.
        """
        for host in task_hosts:
            host.progress(self, done, of)

    def finish(self) -> None:
        """Answer this task before the others of its batch; in `BaseTaskHandler.rounds` it leaves after the round.

        Its fields are final. In rounds it must not be read any more in later rounds: its fields are removed, so that
        they do not keep shared memory for as long as the others need.
        """
        for host in task_hosts:
            host.finish(self)
        if not task_hosts:  # a test of a handler, without a worker
            set_runtime(self, "is_finished", True)

    def share_value(self, field_name: str) -> None:
        """Move a field into shared memory, where every process may write it in place.

        An array becomes a view of the memory that all steps and the caller share; `bytes` and `bytearray` are copied
        out on access. Fields of 16 KiB and more are moved automatically, read-only, without this call. Before a flow
        runs in this process, and in threads other than that of its event loop, the field is moved when the task is
        processed. While several flows run, an array may be moved once more then: read it from the task, not from a
        variable.

        Args:
            field_name: Name of an attribute that is a numpy array, `bytes` or `bytearray`. Subclasses are refused: what
                else such an object carries, such as the mask of a masked array, would be lost.

        Raises:
            NotShareable: The task has no such field, the field is shared already, or its type cannot be shared.
            ArenaFull: The shared memory of the flow is full.
        """
        if field_name not in self.__dict__:
            shared = field_name in runtime_of(self).get("deferred", ())
            raise NotShareable(
                f"{type(self).__name__}.{field_name} is shared already"
                if shared
                else f"{type(self).__name__} has no field {field_name!r} to share; its fields: {self._field_names()}"
            )
        where, value = f"{type(self).__name__}.{field_name}", self.__dict__[field_name]
        check_shareable(where, value)
        if self._is_shared(field_name, value):
            raise NotShareable(f"{where} is shared already")
        memory = _memory_here()
        if memory is None:
            self._note_share(field_name, value)
            return
        shared = memory.share(value)
        self._put_shared(field_name, shared)
        if len(shared_memories) > 1 and field_name in self.__dict__:
            # Which flow the task goes to is not known yet. Another one than the newest moves the array once more.
            self._note_share(field_name, shared)

    async def share_value_with_data(
        self, field_name: str, content: Readany | AsyncIterator[bytes], size: int | None
    ) -> None:
        """Stream content into shared memory and set it as a field of type `bytes`.

        Args:
            field_name: Name of the field.
            content: A stream with ``await readany()`` (aiohttp's ``request.content``) or an asynchronous iterator of
                bytes (Starlette's ``request.stream()``).
            size: Size of the content in bytes; None if it is not known.

        Raises:
            LengthMismatch: The content is shorter or longer than ``size``.
            NotShareable: A field of this name is shared already.
            ArenaFull: The shared memory of the flow is full.

        A cancellation leaves the field unset and releases the memory.
        """
        memory = _memory_here()
        if size is None or memory is None:
            value = b"".join([piece async for piece in _pieces(content)])
            _check_size(field_name, len(value), size)
            forget_shared(self, field_name)
            self.__dict__[field_name] = value
            self.share_value(field_name)
            return
        view = memory.reserve(size)
        position = 0
        async for piece in _pieces(content):
            if position + len(piece) > size:
                raise LengthMismatch(f"{field_name}: more than the {size} bytes that were announced arrived")
            view[position : position + len(piece)] = piece
            position += len(piece)
        _check_size(field_name, position, size)
        self._put_shared(field_name, SharedBytes(view.toreadonly(), bytes))

    def update(self, source_task: BaseTask, excluded_fields: Iterable[str] | None = None) -> None:
        """Replace the fields with those of another task.

        A flow gives the caller's own task its results so, if a subclass overrides this, in the process of the caller:

            def update(self, source_task, excluded_fields=None):
                super().update(source_task, {"image"})      # the caller keeps its own image
                self.answered_at = time.time()

        Args:
            source_task: A task of the same class; its ``task_id`` is not copied.
            excluded_fields: Names of fields that stay as they are.
        """
        kept = {"task_id", RUNTIME, *(excluded_fields or ())}
        own, own_shared = self.__dict__, runtime_of(self).get("deferred", {})
        shared = runtime_of(source_task).get("deferred", {})
        fields = {name: value for name, value in source_task.__dict__.items() if name not in kept}
        self.__dict__ = {**fields, **{name: own[name] for name in kept if name in own}}
        drop_runtime(self, "deferred")
        for name in shared.keys() | own_shared.keys():
            found = own_shared if name in kept else shared
            if name in found:
                self._defer_unread(name, found[name])
        for name, value in runtime_of(source_task).get("noted", {}).items():
            if name not in kept:
                self._note_share(name, value)

    def _note_share(self, field_name: str, value: Any) -> None:
        set_runtime(self, "noted", {**runtime_of(self).get("noted", {}), field_name: value})

    def _is_shared(self, field_name: str, value: Any) -> bool:
        state = runtime_of(self)
        if state.get("noted", {}).get(field_name) is value:
            return True
        deferred = state.get("deferred", {}).get(field_name)
        if deferred is not None:
            return bool(deferred.is_copy(value))
        return any(memory.is_shared(value) for memory in shared_memories[-1:])

    def _copy_out(self) -> None:
        """Make ordinary fields of those whose bytes are in shared memory."""
        for name, value in (drop_runtime(self, "deferred") or {}).items():
            if name not in self.__dict__:
                self.__dict__[name] = value.copy()

    def _put_shared(self, field_name: str, value: Any) -> None:
        if isinstance(value, SharedBytes):
            self._defer(field_name, value)
        else:
            self.__dict__[field_name] = value

    def _defer(self, field_name: str, value: SharedBytes) -> None:
        cls = type(self)
        if not isinstance(cls.__dict__.get(field_name), SharedField):
            shared_field = SharedField.of(cls, field_name)
            if shared_field is None:
                self.__dict__[field_name] = value.copy()
                return
            setattr(cls, field_name, shared_field)
        self.__dict__.pop(field_name, None)
        set_runtime(self, "deferred", {**runtime_of(self).get("deferred", {}), field_name: value})

    def _defer_unread(self, field_name: str, value: SharedBytes) -> None:
        """Defer a field, and keep the value that it has if it was read or replaced already."""
        missing = object()
        read = self.__dict__.get(field_name, missing)
        self._defer(field_name, value)
        if read is not missing:
            self.__dict__[field_name] = read

    def _field_names(self) -> str:
        names = {*self.__dict__, *runtime_of(self).get("deferred", ())} - {RUNTIME}
        return ", ".join(sorted(names))

    def __repr__(self) -> str:
        # Names only: a field may be many megabytes, or private data.
        return f"<{type(self).__name__} {self.task_id}: {self._field_names()}>"


class StopTask(BaseTask):
    """Exists for imports of users of the package ``aqueduct``: `Flow.stop` stops a flow, and no handler gets one."""


def check_streamable(task: BaseTask) -> None:
    """Refuse a task of which a field hides a method that streams need.

    Raises:
        InvalidArgument: The field.
    """
    for name in ("emit", "finish", "is_cancelled"):
        if name in task.__dict__ or getattr(type(task), name) is not getattr(BaseTask, name):
            raise InvalidArgument(
                f"{type(task).__qualname__} has an attribute `{name}`, which hides BaseTask.{name}, which streams "
                "need: rename it"
            )


def _memory_here() -> SharedMemory | None:
    return next((memory for memory in reversed(shared_memories) if memory.is_here()), None)


def checked_priority(priority: int) -> int:
    """Return a priority as an integer.

    Raises:
        ConfigurationError: It is no integer.
    """
    try:
        return operator.index(priority)
    except TypeError:
        raise ConfigurationError(f"the priority of a task must be an integer, {got(priority)}") from None


def frozen_task(name: str) -> str:
    """Return the message of the error for a frozen class of tasks.

    Args:
        name: Name of the class.
    """
    return f"{name} is frozen, but handlers set results as attributes of a task; declare it without frozen=True"


async def _pieces(content: Readany | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    # Checked first: aiohttp's StreamReader is an asynchronous iterator too, but of lines.
    if hasattr(content, "readany"):
        while piece := await content.readany():
            yield piece
    else:
        async for piece in content:
            yield piece


def _check_size(field_name: str, received: int, announced: int | None) -> None:
    if announced is not None and received != announced:
        raise LengthMismatch(f"{field_name}: {announced} bytes were announced, {received} arrived")
