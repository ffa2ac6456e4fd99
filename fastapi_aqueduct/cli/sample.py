"""The tasks that a user's function makes, for commands that run a flow."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from types import GeneratorType
from typing import Any

from ..call import BatchHandler, Call, CallHandler, CoroutineBatchHandler
from ..exceptions import AqueductError, ConfigurationError, InvalidArgument, got
from ..flow import Flow
from ..handler import BaseTaskHandler
from ..model_call import ModelCall, ModelHandler
from ..task import BaseTask, check_streamable
from .target import find_object

_NOTHING = object()


class SampleFailed(AqueductError):
    """The user's code has raised with a sample, or when it made one. The cause is what it has raised."""


class Sample:
    """Makes tasks: each of them new, since a flow sets the results in them.

    Args:
        name: How messages call the function.
        make: The function. It returns a task, or an iterable of tasks, and is called again when that has ended.
        handler: The handler of the first step of the flow, which may be that of a function in workers or of a pool. For
            these the function returns what a call gets; several calls are an iterator.
    """

    def __init__(self, name: str, make: Callable[[], Any], handler: BaseTaskHandler) -> None:
        self.name = name
        self._make = make
        self._handler = handler
        self._tasks: Iterator[Any] = iter(())

    def next_task(self) -> BaseTask:
        """Return the next task.

        Raises:
            ConfigurationError: The function has returned no task.
            SampleFailed: It has raised.
        """
        try:
            value = next(self._tasks, _NOTHING)
            if value is _NOTHING:
                self._tasks = self._values(self._make())
                value = next(self._tasks, _NOTHING)
        except Exception as exc:
            raise SampleFailed(f"the sample {self.name} has raised {type(exc).__name__}: {exc}") from exc
        if value is _NOTHING:
            raise ConfigurationError(f"the sample {self.name} has returned no tasks, but an empty iterable")
        return self._task(value)

    def _values(self, made: Any) -> Iterator[Any]:
        is_called = isinstance(self._handler, CallHandler | ModelHandler)
        kind = GeneratorType if is_called else Iterable
        # A function may get any list or text as its argument; a task may be iterable.
        return iter(made) if isinstance(made, kind) and not isinstance(made, BaseTask) else iter((made,))

    def _task(self, value: Any) -> BaseTask:
        if isinstance(value, BaseTask):
            return value
        if isinstance(self._handler, ModelHandler):
            if not isinstance(value, tuple) or len(value) < 2:
                raise ConfigurationError(
                    f"the sample {self.name} of a pool returns a tuple for one call, (model, function, *arguments), "
                    f"or yields several, {got(value)}"
                )
            model, function, *args = value
            return ModelCall(model, function, args, {})
        if isinstance(self._handler, CallHandler):
            is_one = isinstance(self._handler, BatchHandler | CoroutineBatchHandler) or not isinstance(value, tuple)
            return Call((value,) if is_one else value, {})
        raise ConfigurationError(f"the sample {self.name} returns a task, or an iterable of tasks, {got(value)}")


def find_sample(name: str, target: str, flow: Flow) -> Sample:
    """Find the function that makes the tasks.

    Args:
        name: ``module:function``, or the name of a function in the module of the target.
        target: ``module:name`` of what has the flow.
        flow: The flow.

    Raises:
        ConfigurationError: There is no such function.
        ModuleFailed: The module has raised.
    """
    full = name if ":" in name else f"{target.partition(':')[0]}:{name}"
    make: Any = find_object(full, "a sample is given as FUNCTION or MODULE:FUNCTION, such as main:make_task")
    if not callable(make) or isinstance(make, BaseTask):
        raise ConfigurationError(f"the sample {full} is a function that returns a task, {got(make)}")
    if inspect.iscoroutinefunction(make) or inspect.isasyncgenfunction(make):
        raise ConfigurationError(f"the sample {full} is `async def`: it is called without an event loop, as a `def`")
    return Sample(full, make, flow._configuration.step(0).handler)


def may_stream(task: BaseTask) -> bool:
    """Tell whether the items of a task can be read, if its handlers send any."""
    try:
        check_streamable(task)
    except InvalidArgument:
        return False
    return True
