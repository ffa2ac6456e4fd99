"""Exporters: pass on in periods what a `fastapi_aqueduct.metrics.Collector` has gathered of a flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, Protocol

from .base import AQUEDUCT
from .collect import AqueductMetricsStorage

TRANSFER_TIME_PREFIX = "transfer_time"
TASK_SIZE_PREFIX = "task_size"
HANDLE_TIME_PREFIX = "handle_time"
BATCH_TIME_PREFIX = "batch_time"
BATCH_SIZE_PREFIX = "batch_size"
QSIZE_PREFIX = "qsize"
TASKS_PREFIX = "tasks"
MEMORY_USAGE_PREFIX = "memory_usage"
PROCESSES_PREFIX = "processes"

MILLISECONDS = 1000
"""In a second; StatsD counts times in milliseconds."""


class StatsDBuffer(Protocol):
    """A client of StatsD, or an adapter for one. It is called in the event loop, which it must not block."""

    def count(self, name: str, value: float | int) -> object:
        """Add to a counter.

        Args:
            name: Its name.
            value: The number to add.
        """

    def timing(self, name: str, value: float | int) -> object:
        """Record a time, or another value of which the distribution counts.

        Args:
            name: Its name.
            value: The time in milliseconds; in bytes or tasks for other values.
        """

    def gauge(self, name: str, value: float | int) -> object:
        """Set a gauge.

        Args:
            name: Its name.
            value: The new value.
        """


class Exporter(ABC):
    """Gets what was measured of a flow in periods, in the event loop that drives the flow, and when the flow stops.

    Args:
        target: Where the metrics go.
        export_period: Seconds between two exports.
        prefix: Part of the names after ``aqueduct``.

    Attributes:
        target: As given.
        export_period: As given.
        prefix: The beginning of all names.
    """

    def __init__(self, target: Any, export_period: float = 0.5, prefix: str | None = None) -> None:
        self.target = target
        self.export_period = export_period
        self.prefix = AQUEDUCT if prefix is None else f"{AQUEDUCT}.{prefix}"

    @abstractmethod
    def export(self, metrics: AqueductMetricsStorage) -> None:
        """Pass metrics on. Must not block: it runs in the event loop.

        Args:
            metrics: What was measured since the last call. After busy times there are several calls, each with a part.
        """


class ToStatsDMetricsExporter(Exporter):
    """Sends metrics to StatsD.

    Args:
        target: The client.
        export_period: Seconds between two exports.
        prefix: Part of the names after ``aqueduct``.
    """

    def __init__(self, target: StatsDBuffer, export_period: float = 0.5, prefix: str | None = None) -> None:
        super().__init__(target, export_period, prefix)

    def export(self, metrics: AqueductMetricsStorage) -> None:
        """Send metrics; times in milliseconds.

        Args:
            metrics: What was measured since the last call.
        """
        for kind, items, factor in (
            (HANDLE_TIME_PREFIX, metrics.handle_times, MILLISECONDS),
            (TRANSFER_TIME_PREFIX, metrics.transfer_times, MILLISECONDS),
            (BATCH_TIME_PREFIX, metrics.batch_times, MILLISECONDS),
            (BATCH_SIZE_PREFIX, metrics.batch_sizes, 1),
            (QSIZE_PREFIX, metrics.queue_sizes, 1),
            (TASK_SIZE_PREFIX, metrics.task_sizes, 1),
            (MEMORY_USAGE_PREFIX, metrics.memory_usage, 1),
        ):
            for name, value in items.items:
                self.target.timing(f"{self.prefix}.{kind}.{name}", value * factor)
        for kind, stats in ((TASKS_PREFIX, metrics.tasks_stats), (PROCESSES_PREFIX, metrics.processes_stats)):
            for name, number in stats.items:
                if number > 0:
                    self.target.count(f"{self.prefix}.{kind}.{name}", number)


class DiscardingExporter(Exporter):
    """Drops all metrics, for a collector that passes them on itself."""

    def __init__(self) -> None:
        super().__init__(None)

    def export(self, metrics: AqueductMetricsStorage) -> None:
        """Drop metrics.

        Args:
            metrics: What was measured since the last call.
        """


class DummyExporter(Exporter):
    """Adds up all metrics in its target, for tests: it grows with each task.

    Args:
        target: What the metrics are added to; default: a new storage.
        export_period: Seconds between two exports.
        prefix: Not used.
    """

    def __init__(
        self, target: AqueductMetricsStorage | None = None, export_period: float = 0.5, prefix: str | None = None
    ) -> None:
        super().__init__(AqueductMetricsStorage() if target is None else target, export_period, prefix)

    def export(self, metrics: AqueductMetricsStorage) -> None:
        """Add metrics to the target.

        Args:
            metrics: What was measured since the last call.
        """
        self.target.extend(metrics)
