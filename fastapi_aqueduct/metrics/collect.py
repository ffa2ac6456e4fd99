"""Collector: gathers what is measured of a flow until an exporter gets it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

from ..replaced import explain_members
from .base import IMetricsItems, MetricsItems, MetricsTypes
from .processes import ProcessesStats
from .task import TasksMetricsStorage


@dataclass
class TasksStats(IMetricsItems):
    """How many tasks ended how.

    Attributes:
        cancel: Tasks whose caller left, or whose flow was stopped.
        timeout: Tasks whose deadline passed.
        complete: Tasks that were finished.
        fail: Tasks whose handler raised or whose worker died.
    """

    cancel: int = 0
    timeout: int = 0
    complete: int = 0
    fail: int = 0

    @property
    def items(self) -> Iterable[tuple[str, int]]:
        """The names and values."""
        return asdict(self).items()

    def extend(self, obj: TasksStats) -> None:
        """Add other numbers.

        Args:
            obj: The other numbers.
        """
        self.cancel += obj.cancel
        self.timeout += obj.timeout
        self.complete += obj.complete
        self.fail += obj.fail


class AqueductMetricsStorage(TasksMetricsStorage):
    """All that was measured of a flow since the last export.

    Attributes:
        queue_sizes: Numbers of tasks in the queues of the steps.
        tasks_stats: How many tasks ended how.
        memory_usage: Bytes of memory of the worker processes.
        processes_stats: How many of them run or have died.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queue_sizes = MetricsItems()
        self.tasks_stats = TasksStats()
        self.memory_usage = MetricsItems()
        self.processes_stats = ProcessesStats()

    def extend(self, obj: TasksMetricsStorage) -> None:
        """Add what was measured of tasks, or all that another storage has.

        Args:
            obj: The other storage.
        """
        super().extend(obj)
        if isinstance(obj, AqueductMetricsStorage):
            self.queue_sizes.extend(obj.queue_sizes)
            self.tasks_stats.extend(obj.tasks_stats)
            self.memory_usage.extend(obj.memory_usage)
            self.processes_stats.extend(obj.processes_stats)

    def extend_memory_usage(self, metrics: MetricsItems) -> None:
        """Add bytes of memory.

        Args:
            metrics: The bytes, each with the name of a step.
        """
        self.memory_usage.extend(metrics)


@explain_members("metrics.collect.Collector")
class Collector:
    """Gathers what is measured of a flow until the exporter gets it.

    Args:
        collectible_metrics: The kinds of metrics to gather; None: all. Numbers of tasks and processes, and the memory
            of processes are gathered in any case.
        qsize_collect_period: Seconds between two readings of the lengths of the queues.
    """

    def __init__(
        self, collectible_metrics: Iterable[MetricsTypes | str] | None = None, qsize_collect_period: float = 1.0
    ) -> None:
        kinds = MetricsTypes if collectible_metrics is None else collectible_metrics
        self._metrics = AqueductMetricsStorage()
        self._collectible_metrics = [MetricsTypes(kind) for kind in kinds]
        self.qsize_collect_period = qsize_collect_period

    def is_collectible(self, metrics_type: MetricsTypes) -> bool:
        """Tell whether a kind of metrics is gathered.

        Args:
            metrics_type: The kind.
        """
        return metrics_type in self._collectible_metrics

    def add_queue_sizes(self, metrics: MetricsItems) -> None:
        """Add numbers of tasks in queues.

        Args:
            metrics: The numbers, each with the name of the queue.
        """
        self._metrics.queue_sizes.extend(metrics)

    def add_task_metrics(self, metrics: TasksMetricsStorage) -> None:
        """Add times and sizes of tasks.

        Args:
            metrics: The times and sizes.
        """
        self._metrics.extend(metrics)

    def add_tasks_stats(self, stats: TasksStats) -> None:
        """Add numbers of ended tasks.

        Args:
            stats: The numbers.
        """
        self._metrics.tasks_stats.extend(stats)

    def add_memory_usage(self, metrics: MetricsItems) -> None:
        """Add bytes of memory.

        Args:
            metrics: The bytes, each with the name of a step.
        """
        self._metrics.memory_usage.extend(metrics)

    def add_processes_stats(self, stats: ProcessesStats) -> None:
        """Add numbers of processes.

        Args:
            stats: The numbers.
        """
        self._metrics.processes_stats.extend(stats)

    def extract_metrics(self) -> AqueductMetricsStorage:
        """Return what was gathered since the last call."""
        metrics, self._metrics = self._metrics, AqueductMetricsStorage()
        return metrics
