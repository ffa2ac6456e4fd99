"""One stage of a flow."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Callable
from typing import Any

from .exceptions import ConfigurationError
from .handler import BaseTaskHandler


class FlowStep:
    """A handler, how many processes run it, and how its tasks are batched.

    Args:
        handler: An instance of a `BaseTaskHandler` subclass. It is pickled into each worker.
        handle_condition: Decides whether a task visits this step; a task that does not goes on to the next.
            Called where the task comes from (the previous worker, or the process that calls ``Flow.process``),
            so it must be picklable: a function of a module, not a lambda.
        nprocs: Number of worker processes.
        batch_size: The most tasks that one call of ``handle`` gets.
        batch_timeout: Seconds to wait for a batch to fill, counted from the arrival of its first task;
            0 takes what is there and never waits.
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
        on_start_wait: Accepted for users of the package ``aqueduct`` and ignored; deprecated.

    Raises:
        ConfigurationError: A value that cannot work.
    """

    def __init__(
        self,
        handler: BaseTaskHandler,
        handle_condition: Callable[[Any], Any] = operator.truth,
        nprocs: int = 1,
        batch_size: int = 1,
        batch_timeout: float = 0.0,
        on_start_wait: float = 0.0,
        *,
        max_retries: int = 1,
        handle_timeout: float | None = None,
        max_tasks: int | None = None,
        max_tasks_jitter: int = 0,
        max_age: float | None = None,
        max_memory_growth: int | None = None,
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
        if on_start_wait:
            warnings.warn("on_start_wait has no effect and will be removed", DeprecationWarning, stacklevel=2)
        self._check()

    def _check(self) -> None:
        if not isinstance(self.handler, BaseTaskHandler):
            raise ConfigurationError(
                f"FlowStep needs an instance of a BaseTaskHandler subclass, got {self.handler!r}"
                + ("; did you forget the parentheses?" if isinstance(self.handler, type) else "")
            )
        name = type(self.handler).__name__
        if not callable(self.handle_condition):
            raise ConfigurationError(f"handle_condition of the step with {name} is not callable")
        for parameter in ("nprocs", "batch_size", "max_tasks", "max_memory_growth"):
            value = getattr(self, parameter)
            if value is not None and value < 1:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 1, got {value}")
        for parameter in ("batch_timeout", "max_retries", "max_tasks_jitter"):
            value = getattr(self, parameter)
            if value < 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} >= 0, got {value}")
        for parameter in ("handle_timeout", "max_age"):
            value = getattr(self, parameter)
            if value is not None and value <= 0:
                raise ConfigurationError(f"the step with {name} needs {parameter} > 0, got {value}")

    def __repr__(self) -> str:
        return (
            f"FlowStep({type(self.handler).__name__}, nprocs={self.nprocs}, "
            f"batch_size={self.batch_size}, batch_timeout={self.batch_timeout})"
        )
