"""Cost: how much of a batch each task takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from .exceptions import ConfigurationError, got
from .travel import local_function


@dataclass(frozen=True)
class Cost:
    """Limits what the tasks of a batch cost together.

    ::

        def padded(task: Text) -> int:
            return 64 * -(-len(task.tokens) // 64)

        FlowStep(Embed(), batch_size=64, batch_cost=Cost(padded, limit=16_384))
        FlowStep(Rank(), batch_size=32, batch_cost=Cost("pairs", limit=500))

    A task that costs more than the limit runs alone.

    Attributes:
        of: What a task costs: the name of a field, or a function of the task. A whole number of 0 or more. The function
            is called in the process that the task comes from, so it must be one of a module.
        limit: The most that the tasks of one call of ``handle`` cost together.

    Raises:
        ConfigurationError: A value cannot work.
    """

    of: str | Callable[[Any], int]
    _: KW_ONLY
    limit: int

    def __post_init__(self) -> None:
        if isinstance(self.limit, bool) or not isinstance(self.limit, int) or self.limit < 1:
            raise ConfigurationError(f"Cost needs limit >= 1, {got(self.limit)}")
        check_key("the cost", self.of)


def check_key(what: str, key: object) -> None:
    """Refuse what can be neither the name of a field nor a function that workers find.

    Args:
        what: What it is, for the message.
        key: The key.

    Raises:
        ConfigurationError: It is something else.
    """
    if not (key.isidentifier() if isinstance(key, str) else callable(key)):
        raise ConfigurationError(f"{what} needs the name of a field, or a function of a task, {got(key)}")
    if inspect.iscoroutinefunction(key):
        raise ConfigurationError(f"{what} is declared with `async def`, but it is called as an ordinary function")
    local = local_function(key)
    if local:
        raise ConfigurationError(
            f"{what} is {local}, which cannot be sent to a worker process; define a function at the top level of a "
            "module"
        )
