"""The base class of handlers, the code of a user that workers run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from .exceptions import ConfigurationError, MissingHandle
from .runtime import runtime_of, task_hosts

T = TypeVar("T")


class BaseTaskHandler:
    """Processes tasks in a worker process.

    A handler is made in the process that starts the flow, pickled, and unpickled in every worker of its step: keep
    ``__init__`` light and load models in `on_start`.

    Raises:
        ConfigurationError: A subclass defines a method as ``async def`` or with ``yield``. A worker calls each method
            as an ordinary function, so the body of this one would not run.

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
        """Prepare the worker. Runs once in each worker, before the worker gets tasks.

        An exception ends the start of the flow: ``Flow.start`` raises it with the worker's traceback.
        """

    def handle(self, *tasks: Any) -> None:
        """Process a batch: read fields of the tasks and set others.

        Args:
            *tasks: From one to ``batch_size`` tasks of the step.

        The callers of the tasks get an exception that is raised here. ``task.fail(exc)`` fails one task of a batch.
        The return value is ignored, and each worker logs one warning about it. A caller that is cancelled does not
        interrupt a batch: its result is discarded, and its task has ``is_cancelled`` set.
        """
        raise MissingHandle(f"{type(self).__name__} does not define handle(self, *tasks)")

    def rounds(self, tasks: Sequence[T]) -> Iterator[list[T]]:
        """Work on a batch in rounds, in ``handle``: each round is given the tasks that are not answered yet.

        ::

            def handle(self, *tasks: Prompt) -> None:
                for live in self.rounds(tasks):
                    for task, token in zip(live, self.model.step(live)):
                        task.emit(token)
                        if token == EOS:
                            task.finish()

        Between two rounds the items that were emitted are sent, and tasks that are finished, have failed
        (``task.fail``), or whose callers have left, are answered and leave. With ``FlowStep(continuous=True)`` new
        tasks join. The iteration ends when no task is left; tasks that are left when ``handle`` returns are answered
        then.

        Args:
            tasks: The tasks of the batch.

        Returns:
            An iterator of lists of tasks.
        """
        for host in task_hosts:
            return host.rounds(tasks)
        return _rounds_without_worker(tasks)

    def on_stop(self) -> None:
        """Release the resources of `on_start`. Runs in the worker when it is stopped, not when it is killed."""

    @classmethod
    def get_step_name(cls, step_number: int) -> str:
        """Return the numbered name of the step, which it has unless it is given a name.

        Args:
            step_number: Position of the step in its flow, counted from 1.
        """
        return f"step{step_number}_{cls.__name__}"


def _rounds_without_worker(tasks: Sequence[T]) -> Iterator[list[T]]:
    """Do what tests of a handler expect of rounds, where there is no worker."""
    while live := [task for task in tasks if not {"is_finished", "failure"} & runtime_of(task).keys()]:
        yield live


def check_methods(name: str, owner: object) -> None:
    """Refuse methods whose bodies would not run when a worker calls them.

    Args:
        name: Name of the handler class, for the message.
        owner: The class, or an instance, which may have methods of its own.

    Raises:
        ConfigurationError: A method is a coroutine function or a generator function, or is not callable.
    """
    for method, arguments in (("on_start", "self"), ("handle", "self, *tasks"), ("on_stop", "self")):
        function = getattr(owner, method)
        if not callable(function):
            raise ConfigurationError(f"{name}.{method} is not callable, got {function!r}")
        fault = "" if method == "handle" and inspect.isgeneratorfunction(function) else _fault(function)
        if fault:
            raise ConfigurationError(
                f"{name}.{method} {fault}, but a worker calls it as an ordinary function, so its body would not run; "
                f"write `def {method}({arguments})`" + _ADVICE[method]
            )


_ADVICE = {
    "on_start": ", and run coroutines in it with `asyncio.run(...)`",
    "handle": " and set results as attributes of the tasks; run coroutines in it with `asyncio.run(...)`",
    "on_stop": ", and run coroutines in it with `asyncio.run(...)`",
}


def _fault(function: Callable[..., Any]) -> str:
    # Not unwrapped: a wrapper decides what it returns, and the worker checks that.
    if inspect.iscoroutinefunction(function):
        return "is declared with `async def`"
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        return "has a `yield`"
    return ""
