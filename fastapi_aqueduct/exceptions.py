"""Every error of the package, in one tree.

    AqueductError
    ├── ConfigurationError (ValueError)     a flow, step or task that cannot work as declared
    │   ├── MPStartMethodValueError         a start method that is refused
    │   ├── InvalidArgument (TypeError)     an argument is not of the kind that is needed
    │   └── MissingHandle (NotImplementedError)     a handler class that does not define `handle`
    ├── UsageError (RuntimeError)           a call at a time or in a place in which it cannot work
    ├── BodyError                           the body of a request cannot be used
    │   ├── BodyTooLarge                    it is longer than the endpoint takes
    │   ├── BodyTooSlow                     the client was idle, or slower than the least rate
    │   ├── UnsupportedBody                 it is of a type or coding that the endpoint does not take
    │   ├── BodyLengthMismatch              it is not as long as its Content-Length says
    │   └── MalformedBody                   it is not the form, or not compressed, as it claims to be
    ├── WorkerTraceback                     the cause of a handler's exception: where it happened in the worker
    └── FlowError                           something went wrong while a flow was used
        ├── NotRunningError                 used before start or after stop
        │   └── ForkedError                 used in a fork of the process that has started it
        ├── BlockingCallError (RuntimeError)    a blocking call in the thread of an event loop
        ├── StartError                      a worker did not become ready
        │   └── StartTimeout (TimeoutError)
        ├── UnknownStep (KeyError)          the flow has no step of this name
        ├── TaskTimeout (TimeoutError)      the task's deadline passed
        ├── NotShareable (ValueError)       a field cannot be moved into shared memory
        ├── LengthMismatch (ValueError)     content is not as long as was announced
        ├── TaskNotPicklable                the task cannot travel to or from a worker
        ├── HandlerError                    stands in for an exception that cannot travel itself
        ├── WorkerDied                      the worker that held the task is gone
        └── Overloaded                      refused now, worth trying later
            ├── QueueFull
            ├── ArenaFull
            │   └── TaskTooLarge        a task that can never fit
            ├── DeadlineUnreachable     the queue is too long for the task's deadline
            └── StepUnavailable         a step has no ready worker

The names that the package ``aqueduct`` had (``AqueductError``, ``FlowError``, ``NotRunningError``,
``MPStartMethodValueError``) keep their places. `BodyError` and what is below it are of HTTP, so they stand in
``asgi/errors.py``; ``from fastapi_aqueduct import BodyTooLarge`` works as for all others.
"""

from __future__ import annotations

import reprlib
import signal


class AqueductError(Exception):
    """Base of everything this package raises on purpose."""


class ConfigurationError(AqueductError, ValueError):
    """A flow, a step or a task class cannot work as it is declared."""


class MPStartMethodValueError(ConfigurationError):
    """The start method is not one that is safe inside a running server."""


class InvalidArgument(ConfigurationError, TypeError):
    """An argument, or a function that is decorated, is not of the kind that is needed."""


class MissingHandle(ConfigurationError, NotImplementedError):
    """The method `handle` of a handler class that does not define it was called."""


class UsageError(AqueductError, RuntimeError):
    """Something was called at a time or in a place in which it cannot work; the message says what to do instead.

    A request that ends so is answered as any fault of the application, with 500.
    """


class WorkerTraceback(AqueductError):
    """Carries the text of a worker's traceback: the last ``__cause__`` in the chain of the exception from there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'


class FlowError(AqueductError):
    """Something went wrong while a flow was started, used or stopped."""


class NotRunningError(FlowError):
    """The flow is not running: not started yet, stopping, or stopped."""


class ForkedError(NotRunningError):
    """The flow was started in a process that this one is a fork of; its workers answer that process only."""


class BlockingCallError(FlowError, RuntimeError):
    """A call that blocks its thread was made in the thread of an event loop, which would stand still."""


class StartError(FlowError):
    """A worker did not become ready.

    Attributes:
        step: Name of the step.
        pid: Process id of the worker, None when it was never started.
        exit_code: Its exit status if it ended (negative: the signal), else None.
    """

    def __init__(self, message: str, *, step: str = "", pid: int | None = None, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.step = step
        self.pid = pid
        self.exit_code = exit_code


class StartTimeout(StartError, TimeoutError):
    """The workers were not ready in time."""


class UnknownStep(FlowError, KeyError):
    """The flow has no step of this name; the message lists those that it has."""

    __str__ = Exception.__str__  # that of KeyError is for keys


class TaskTimeout(FlowError, TimeoutError):
    """The deadline of a task passed before its answer came; the message says where the task was."""


class NotShareable(FlowError, ValueError):
    """A field cannot be moved into shared memory; the message names the field and its type."""


class LengthMismatch(FlowError, ValueError):
    """The content of a field was shorter or longer than was announced."""


class TaskNotPicklable(FlowError):
    """A field of the task cannot travel between processes; the message names the field and its type."""


class HandlerError(FlowError):
    """Stands in for a handler's exception that could not be pickled or rebuilt, or takes more than 1 MiB.

    Attributes:
        type_name: Qualified name of the original exception's class.
        message: ``str()`` of the original; its middle is left out where it is longer than 10,000 characters.
    """

    def __init__(self, message: str, *, type_name: str = "", original: str = "") -> None:
        super().__init__(message)
        self.type_name = type_name
        self.message = original


class WorkerDied(FlowError):
    """The worker that held the task ended before it answered.

    Attributes:
        step: Name of the step.
        pid: Process id of the dead worker.
        exit_code: Its exit status; negative values are signal numbers; None when it is not known.
        reason: Why it died, where that is known: it hung, or the kernel was out of memory.
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
    """The flow cannot take the task now; trying again later may succeed.

    Attributes:
        retry_after: Seconds after which a new try makes sense.
    """

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(Overloaded):
    """The queue of the first step is full."""


class ArenaFull(Overloaded):
    """The shared memory of the flow is full.

    Attributes:
        size: Bytes that were asked for.
    """

    def __init__(self, message: str, *, size: int = 0, retry_after: float = 1.0) -> None:
        super().__init__(message, retry_after=retry_after)
        self.size = size


class TaskTooLarge(ArenaFull):
    """A large field of the task, or all its small ones together, is more than all shared memory of the flow.

    Unlike any other `Overloaded` it stays so: only a larger ``memory_limit`` helps.
    """


class DeadlineUnreachable(Overloaded):
    """At the measured rate the answer could not come before the deadline."""


class StepUnavailable(Overloaded):
    """A step has no ready worker; ``retry_after`` is the time until one is expected."""


def got(value: object) -> str:
    """Say in an error's message what came in place of something else."""
    if isinstance(value, type):
        return f"got the class {value.__qualname__}"
    return f"got {reprlib.repr(value)} of type {type(value).__qualname__}"


def describe_exit(exit_code: int | None) -> str:
    """Say in words how a process ended.

    Args:
        exit_code: As in ``subprocess.Popen.returncode``: negative for a signal, None when unknown.
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
