"""Tenants: whose a task is that waits for the first step, and what it has a right to."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..exceptions import ConfigurationError, InvalidArgument, got
from ..fair_share import FairShare
from ..task import BaseTask
from .marks import LEAST_WEIGHT, MOST_WEIGHT, Marks, canonical


class Tenant(NamedTuple):
    """Whose a task is.

    Attributes:
        name: Canonical bytes of the value that stands for the tenant.
        weight: The share of the tenant, in proportion to those of others.
    """

    name: bytes
    weight: float


class TenantReader:
    """Reads the tenants of the tasks of a flow, in the process in which they are open.

    Args:
        flow: Name of the flow, for errors.
        fair: What the flow declares.
    """

    def __init__(self, flow: str, fair: FairShare) -> None:
        self._flow = flow
        self._tenant = fair.tenant
        self._weight = fair.weight

    def read(self, task: BaseTask) -> Tenant:
        """Return the tenant of a task.

        Raises:
            ConfigurationError: The task has no such field, or a value can be neither a tenant nor a weight.
            Exception: Raised by a function of the user.
        """
        return self._tenant_of(self._value_of(task))

    def guess(self, task: BaseTask) -> Tenant | None:
        """Return the tenant of a task of which not all fields are known yet; None if the tenant is not.

        Raises:
            ConfigurationError: A value can be neither a tenant nor a weight.
            Exception: Raised by the function for the weight.
        """
        try:
            value = self._value_of(task)
        except Exception:  # it needs what is read from the body, and is asked again after that
            return None
        return self._tenant_of(value)

    def mark(self, marks: Marks, task: BaseTask) -> Marks:
        """Return the marks of a task with its tenant; raises as `read` does."""
        name, weight = self.read(task)
        return marks._replace(tenant=name, weight=weight)

    def _value_of(self, task: BaseTask) -> Any:
        if not isinstance(self._tenant, str):
            return self._tenant(task)
        try:
            return getattr(task, self._tenant)
        except AttributeError:
            raise ConfigurationError(
                f"tenant of flow {self._flow} is the field {self._tenant!r}, which this {type(task).__name__} does not "
                "have; set it before the task is processed, in an endpoint with TaskField()"
            ) from None

    def _tenant_of(self, value: Any) -> Tenant:
        try:
            name = canonical(value)
        except InvalidArgument as exc:
            raise InvalidArgument(f"tenant of flow {self._flow}: {exc}") from None
        return Tenant(name, 1.0 if self._weight is None else self._checked(self._weight(value)))

    def _checked(self, weight: Any) -> float:
        try:
            number = float(weight)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if not LEAST_WEIGHT <= number <= MOST_WEIGHT:
            raise ConfigurationError(
                f"weight of flow {self._flow} must return a number from {LEAST_WEIGHT} to {MOST_WEIGHT}, {got(weight)}"
            )
        return number
