"""Calls of one function as tasks, and the handlers that make them in a worker; `function` has the decorator."""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence, Set
from typing import Any

from .exceptions import ConfigurationError
from .handler import BaseTaskHandler
from .runtime import runtime_of
from .task import BaseTask

_ARGUMENT, _KEYWORD = "argument ", "keyword "


class Call(BaseTask):
    """A call of a function: first its arguments, then its result.

    Each argument is a field of its own, with a name that no other field can have: the codec sends large arrays and
    `bytes` without pickle if they are fields.

    Args:
        args: Positional arguments.
        kwargs: Keyword arguments.
        collects: Whether the items of a generator are to be the result.

    Attributes:
        arity: Number of positional arguments.
        collects: As given.
        result: What the function has returned.
    """

    arity: int
    collects: bool
    result: Any

    def __init__(self, args: Sequence[Any], kwargs: Mapping[str, Any], collects: bool = True) -> None:
        fields = self.__dict__
        fields["arity"] = len(args)
        fields["collects"] = collects
        for position, value in enumerate(args, start=1):
            fields[_ARGUMENT + str(position)] = value
        for name, value in kwargs.items():
            fields[_KEYWORD + name] = value

    def take_arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments, and remove them from the task, so that they do not travel back."""
        positional = [_ARGUMENT + str(position) for position in range(1, self.arity + 1)]
        # Large bytes become fields when they are read.
        names = [*self.__dict__, *runtime_of(self).get("deferred", ())]
        keywords = [name for name in names if name.startswith(_KEYWORD)]
        args = [getattr(self, name) for name in positional]
        kwargs = {name.removeprefix(_KEYWORD): getattr(self, name) for name in keywords}
        for name in (*positional, *keywords):
            delattr(self, name)
        return args, kwargs


def find_function(function: Callable[..., Any]) -> Any:
    """Return what other processes find by the name of a function; None if they find nothing."""
    found: Any = sys.modules.get(function.__module__)
    for part in function.__qualname__.split("."):
        found = getattr(found, part, None)
    return found


class Callee:
    """A function that runs in workers, which import it by its name.

    Args:
        function: The function.
        load: Makes the first argument of the function, once in each worker; None: the function has no such argument.

    Attributes:
        function: As given.
        load: As given.
    """

    def __init__(self, function: Callable[..., Any], load: Callable[[], Any] | None) -> None:
        self.function = function
        self.load = load

    def __reduce__(self) -> Any:
        function = self.function
        found = find_function(function)
        if found is function:  # ``fast = in_worker(slow)``: its name still stands for the function
            return Callee, (function, self.load)
        if getattr(found, "callee", None) is self:  # @in_worker: its name stands for the decorator's object
            return _callee_of, (found,)
        raise ConfigurationError(
            f"{function.__module__}.{function.__qualname__} is neither the function nor what in_worker made of it, so "
            "workers would not find it by this name"
        )


def _callee_of(function: Any) -> Callee:
    callee: Callee = function.callee
    return callee


class CallHandler(BaseTaskHandler):
    """Calls a function, with what its ``load`` has returned as its first argument.

    Args:
        callee: The function.
    """

    def __init__(self, callee: Callee) -> None:
        self._callee = callee
        self._function = callee.function
        self._loaded: tuple[Any, ...] = ()

    def __reduce__(self) -> Any:
        return type(self), (self._callee,)

    def on_start(self) -> Awaitable[None] | None:
        """Call ``load``."""
        load = self._callee.load
        if load is None:
            return None
        loaded = load()
        if inspect.isawaitable(loaded):
            return self._keep(loaded)
        self._loaded = (loaded,)
        return None

    async def _keep(self, loading: Awaitable[Any]) -> None:
        self._loaded = (await loading,)


class PlainHandler(CallHandler):
    """Calls a function."""

    def handle(self, *calls: Call) -> None:
        """Call the function for each task."""
        for call in calls:
            args, kwargs = call.take_arguments()
            call.result = self._function(*self._loaded, *args, **kwargs)


class BatchHandler(CallHandler):
    """Calls a function with a list of arguments, for a list of results."""

    def handle(self, *calls: Call) -> None:
        """Call the function once for all tasks."""
        give_results(self._callee, calls, self._function(*self._loaded, _first_arguments(calls)))


class CoroutineHandler(CallHandler):
    """Calls a coroutine function."""

    async def handle(self, *calls: Call) -> None:
        """Call the function for each task."""
        for call in calls:
            args, kwargs = call.take_arguments()
            call.result = await self._function(*self._loaded, *args, **kwargs)


class CoroutineBatchHandler(CallHandler):
    """Calls a coroutine function with a list of arguments, for a list of results."""

    async def handle(self, *calls: Call) -> None:
        """Call the function once for all tasks."""
        give_results(self._callee, calls, await self._function(*self._loaded, _first_arguments(calls)))


class GeneratorHandler(CallHandler):
    """Calls a generator function, and yields its items or collects them."""

    def handle(self, call: Call) -> Iterator[Any]:
        """Iterate over the generator of one task."""
        args, kwargs = call.take_arguments()
        items: list[Any] = []
        for item in self._function(*self._loaded, *args, **kwargs):
            if call.collects:
                items.append(item)
                item = None  # an empty turn: other calls and cancellations get theirs
            yield item
        call.result = items


class AsyncGeneratorHandler(CallHandler):
    """Calls an asynchronous generator function, and yields its items or collects them."""

    async def handle(self, call: Call) -> AsyncIterator[Any]:
        """Iterate over the generator of one task."""
        args, kwargs = call.take_arguments()
        items: list[Any] = []
        async for item in self._function(*self._loaded, *args, **kwargs):
            if call.collects:
                items.append(item)
                item = None
            yield item
        call.result = items


def handler_for(callee: Callee, is_batched: bool) -> CallHandler:
    """Return the handler for a function, whose form decides how workers run it.

    Raises:
        ConfigurationError: The function yields, and is to have batches.
    """
    function = callee.function
    is_async = inspect.iscoroutinefunction(function)
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        if is_batched:
            raise ConfigurationError(
                f"{function.__qualname__} has a `yield`, so it cannot have a batch_size: of a batch it would not be "
                "known to which call a value belongs"
            )
        return (GeneratorHandler if inspect.isgeneratorfunction(function) else AsyncGeneratorHandler)(callee)
    if is_batched:
        return (CoroutineBatchHandler if is_async else BatchHandler)(callee)
    return (CoroutineHandler if is_async else PlainHandler)(callee)


def _first_arguments(calls: Sequence[Call]) -> list[Any]:
    return [call.take_arguments()[0][0] for call in calls]


def give_results(callee: Callee, calls: Sequence[Call], results: Any) -> None:
    """Give each call of a batch its result, or fail all if the function has not returned one for each.

    Args:
        callee: The function.
        calls: The calls.
        results: What it has returned.
    """
    if not hasattr(results, "__len__") or isinstance(results, str | bytes | Mapping | Set):
        wrong = f"a {type(results).__qualname__}"
    elif len(results) != len(calls):
        wrong = f"{len(results)} results"
    else:
        for call, result in zip(calls, results, strict=True):
            call.result = result
        return
    for call in calls:
        # Not raised: the calls of the batch would run again one by one, which would hide the error.
        call.fail(
            ConfigurationError(
                f"{callee.function.__qualname__} returned {wrong} for a batch of {len(calls)}; it must return a list "
                "with one result for each argument, in the same order"
            )
        )
