"""One stage of a flow."""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable
from typing import Any, Literal

from .exceptions import ConfigurationError, got
from .handler import BaseTaskHandler, check_methods

# What a metric's label, a token of an HTTP header and a line of a log can carry without being quoted.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


class FlowStep:
    """A handler, how many processes run it, and how its tasks are batched.

    Args:
        handler: An instance of a `BaseTaskHandler` subclass. It is pickled into each worker.
        handle_condition: Decides whether a task visits this step; a task that does not goes on to the next.
            Called where the task comes from (the previous worker, or the process that calls ``Flow.process``),
            so it must be picklable: a function of a module, not a lambda.
        nprocs: Number of worker processes. Work of less than 0.1 ms a call goes to no more of them than there are
            cores.
        batch_size: The most tasks that one call of ``handle`` gets.
        batch_timeout: Seconds to wait for a batch to fill, counted from the arrival of its first task;
            0 takes what is there and never waits. ``"auto"``: a batch that is not full waits for an idle worker's sake
            only as long as it has lately paid: when who comes next saves more time than those who wait lose. It learns
            that from the times of the handler's calls and from when tasks came, with and without others known to be
            uploading or in a step before. A handler whose call costs little beside its tasks is never made to wait.
        on_start_wait: Accepted for users of the package ``aqueduct`` and ignored.
        max_retries: How often a task is tried again, alone, after the worker that held it has died; 0 for a step that
            must run at most once. An exception from a batch then fails all of it, where otherwise the batch runs again
            one by one and only the task that raises fails. A task that carries a field shared with ``share_value`` is
            never run again, because its input may be half changed.
        handle_timeout: Seconds that one call of ``handle`` may take. A worker that takes longer has its stack logged
            and is killed and replaced; longer than the slowest honest batch, therefore. None: no limit.
        max_tasks: Replace a worker after so many tasks. The new one is ready before the old one goes.
        max_tasks_jitter: Up to so many tasks more, chosen at random, so that workers are not replaced together.
        max_age: Replace a worker after so many seconds.
        max_memory_growth: Replace a worker whose private memory has grown by so many bytes since its first batch.
        busy_poll: Seconds for which a worker without a task goes on asking for one before it sleeps, and for which the
            event loop does not sleep while it waits for that worker. Waking a process takes 20 to 60 us each way, often
            more on a virtual machine, and what it runs then runs with cold caches: of a trip that takes 0.3 ms asleep
            some 0.1 ms remain. The price is processor time: for so long after each task the worker keeps a core busy,
            and until its answer comes the event loop another, though it goes on serving everybody else. So it is for
            steps of well under a millisecond, with a core to spare for each worker, and with about the time that
            lies between two tasks, such as 0.001. 0: sleep at once, but that the event loop stays awake
            for the answer to a lone task of less than 0.2 ms, for 0.4 ms at most.
        name: Name of the step in logs, metrics, probes and errors, and in ``flow.steps``: letters, digits, ``_``,
            ``-`` and ``.``. Default: its numbered name, ``BaseTaskHandler.get_step_name``, such as
            ``step1_Classify``; ``flow.steps`` knows a step by that one, too.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    def __init__(
        self,
        handler: BaseTaskHandler,
        handle_condition: Callable[[Any], Any] = operator.truth,
        nprocs: int = 1,
        batch_size: int = 1,
        batch_timeout: float | Literal["auto"] = 0.0,
        on_start_wait: float = 0.0,
        *,
        max_retries: int = 1,
        handle_timeout: float | None = None,
        max_tasks: int | None = None,
        max_tasks_jitter: int = 0,
        max_age: float | None = None,
        max_memory_growth: int | None = None,
        busy_poll: float = 0.0,
        name: str | None = None,
    ) -> None:
        self.handler = handler
        self.handle_condition = handle_condition
        self.nprocs = nprocs
        self.batch_size = batch_size
        self.batch_timeout = batch_timeout
        self.max_retries = max_retries
        self.handle_timeout = handle_timeout
        self.max_tasks = max_tasks
        self.max_tasks_jitter = max_tasks_jitter
        self.max_age = max_age
        self.max_memory_growth = max_memory_growth
        self.busy_poll = busy_poll
        self.name = name
        self._check()

    def _check(self) -> None:
        if not isinstance(self.handler, BaseTaskHandler):
            raise ConfigurationError(
                f"FlowStep needs an instance of a BaseTaskHandler subclass, got {self.handler!r}"
                + ("; did you forget the parentheses?" if isinstance(self.handler, type) else "")
            )
        name = type(self.handler).__name__
        check_methods(name, self.handler)
        # Not at the class, which may be a common base of handlers.
        if getattr(self.handler.handle, "__func__", None) is BaseTaskHandler.handle:
            raise ConfigurationError(f"{name} has no method `handle`; define `def handle(self, *tasks)` in it")
        if not callable(self.handle_condition):
            raise ConfigurationError(f"handle_condition of the step with {name} is not callable")
        local = _local(self.handle_condition)
        if local:
            raise ConfigurationError(
                f"handle_condition of the step with {name} is {local}, which cannot be sent to a worker process; "
                "define a function at the top level of a module"
            )
        if self.name is not None and not (isinstance(self.name, str) and _NAME.fullmatch(self.name)):
            raise ConfigurationError(
                f"the step with {name} needs a name of letters (a to z), digits, '_', '-' and '.', {got(self.name)}"
            )
        for parameter in ("nprocs", "batch_size", "max_tasks", "max_memory_growth"):
            value = getattr(self, parameter)
            if value is not None and value < 1:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 1, got {value}")
        if isinstance(self.batch_timeout, str) and self.batch_timeout != "auto":
            raise ConfigurationError(
                f"the step with {name} needs a number of seconds or 'auto' as batch_timeout, got {self.batch_timeout!r}"
            )
        for parameter in ("batch_timeout", "max_retries", "max_tasks_jitter", "busy_poll"):
            value = getattr(self, parameter)
            if value != "auto" and value < 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 0, got {value}")
        for parameter in ("handle_timeout", "max_age"):
            value = getattr(self, parameter)
            if value is not None and value <= 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} > 0, got {value}")

    def __repr__(self) -> str:
        return (
            f"FlowStep({type(self.handler).__name__}, nprocs={self.nprocs}, "
            f"batch_size={self.batch_size}, batch_timeout={self.batch_timeout}"
            + (f", name={self.name!r})" if self.name is not None else ")")
        )


def _local(condition: Callable[[Any], Any]) -> str:
    """Say why no other process can import a function; empty for one that it may find."""
    function: Any = condition
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", "")
    if name.endswith("<lambda>"):
        return "a lambda"
    return f"{name}, a function inside another one" if "<locals>" in name else ""
