"""The times and sizes that were measured of tasks."""

from __future__ import annotations

from ..replaced import explain_names
from .base import IExtendable, MetricsItems

explain_names(__name__)


class TasksMetricsStorage(IExtendable):
    """Times and sizes of tasks, each with the name of the step or of the way between two steps.

    Attributes:
        transfer_times: Seconds from one step to the next, with the time in the queue.
        task_sizes: Bytes that travelled from one step to the next, without shared memory.
        handle_times: Seconds that the handler took; of each task ``total``, too.
        batch_times: Seconds for which a batch waited for further tasks.
        batch_sizes: Number of tasks in a batch.
    """

    def __init__(self) -> None:
        self.transfer_times = MetricsItems()
        self.task_sizes = MetricsItems()
        self.handle_times = MetricsItems()
        self.batch_times = MetricsItems()
        self.batch_sizes = MetricsItems()

    def extend(self, obj: TasksMetricsStorage) -> None:
        """Add other times and sizes.

        Args:
            obj: The other times and sizes.
        """
        self.transfer_times.extend(obj.transfer_times)
        self.task_sizes.extend(obj.task_sizes)
        self.handle_times.extend(obj.handle_times)
        self.batch_times.extend(obj.batch_times)
        self.batch_sizes.extend(obj.batch_sizes)
