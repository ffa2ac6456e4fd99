"""The code a user runs in the workers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from .exceptions import ConfigurationError, MissingHandle


class BaseTaskHandler:
    """Works on tasks inside a worker process.

    The handler is built in the process that starts the flow, pickled, and rebuilt in every worker of its step:
    keep ``__init__`` light and load models in `on_start`.

    Raises:
        ConfigurationError: A subclass defines a method as ``async def`` or with ``yield``; a worker calls each of them
            as an ordinary function, so nothing of it would run.

    Example:
        ::

            class Classify(BaseTaskHandler):
                def on_start(self) -> None:
                    self.model = load_model()

                def handle(self, *tasks: ImageTask) -> None:
                    for task, label in zip(tasks, self.model([task.pixels for task in tasks])):
                        task.label = label
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        check_methods(cls.__qualname__, cls)

    def on_start(self) -> None:
        """Prepare the worker. Runs once in each worker, before the flow counts as started.

        An exception ends the start: it is raised from ``Flow.start`` with the worker's traceback.
        """

    def handle(self, *tasks: Any) -> None:
        """Work on a batch: read the tasks' fields and set others.

        Args:
            tasks: From one to ``batch_size`` tasks of the step.

        An exception reaches the callers of these tasks as itself. ``task.fail(exc)`` fails one task of a batch.
        What is returned is ignored, and each worker warns of it once in its log. A caller that goes away does not
        interrupt a batch: its result is dropped.
        """
        raise MissingHandle(f"{type(self).__name__} does not define handle(self, *tasks)")

    def on_stop(self) -> None:
        """Release what `on_start` took. Runs in the worker when it is stopped, not when it is killed."""

    @classmethod
    def get_step_name(cls, step_number: int) -> str:
        """Name the step in logs, errors and metrics.

        Args:
            step_number: Position of the step in its flow, counted from 1.
        """
        return f"step{step_number}_{cls.__name__}"


def check_methods(name: str, owner: object) -> None:
    """Refuse methods of which nothing would run when a worker calls them.

    Args:
        name: Name of the handler class, for the message.
        owner: The class, or an instance that may have methods of its own.

    Raises:
        ConfigurationError: One is a coroutine function or a generator function, or is not callable.
    """
    for method, arguments in (("on_start", "self"), ("handle", "self, *tasks"), ("on_stop", "self")):
        function = getattr(owner, method)
        if not callable(function):
            raise ConfigurationError(f"{name}.{method} is not callable, got {function!r}")
        fault = _fault(function)
        if fault:
            raise ConfigurationError(
                f"{name}.{method} {fault}, and a worker calls it as an ordinary function: nothing of it would run; "
                f"write `def {method}({arguments})`" + _ADVICE[method]
            )


_ADVICE = {
    "on_start": ", with `asyncio.run(...)` in it for what must be awaited",
    "handle": " and set results as attributes of the tasks; `asyncio.run(...)` in it runs what must be awaited",
    "on_stop": ", with `asyncio.run(...)` in it for what must be awaited",
}


def _fault(function: Callable[..., Any]) -> str:
    # A wrapper that keeps the function it wraps decides itself what it returns; the worker looks at that.
    if inspect.iscoroutinefunction(function):
        return "is declared with `async def`"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "has a `yield`"
    return ""
