"""What all metrics of the package aqueduct have in common: names, kinds, and lists of named values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from enum import Enum
from typing import Any

MAIN_PROCESS = "main_process"
"""The API process in the names of metrics."""

AQUEDUCT = "aqueduct"
"""The first part of the names of all metrics."""


class MetricsTypes(Enum):
    """The kinds of metrics that a `fastapi_aqueduct.metrics.Collector` can leave out."""

    TASK_TIMERS = "task_timers"
    QUEUE_SIZE = "queue_size"


class IExtendable(ABC):
    """An object that can be extended by one of the same type."""

    @abstractmethod
    def extend(self, obj: Any) -> None:
        """Add the values of an object of the same type.

        Args:
            obj: The object.
        """


class IMetricsItems(IExtendable):
    """Metrics as pairs of a name and a value."""

    @property
    @abstractmethod
    def items(self) -> Iterable[tuple[str, Any]]:
        """The names and values."""


class MetricsItems(IMetricsItems):
    """A list of names and values; a name may occur many times.

    Args:
        items: The first names and values.
    """

    def __init__(self, items: list[tuple[str, Any]] | None = None) -> None:
        self._items: list[tuple[str, Any]] = items or []

    @property
    def items(self) -> list[tuple[str, Any]]:
        """The names and values."""
        return self._items

    def add(self, name: str, value: Any) -> None:
        """Add a value.

        Args:
            name: Its name.
            value: The value.
        """
        self._items.append((name, value))

    def add_items(self, items: Iterable[tuple[str, Any]]) -> None:
        """Add names and values.

        Args:
            items: The names and values.
        """
        self._items.extend(items)

    def extend(self, obj: IMetricsItems) -> None:
        """Add the names and values of another list.

        Args:
            obj: The other list.
        """
        self.add_items(obj.items)
