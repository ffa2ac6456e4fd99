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
    ) -> None:
        self.handler = handler
        self.handle_condition = handle_condition
        self.nprocs = nprocs
        self.batch_size = batch_size
        self.batch_timeout = batch_timeout
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
        if self.nprocs < 1:
            raise ConfigurationError(f"the step with {name} needs nprocs >= 1, got {self.nprocs}")
        if self.batch_size < 1:
            raise ConfigurationError(f"the step with {name} needs batch_size >= 1, got {self.batch_size}")
        if self.batch_timeout < 0:
            raise ConfigurationError(f"the step with {name} needs batch_timeout >= 0, got {self.batch_timeout}")

    def __repr__(self) -> str:
        return (
            f"FlowStep({type(self.handler).__name__}, nprocs={self.nprocs}, "
            f"batch_size={self.batch_size}, batch_timeout={self.batch_timeout})"
        )
