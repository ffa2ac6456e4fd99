"""Functions whose calls run in worker processes; `function` makes them."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, ParamSpec, Self, TypeVar, cast

from .call import Call, Callee
from .engine.options import DEFAULT_CALL_TIMEOUT
from .exceptions import InvalidArgument, TaskNotPicklable, UsageError, got
from .flow import Flow, FlowState, FlowStream

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class CallOptions:
    """How a function in workers is called.

    Attributes:
        timeout_sec: Seconds in which the result must come; of a stream, the first item. None: those of the function.
        item_timeout: Seconds in which each further item of a stream, and its end, must come; None: ``timeout_sec``.
        priority: Priority of the calls.
    """

    timeout_sec: float | None = None
    item_timeout: float | None = None
    priority: int = 0


class InWorkers:
    """What makes calls in the workers of a flow of its own: a function of `in_worker`, or a `ModelPool`.

    Args:
        flow: The flow of one step that makes the calls.
        options: How it is called.

    Attributes:
        flow: As given; for its state, statistics, steps, start and stop.
        options: As given.
    """

    def __init__(self, flow: Flow, options: CallOptions) -> None:
        self.flow = flow
        self.options = options

    @property
    def timeout_sec(self) -> float:
        """Seconds in which a result must come; of a stream, the first item. The environment may set those of all."""
        given = self.options.timeout_sec
        if given is None:
            given = self.flow._configuration.options.timeout_sec
        return DEFAULT_CALL_TIMEOUT if given is None else given

    def __copy__(self) -> Self:
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        return other


class WorkerFunction(InWorkers, Generic[P, R, F]):
    """A function whose calls run in worker processes; `in_worker` makes it.

    ``await stars(text)`` calls the function in a worker. The workers start with the application
    (``Aqueduct(stars)``), or with ``async with stars.flow``.

    Args:
        callee: The function, as workers find it.
        flow: The flow of one step that makes the calls.
        options: How the function is called.
        is_batched: Whether a call has one argument, which is one of a batch.

    Attributes:
        callee: As given.
        local: The function itself, which runs where it is called: for tests, and for calls in other workers.
    """

    __signature__: inspect.Signature

    def __init__(self, callee: Callee, flow: Flow, options: CallOptions, is_batched: bool) -> None:
        function = callee.function
        self.__module__ = function.__module__
        self.__qualname__ = function.__qualname__
        self.__name__ = function.__name__
        self.__doc__ = function.__doc__
        super().__init__(flow, options)
        self.callee = callee
        self.local = cast(F, function)
        self._is_batched = is_batched

    async def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in a worker.

        Args:
            *args: Arguments of the function, without the one that ``load`` makes; of a function with a batch size the
                one argument that becomes an element of the list.
            **kwargs: Keyword arguments of the function.

        Returns:
            The result of the function; of a generator function, the list of its items.

        Raises:
            UsageError: The workers were not started.
            TaskNotPicklable: An argument or the result cannot be sent to another process.
            Exception: As for `Flow.process`; and what the function has raised, with the worker's traceback as its
                cause.

        A cancellation withdraws the call: it does not run unless a worker has begun it.
        """
        call = self._call(args, kwargs)
        try:
            await self.flow.process(call, self.timeout_sec)
        except TaskNotPicklable as exc:
            raise self._not_picklable(exc) from exc
        return cast(R, call.result)

    def blocking(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call the function in a worker, from a thread in which no event loop runs; see `Flow.process_blocking`.

        Args:
            *args: As for a call.
            **kwargs: As for a call.

        Returns:
            As a call.

        Raises:
            BlockingCallError: An event loop runs in this thread.
            Exception: As for a call.
        """
        call = self._call(args, kwargs)
        try:
            self.flow.process_blocking(call, self.timeout_sec)
        except TaskNotPicklable as exc:
            raise self._not_picklable(exc) from exc
        return cast(R, call.result)

    def with_options(self, *, timeout_sec: float | None = None, priority: int | None = None) -> Self:
        """Return this function with other options: ``await stars.with_options(timeout_sec=30)(text)``.

        Args:
            timeout_sec: Seconds in which the result must come; default: as before.
            priority: Priority of the calls, from 0 to ``queue_priorities - 1``; default: as before.
        """
        return self._with(timeout_sec=timeout_sec, priority=priority)

    def _with(self, **changes: Any) -> Self:
        other = copy.copy(self)
        other.options = replace(self.options, **{name: value for name, value in changes.items() if value is not None})
        return other

    def _call(self, args: Sequence[Any], kwargs: Mapping[str, Any], collects: bool = True) -> Call:
        if self._is_batched and (len(args) != 1 or kwargs):
            raise InvalidArgument(
                f"{self.__qualname__}() takes one argument, which becomes an element of the list that the function "
                f"gets, {got((*args, *kwargs))}"
            )
        if self.flow.state is FlowState.STOPPED:
            name = self.__qualname__
            raise UsageError(
                f"{name}() was called, and its workers are not started: give the function to the application, "
                f"FastAPI(lifespan=Aqueduct({name}).lifespan), or use `async with {name}.flow`; to call the function "
                f"in this process, use {name}.local(...)"
            )
        call = Call(args, kwargs, collects)
        if self.options.priority:
            call.set_priority(self.options.priority)
        return call

    def _not_picklable(self, exc: TaskNotPicklable) -> TaskNotPicklable:
        return TaskNotPicklable(f"{self.__qualname__}(): {exc}")

    def __reduce__(self) -> str:
        return self.__qualname__  # by reference, as a function is pickled

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.__module__}.{self.__qualname__}>"


class StreamingFunction(WorkerFunction[P, list[R], F], Generic[P, R, F]):
    """A generator function whose calls run in worker processes; `in_worker` makes it.

    ``async for token in generate.stream(text)`` iterates over the items while they are made, and
    ``await generate(text)`` returns the list of all.
    """

    def stream(self, *args: P.args, **kwargs: P.kwargs) -> FlowStream[R]:
        """Call the function in a worker, and iterate over its items; see `Flow.stream`.

        Args:
            *args: As for a call.
            **kwargs: As for a call.

        Returns:
            An asynchronous iterator, which is also a context manager (``async with``) that ends the stream.

        Raises:
            Exception: As for `Flow.stream`.
        """
        call = self._call(args, kwargs, collects=False)
        return self.flow.stream(call, self.timeout_sec, self.options.item_timeout)

    def with_options(
        self, *, timeout_sec: float | None = None, priority: int | None = None, item_timeout: float | None = None
    ) -> Self:
        """Return this function with other options.

        Args:
            timeout_sec: Seconds in which the result must come, or the first item of a stream; default: as before.
            priority: As for `WorkerFunction.with_options`.
            item_timeout: Seconds in which each further item of a stream, and its end, must come; default: as before.
        """
        return self._with(timeout_sec=timeout_sec, priority=priority, item_timeout=item_timeout)


def flow_of(what: Flow | InWorkers) -> Flow:
    """Return the flow behind a function in workers or a pool; a flow stands for itself."""
    return what.flow if isinstance(what, InWorkers) else what
