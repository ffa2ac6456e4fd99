"""Check of the values that a handler's methods return, which should return nothing."""

from __future__ import annotations

import inspect
import os
from typing import Any

from ...exceptions import ConfigurationError
from ...logger import log

IGNORED = "which is ignored; set results as attributes of the tasks"
"""The end of the warning about a value that ``handle`` has returned."""


class ReturnCheck:
    """Refuses coroutines and generators that a handler's methods return, and warns of other values.

    A decorator may hide from `FlowStep` that ``handle`` is a coroutine or generator function; only its value shows it.

    Args:
        step: Name of the step, for the log.
        handler: Name of the handler class.
    """

    def __init__(self, step: str, handler: str) -> None:
        self._step = step
        self._handler = handler
        self._has_warned = False

    def check(self, method: str, value: Any) -> None:
        """Refuse a value which shows that the body of a method has not run.

        Args:
            method: Name of the method.
            value: The returned value.

        Raises:
            ConfigurationError: The value is a coroutine or a generator.
        """
        if inspect.iscoroutine(value):
            value.close()  # else Python warns that it was never awaited
        elif not inspect.isgenerator(value) and not inspect.isasyncgen(value):
            return
        raise ConfigurationError(
            f"{self._handler}.{method} returned a {type(value).__name__}, so nothing of it has run: it is an ordinary "
            "function, perhaps because of a decorator; let it do its work before it returns, or declare it as what it "
            "returns"
        )

    def note(self, value: Any) -> None:
        """Check a value that ``handle`` returned, and log once that it is ignored.

        Args:
            value: The returned value, other than None.

        Raises:
            ConfigurationError: As for `check`.
        """
        self.check("handle", value)
        if self._has_warned:
            return
        self._has_warned = True
        log.warning(
            f"%s (pid %d): %s.handle returned a %s, {IGNORED}",
            self._step,
            os.getpid(),
            self._handler,
            type(value).__name__,
        )
