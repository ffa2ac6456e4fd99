"""What is reported of a task beside its fields: its progress, and its times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from .replaced import explain_members

RawStep = tuple[str, int, float, float, float, float, int, int, int]
"""The fields of a `StepRecord`. A task gets one for each step, and most are never read, so it stays a plain tuple."""


@dataclass(frozen=True)
class Progress:
    """A report of ``task.progress``, among the items of a stream.

    Attributes:
        done: What is done, in any unit.
        of: All that is to be done, in the same unit.
    """

    done: float
    of: float


@dataclass(frozen=True)
class TaskPair:
    """What two handlers have made of the same task: one that serves, and one that is tried out as a shadow.

    Attributes:
        baseline: The task with the fields that the caller gets; or the exception of its handler.
        candidate: The same of the shadow.
        baseline_time: Seconds of the call of the handler, which may have been for a batch.
        candidate_time: The same of the shadow.
    """

    baseline: Any
    candidate: Any
    baseline_time: float
    candidate_time: float


class StepMetrics(NamedTuple):
    """The time that one task spent in one step.

    Attributes:
        step: Name of the step.
        queue_time: Seconds from the arrival at the step to the answer, without `handle_time`: waiting in the queue, in
            the worker behind other tasks and for the batch to fill, and the transport to and from the worker.
        handle_time: Seconds that the handler took for the task's batch; of a generator the sum of its own turns.
        batch_size: Number of tasks in that batch.
        version: The version of the handler: 1, and one more with each replacement.
    """

    step: str
    queue_time: float
    handle_time: float
    batch_size: int
    version: int = 1


@explain_members("metrics.task.TaskMetrics")
class TaskMetrics(NamedTuple):
    """The time that a finished task spent in its flow.

    Attributes:
        steps: The steps that it visited, in order.
        total_time: Seconds from ``Flow.process`` to the answer.
    """

    steps: tuple[StepMetrics, ...] = ()
    total_time: float = 0.0

    @classmethod
    def of(cls, steps: Iterable[RawStep], total_time: float) -> TaskMetrics:
        """Make them from the fields of the `StepRecord` of each step."""
        return cls(tuple([StepRecord(*step).metrics for step in steps]), total_time)


class StepRecord(NamedTuple):
    """A visit of a task to a step that ended with an answer. The times are on the clock of ``time.monotonic``.

    Attributes:
        step: Name of the step.
        pid: Process id of the worker.
        arrived_at: When the task arrived at the step.
        sent_at: When it was sent to the worker.
        answered_at: When its answer came.
        handle_time: As of `StepMetrics`.
        batch_size: As of `StepMetrics`.
        sent_size: Bytes of the task as it was sent to the worker, without those in shared memory.
        version: As of `StepMetrics`.
    """

    step: str
    pid: int
    arrived_at: float
    sent_at: float
    answered_at: float
    handle_time: float
    batch_size: int
    sent_size: int
    version: int = 1

    @property
    def metrics(self) -> StepMetrics:
        """The same as durations."""
        queue_time = self.answered_at - self.arrived_at - self.handle_time
        return StepMetrics(self.step, queue_time, self.handle_time, self.batch_size, self.version)


class TaskRecord(NamedTuple):
    """A task that has ended, for ``Flow.subscribers``. The times are on the clock of ``time.monotonic``.

    Attributes:
        number: Its number in the flow, which log records carry as ``task_id``.
        task: The caller's own object. It holds shared memory, so keep no reference to it.
        outcome: ``"completed"``, ``"failed"``, ``"timed_out"`` or ``"cancelled"``.
        started_at: When the call of the flow began.
        ended_at: When the task ended.
        steps: The steps that have answered it, in order; one that was tried again counts once.
        priority: Its level in the queues.
        answer_size: Bytes of the last answer, as for `StepRecord.sent_size`.
    """

    number: int
    task: Any
    outcome: str
    started_at: float
    ended_at: float
    steps: tuple[StepRecord, ...]
    priority: int
    answer_size: int


Subscriber = Callable[[TaskRecord], object]
"""Gets the record of each task that ends, in the event loop of the flow."""
