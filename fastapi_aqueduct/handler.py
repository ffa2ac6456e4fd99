"""The base class of handlers, the code of a user that workers run."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterator, Sequence
from enum import Enum
from typing import Any, TypeVar

from .exceptions import ConfigurationError, MissingHandle
from .runtime import runtime_of, task_hosts

T = TypeVar("T")

HandleConditionType = Callable[[Any], Any]
"""The type of a ``handle_condition``: a function of a task whose result counts as true or false."""


class HandlerForm(Enum):
    """How ``handle`` is defined, which decides how a worker runs it.

    Attributes:
        yields: Whether its values are the items of a stream.
        is_async: Whether it runs in an event loop of the worker.
    """

    PLAIN = (False, False)
    GENERATOR = (True, False)
    COROUTINE = (False, True)
    ASYNC_GENERATOR = (True, True)

    def __init__(self, yields: bool, is_async: bool) -> None:
        self.yields = yields
        self.is_async = is_async


class BaseTaskHandler:
    """Processes tasks in a worker process.

    A handler is made in the process that starts the flow, pickled, and unpickled in every worker of its step: keep
    ``__init__`` light and load models in `on_start`. Each method may be ``async def``.

    Raises:
        ConfigurationError: A subclass defines `on_start`, `check` or `on_stop` with a ``yield``, so its body would not
            run.

    Example:
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

    def on_start(self) -> Awaitable[None] | None:
        """Prepare the worker. Runs once in each worker, before the worker gets tasks.

        If `handle` is ``async def``, this runs in its event loop, so it may make clients that belong to a loop. With
        any other `handle`, the loop of an ``async def on_start`` stands still until `on_stop`.

        An exception ends the start of the flow: ``Flow.start`` raises it with the worker's traceback.
        """
        return None

    def handle(self, *tasks: Any, **_: Any) -> Any:
        """Process a batch: read fields of the tasks and set others.

        A generator, for ``batch_size=1``, sends the values that it yields to the caller of ``flow.stream``. ``async
        def``: up to ``concurrency`` calls run side by side in the event loop of the worker.

        Args:
            *tasks: From one to ``batch_size`` tasks of the step.
            **_: None; with this parameter type checkers accept any signature in a subclass.

        The callers of the tasks get an exception that is raised here. ``task.fail(exc)`` fails one task of a batch.
        The return value is ignored, and each worker logs one warning about it.

        A caller that leaves closes a generator at its ``yield`` and cancels a coroutine. It does not interrupt a plain
        call or a batch with other tasks: the result is discarded, and its task has ``is_cancelled`` set.
        """
        raise MissingHandle(f"{type(self).__name__} does not define handle(self, *tasks)")

    def rounds(self, tasks: Sequence[T]) -> Iterator[list[T]]:
        """Work on a batch in rounds, in ``handle``: each round is given the tasks that are not answered yet.

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

        Raises:
            UsageError: ``handle`` is a generator or ``async def``.
        """
        for host in task_hosts:
            return host.rounds(tasks)
        return rounds_without_worker(tasks)

    def check(self) -> Awaitable[object] | object:
        """Tell whether the model is healthy, such as by one small prediction. Not asked where it is not defined.

        A worker calls it before it is ready, and then every 10 seconds between two batches, turns or rounds; where
        `handle` is ``async def``, beside the calls, in their event loop. False, or an exception, means that the model
        is unhealthy: the worker goes on with its tasks, the log and ``flow.statistics()`` say why, and ``/ready``
        responds 503 when all workers of the step are unhealthy. ``FlowStep(check_timeout=...)`` limits its time.

        Returns:
            False if the model is unhealthy; None counts as healthy.
        """
        return None

    def on_stop(self) -> Awaitable[None] | None:
        """Release the resources of `on_start`. Runs in the worker when it is stopped, not when it is killed."""
        return None

    @classmethod
    def get_step_name(cls, step_number: int) -> str:
        """Return the numbered name of the step, which it has unless it is given a name.

        Args:
            step_number: Position of the step in its flow, counted from 1.
        """
        return f"step{step_number}_{cls.__name__}"


def rounds_without_worker(tasks: Sequence[T]) -> Iterator[list[T]]:
    """Do what tests of a handler expect of rounds, where there is no worker."""
    while live := [task for task in tasks if not {"is_finished", "failure"} & runtime_of(task).keys()]:
        yield live


def form_of(handler: BaseTaskHandler) -> HandlerForm:
    """Return the form of a handler's ``handle``."""
    # Not unwrapped: a wrapper decides what it returns, and the worker checks that.
    if inspect.iscoroutinefunction(handler.handle):
        return HandlerForm.COROUTINE
    if inspect.isasyncgenfunction(handler.handle):
        return HandlerForm.ASYNC_GENERATOR
    return HandlerForm.GENERATOR if inspect.isgeneratorfunction(handler.handle) else HandlerForm.PLAIN


def has_check(handler: BaseTaskHandler) -> bool:
    """Return whether a handler tells how its model is."""
    return getattr(handler.check, "__func__", None) is not BaseTaskHandler.check


def check_methods(name: str, owner: object) -> None:
    """Refuse methods whose bodies would not run when a worker calls them.

    Args:
        name: Name of the handler class, for the message.
        owner: The class, or an instance, which may have methods of its own.

    Raises:
        ConfigurationError: `on_start`, `check` or `on_stop` is a generator function, or a method is not callable.
    """
    for method in ("on_start", "handle", "check", "on_stop"):
        function = getattr(owner, method)
        if not callable(function):
            raise ConfigurationError(f"{name}.{method} is not callable, got {function!r}")
        if method == "check" and not isinstance(owner, type) and _needs_arguments(function):
            raise ConfigurationError(
                f"{name}.check takes arguments, but a worker calls it with none, to ask how the model is; give a "
                "method for another purpose another name"
            )
        if method != "handle" and (inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)):
            raise ConfigurationError(
                f"{name}.{method} has a `yield`, but a worker calls it once, so its body would not run; write "
                f"`def {method}(self)` or `async def {method}(self)` without a `yield`"
            )


def _needs_arguments(function: Any) -> bool:
    try:
        inspect.signature(function).bind()
    except TypeError:
        return True
    except ValueError:  # a function of C without a signature
        return False
    return False
