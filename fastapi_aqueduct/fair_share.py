"""The declaration that tenants share a flow fairly."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

from .exceptions import ConfigurationError, got


@dataclass(frozen=True)
class FairShare:
    """Shares a flow between tenants: ``Flow(Ocr(), fair=FairShare("tenant", weight=weight_of, queue_share=0.3))``.

    The tasks that wait for the first step go by priority, and within a priority the tenants take turns. So one that
    sends much more than others makes its own tasks wait, and theirs hardly.

    The functions are called in the process of the caller, for each task; a flow that workers do not know does not need
    them.

    Attributes:
        tenant: Whose a task is: the name of a field, or a function of the task. A text, a number, `bytes`, or a tuple
            of them. An API key is as good as a name: it is in no log and no metric.
        weight: Returns the weight of a tenant, of which it gets the value, from 0.001 to 1000; default: all have the
            weight 1. A tenant with the weight 2 gets twice as many tasks done as one with 1, while both have tasks that
            wait.
        queue_share: The share of ``queue_size`` that the tasks of one tenant may take up at each level of priority.

    Raises:
        ConfigurationError: A value cannot work.
    """

    tenant: str | Callable[[Any], Any]
    _: KW_ONLY
    weight: Callable[[Any], float] | None = None
    queue_share: float = 0.3

    def __post_init__(self) -> None:
        tenant = self.tenant
        if not (tenant.isidentifier() if isinstance(tenant, str) else callable(tenant)):
            raise ConfigurationError(
                f"FairShare needs the name of a field, or a function of a task, as tenant, {got(tenant)}"
            )
        if self.weight is not None and not callable(self.weight):
            raise ConfigurationError(
                f"FairShare needs a function of the tenant as weight, such as lambda tenant: 2.0, {got(self.weight)}"
            )
        for name, function in (("tenant", tenant), ("weight", self.weight)):
            if inspect.iscoroutinefunction(function):
                raise ConfigurationError(
                    f"{name} of FairShare is declared with `async def`, but it is called as an ordinary function"
                )
        share = self.queue_share
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0.0 < share <= 1.0:
            raise ConfigurationError(f"FairShare needs queue_share above 0 and up to 1, {got(share)}")

    def limit(self, queue_size: int) -> int:
        """Return how many tasks of one tenant may wait at each level of priority.

        Args:
            queue_size: Tasks that may wait for a step, at each level.
        """
        # Of 100 places 0.29 is 29, though the product of these floats is a little less.
        return max(1, int(self.queue_share * queue_size * (1 + sys.float_info.epsilon)))
