"""The errors of the package, in one tree.

    AqueductError
    ├── ConfigurationError (ValueError)     a flow, step or task cannot work as declared
    │   ├── UnknownModel (KeyError)         the pool has no model of this name
    │   ├── MPStartMethodValueError         the start method is refused
    │   ├── InvalidArgument (TypeError)     an argument is of the wrong type
    │   └── MissingHandle (NotImplementedError)     a handler class does not define `handle`
    ├── UsageError (RuntimeError)           a call at a time or in a place where it cannot work
    │   └── StepChanging                    another change of the step is under way
    ├── BodyError                           the body of a request cannot be used
    │   ├── BodyTooLarge                    it is larger than the endpoint accepts
    │   ├── BodyTooSlow                     the client was idle, or slower than the minimum rate
    │   ├── UnsupportedBody                 the endpoint does not accept its type or coding
    │   ├── BodyLengthMismatch              it is shorter or longer than its Content-Length
    │   └── MalformedBody                   it does not match its Content-Type or Content-Encoding
    ├── JobError                            a job, or the store of jobs, cannot do what is asked
    │   ├── JobNotFound (KeyError)          there is no job with this id
    │   ├── JobNotFinished                  the job is in the queue or running
    │   ├── JobFailed                       the job has failed
    │   ├── JobCancelled                    the job was cancelled
    │   ├── IdempotencyConflict             another request has used the Idempotency-Key
    │   └── StoreError                      the store of jobs cannot be used
    │       ├── StoreFull                   its disk is full
    │       └── StoreInUse                  another process has it
    ├── RecordingError                      a recorded task, or the directory of a recorder, cannot be used
    ├── WorkerTraceback                     the cause of a handler's exception: where it happened in the worker
    ├── BadReferenceCount (ValueError)      of the package aqueduct; never raised
    └── FlowError                           the start, the use or the stop of a flow failed
        ├── NotRunningError                 used before start or after stop
        │   └── ForkedError                 used in a fork of the process that has started it
        ├── BlockingCallError (RuntimeError)    a blocking call in the thread of an event loop
        ├── StartError                      a worker did not become ready
        │   └── StartTimeout (TimeoutError)
        ├── UnknownStep (KeyError)          the flow has no step of this name
        ├── TaskTimeout (TimeoutError)      the task's deadline passed
        ├── HandlerTimeout (TimeoutError)   a coroutine took longer than handle_timeout
        ├── NotShareable (ValueError)       a field cannot be moved into shared memory
        ├── LengthMismatch (ValueError)     content is not as long as was announced
        ├── TaskNotPicklable                the task cannot be sent to or from a worker
        ├── FieldConflict                   two branches of a group have set the same field
        ├── HandlerError                    stands in for an exception that cannot be sent itself
        ├── WorkerDied                      the worker that held the task died
        └── Overloaded                      refused now; a later try may succeed
            ├── QueueFull
            ├── TenantOverShare         the tenant has its share of the queue
            ├── ArenaFull
            │   └── TaskTooLarge        the task can never fit
            ├── DeadlineUnreachable     the queue, or a start, is too long for the task's deadline
            ├── TooManyJobs             too many jobs are pending
            ├── SlowConsumer            a stream has ended because too many of its items wait for the consumer
            └── StepUnavailable         a step has no ready worker

The names of the package ``aqueduct`` (``AqueductError``, ``FlowError``, ``NotRunningError``,
``MPStartMethodValueError``, ``BadReferenceCount``) keep their places. `BodyError` and its subclasses belong to HTTP, so
they are defined in ``asgi/errors.py``; ``from fastapi_aqueduct import BodyTooLarge`` works for all errors.
"""

from __future__ import annotations

import re
import reprlib
import signal


class AqueductError(Exception):
    """Base class of the errors of this package: catch it to handle all of them."""


class ConfigurationError(AqueductError, ValueError):
    """A flow, a step or a task class cannot work as it is declared.

    Change the declaration; the message names the flow or step, the argument and what it must be.
    """


class MPStartMethodValueError(ConfigurationError):
    """The start method is not safe in a running server: use ``"spawn"`` or ``"forkserver"``."""


class UnknownModel(ConfigurationError, KeyError):
    """The pool has no model of this name; the message lists its models."""

    __str__ = Exception.__str__  # KeyError's own one is for keys


class InvalidArgument(ConfigurationError, TypeError):
    """An argument, or a decorated function, is of the wrong type."""


class MissingHandle(ConfigurationError, NotImplementedError):
    """`handle` was called on a handler class that does not define it: define it in the class."""


class UsageError(AqueductError, RuntimeError):
    """A call was made at a time or in a place where it cannot work; the message says what to do instead.

    In a request it is an error of the application, so the response is 500.
    """


class StepChanging(UsageError):
    """Another change of the step is under way, such as a replacement of its workers: wait until that has ended."""


class JobError(AqueductError):
    """A job, or the store of jobs, cannot do what is asked. Its subclasses say why, and what to do."""


class JobNotFound(JobError, KeyError):
    """There is no job with this id: it has expired, was removed, or belongs to another owner."""

    __str__ = Exception.__str__  # KeyError's own one is for keys


class JobNotFinished(JobError):
    """The job has no result yet: wait for it with ``await job``."""


class JobFailed(JobError):
    """The job has failed; the message has the reason. Submit its task again if that is gone."""


class JobCancelled(JobError):
    """The job was cancelled, and has no result."""


class IdempotencyConflict(JobError):
    """Another request has used the Idempotency-Key already: use a new key for a new request."""


class StoreError(JobError):
    """The store of jobs cannot be used; the message names the file and what is wrong with it."""


class StoreFull(StoreError):
    """The disk of the store of jobs is full, and nothing was stored: make room; accepted jobs are not lost."""


class StoreInUse(StoreError):
    """Another process runs the jobs of this store: give each server its own, or have processes share a pipeline."""


class RecordingError(AqueductError):
    """A recorded task, or the directory of a recorder, cannot be used; the message says why, and what to do."""


class WorkerTraceback(AqueductError):
    """The text of a worker's traceback: the last ``__cause__`` in the chain of an exception of a handler."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class BadReferenceCount(AqueductError, ValueError):
    """Never raised, as in the package ``aqueduct``: it exists so that ``except`` clauses of its users do."""


class FlowError(AqueductError):
    """The start, the use or the stop of a flow failed. Its subclasses say which, and what to do."""


class NotRunningError(FlowError):
    """The flow is not running: not started yet, stopping, or stopped.

    If the flow should run, start it: with the lifespan of `fastapi_aqueduct.Aqueduct`, ``async with flow`` or
    ``flow.start()``. During a shutdown the error is expected, and the response is 503.
    """


class ForkedError(NotRunningError):
    """This process is a fork of the one that started the flow, and the workers answer only that one.

    Start the flow after the fork, such as in the lifespan.
    """


class BlockingCallError(FlowError, RuntimeError):
    """A blocking call was made in the thread of an event loop, which it would block.

    Use ``await flow.process(task)``, or make the call in another thread.
    """


class StartError(FlowError):
    """A worker did not become ready.

    The cause is the exception of the handler's ``on_start``, if there is one.

    Attributes:
        step: Name of the step.
        pid: Process id of the worker; None if it was never started.
        exit_code: Its exit status if it ended (negative: the number of a signal), else None.
    """

    def __init__(self, message: str, *, step: str = "", pid: int | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.pid = pid
        self.exit_code = exit_code


class StartTimeout(StartError, TimeoutError):
    """The workers were not ready in time.

    Raise ``Flow(start_timeout=...)`` if models take longer to load; the message names the steps that were not ready.
    """


class UnknownStep(FlowError, KeyError):
    """The flow has no step of this name; the message lists its steps."""

    __str__ = Exception.__str__  # KeyError's own one is for keys


class TaskTimeout(FlowError, TimeoutError):
    """The deadline of a task passed before its answer; the message says where the task was.

    In a queue: add workers or batch. In the handler: raise ``timeout_sec``, or set ``handle_timeout`` if it hangs.
    """


class HandlerTimeout(FlowError, TimeoutError):
    """A coroutine was cancelled because it took longer than ``handle_timeout``; the message names the step.

    Its cause shows where it was. A worker whose handler is no coroutine is killed then: the error is `WorkerDied`.
    """


class NotShareable(FlowError, ValueError):
    """A field cannot be moved into shared memory; the message names the field and its type.

    Share arrays and buffers; other fields travel without it.
    """


class LengthMismatch(FlowError, ValueError):
    """The content of a field is shorter or longer than announced: announce the size that is written."""


class TaskNotPicklable(FlowError):
    """A field of the task cannot be sent to another process; the message names the field and its type.

    Put what can be pickled into fields. Create models, locks, files and connections in ``on_start`` of the handler.
    """


class FieldConflict(FlowError):
    """Two branches of a group have set or deleted the same field of a task; the message names all three.

    Branches run side by side, so none of them can win: have one of them set it, or a step behind the group. What a
    handler changes in place, such as a list, counts as set.

    Attributes:
        field: Name of the field.
        branches: The two branches, each as the names of its steps.
    """

    def __init__(self, message: str, *, field: str = "", branches: tuple[str, str] = ("", "")) -> None:
        super().__init__(message)
        self.field = field
        self.branches = branches


class HandlerError(FlowError):
    """Stands in for an exception of a handler that cannot be pickled or rebuilt, or is larger than 1 MiB.

    Attributes:
        type_name: Qualified name of the class of the original exception.
        message: ``str()`` of the original exception; the middle of more than 10,000 characters is left out.
    """

    def __init__(self, message: str, *, type_name: str = "", original: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.message = original


class WorkerDied(FlowError):
    """The worker that held the task died before it answered.

    A task is tried ``FlowStep(max_retries=...)`` times again before. The log of the server has the stack of a worker
    that hung or crashed; after an out-of-memory kill, use fewer workers, smaller batches or more memory.

    Attributes:
        step: Name of the step.
        pid: Process id of the dead worker.
        exit_code: Its exit status; negative: the number of a signal; None: not known.
        reason: Why it died, if that is known: it hung, or the system was out of memory.
    """

    def __init__(self, step: str, pid: int, exit_code: int | None, reason: str = "") -> None:
        why = f" ({reason})" if reason else ""
        super().__init__(f"a worker of step {step} (pid {pid}) {describe_exit(exit_code)}{why} while it held the task")
        self.reason = reason
        self.step = step
        self.pid = pid
        self.exit_code = exit_code

    def __reduce__(self) -> tuple[type[WorkerDied], tuple[str, int, int | None, str]]:
        return WorkerDied, (self.step, self.pid, self.exit_code, self.reason)


class Overloaded(FlowError):
    """The flow cannot accept the task now; a later try may succeed.

    Attributes:
        retry_after: Seconds to wait before the next try.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """The queue of the first step is full: try later, add workers, or raise ``Flow(queue_size=...)``."""


class TenantOverShare(Overloaded):
    """The tenant has as many tasks in the queue as it may: try later, or raise ``FairShare(queue_share=...)``.

    Tasks of other tenants are accepted, so the response is 429 and not 503. The message does not name the tenant, which
    may be a secret.
    """


class ArenaFull(Overloaded):
    """The shared memory of the flow is full: try later, release results sooner, or raise ``Flow(memory_limit=...)``.

    Attributes:
        size: Bytes that were requested.
    """

    def __init__(self, message: str, *, size: int = 0, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.size = size


class TaskTooLarge(ArenaFull):
    """A large field of the task, or all its small fields together, exceed the shared memory of the flow.

    Unlike with any other `Overloaded`, a later try cannot succeed: only a larger ``memory_limit`` helps.
    """


class DeadlineUnreachable(Overloaded):
    """The answer would come too late: try later, add workers or raise ``timeout_sec``.

    At the measured rate the queue takes longer, or a step was asleep and takes longer to start; that step wakes all the
    same, and ``retry_after`` is the time that it needs.
    """


class SlowConsumer(Overloaded):
    """A stream was ended: too many of its items wait for the consumer, and its handler could not be paused.

    Yield the items from a generator, which pauses, or emit fewer of them.
    """


class TooManyJobs(Overloaded):
    """Too many jobs are in the queue or running: try later, add workers, or raise ``Jobs(max_pending=...)``."""


class StepUnavailable(Overloaded):
    """A step has no ready worker; ``retry_after`` is the time until one is expected.

    The log of the server says why its workers died or could not start.
    """


def reason_of(error: Exception) -> str:
    """Return the reason of a refusal as one word for logs and metrics: ``"queue_full"`` for `QueueFull`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__.removesuffix("Error")).lower()


def got(value: object) -> str:
    """Describe an unexpected value for the message of an error."""
    if isinstance(value, type):
        return f"got the class {value.__qualname__}"
    return f"got {reprlib.repr(value)} of type {type(value).__qualname__}"


def describe_exit(exit_code: int | None) -> str:
    """Describe how a process ended, for the message of an error.

    Args:
        exit_code: As in ``subprocess.Popen.returncode``: negative for a signal, None if it is not known.
    """
    if exit_code is None:
        return "ended for an unknown reason"
    if exit_code >= 0:
        return f"exited with code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    return f"was killed by {name}"
