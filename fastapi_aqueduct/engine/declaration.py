"""Checks of the arguments of flows and of their calls."""

from __future__ import annotations

import math
from typing import SupportsFloat

from ..exceptions import ConfigurationError, MPStartMethodValueError, got
from ..handler import BaseTaskHandler
from ..step import FlowStep
from .workers.process import StartMethod

LONGEST_TIMEOUT = 1e9
"""Seconds. Stands for an infinite time, which clocks and timers do not support."""


def named(steps: tuple[FlowStep | BaseTaskHandler, ...]) -> list[tuple[str, FlowStep]]:
    """Return each step with its name; a handler alone stands for ``FlowStep(handler)``.

    Raises:
        ConfigurationError: There is no step, or two have the same name.
    """
    if not steps:
        raise ConfigurationError("a flow needs at least one step")
    full = [step if isinstance(step, FlowStep) else FlowStep(step) for step in steps]
    names: list[tuple[str, FlowStep]] = []
    numbers: dict[str, int] = {}
    for number, step in enumerate(full, start=1):
        numbered = step.handler.get_step_name(number)
        name = step.name or numbered
        for label in {name, numbered}:
            if numbers.setdefault(label, number) != number:
                raise ConfigurationError(
                    f"steps {numbers[label]} and {number} of a flow have the same name {label!r}; give each a name of "
                    "its own: FlowStep(..., name=...)"
                )
        names.append((name, step))
    return names


def checked_method(method: str) -> StartMethod:
    """Return a start method of processes.

    Raises:
        MPStartMethodValueError: The method is not safe in a server.
    """
    if method == "spawn":
        return "spawn"
    if method == "forkserver":
        return "forkserver"
    raise MPStartMethodValueError(
        f"mp_start_method {method!r} is refused: use 'spawn' or 'forkserver'"
        + ("; a fork copies the locks and the event loop of a server in an unusable state" * (method == "fork"))
    )


def check_numbers(queue_size: int, priorities: int, memory_limit: int | None, start_timeout: float) -> None:
    """Check the numbers of a flow.

    Raises:
        ConfigurationError: A number is too small.
    """
    for name, value, least in (
        ("queue_size", queue_size, 1),
        ("queue_priorities", priorities, 1),
        ("memory_limit", memory_limit if memory_limit is not None else 1 << 20, 1 << 20),
    ):
        if value < least:
            raise ConfigurationError(f"{name} must be at least {least}, got {value}")
    if start_timeout <= 0:
        raise ConfigurationError(f"start_timeout must be positive, got {start_timeout}")


def checked_timeout(timeout: object) -> float:
    """Return the timeout of a call in seconds that clocks support.

    Raises:
        ConfigurationError: It is not a number.
    """
    # The numbers first: up to Python 3.11 a check against a protocol looks through all its attributes, for each call.
    if not isinstance(timeout, (float, int, SupportsFloat)) or math.isnan(timeout):
        raise ConfigurationError(f"timeout_sec of a call must be a number of seconds, {got(timeout)}")
    return max(0.0, min(float(timeout), LONGEST_TIMEOUT))


def not_a_task(value: object) -> ConfigurationError:
    """Return the error for a call of a flow with a value that is not a task."""
    return ConfigurationError(f"a flow processes tasks, objects of a subclass of BaseTask, {got(value)}")
