"""What is reported of a task beside its fields: its progress, and its times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True)
class Progress:
    """A report of ``task.progress``, among the items of a stream.

    Attributes:
        done: What is done, in any unit.
        of: All that is to be done, in the same unit.
    """

    done: float
    of: float


class StepMetrics(NamedTuple):
    """The time that one task spent in one step.

    Attributes:
        step: Name of the step.
        queue_time: Seconds from the arrival at the step to the answer, without `handle_time`: waiting in the queue, in
            the worker behind other tasks and for the batch to fill, and the transport to and from the worker.
        handle_time: Seconds that the handler took for the task's batch; of a generator the sum of its own turns.
        batch_size: Number of tasks in that batch.
    """

    step: str
    queue_time: float
    handle_time: float
    batch_size: int


class TaskMetrics(NamedTuple):
    """The time that a finished task spent in its flow.

    Attributes:
        steps: The steps that it visited, in order.
        total_time: Seconds from ``Flow.process`` to the answer.
    """

    steps: tuple[StepMetrics, ...] = ()
    total_time: float = 0.0
