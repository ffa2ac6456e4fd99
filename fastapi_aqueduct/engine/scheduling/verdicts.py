"""What is said of tasks that have no chance: one wording, wherever they are refused."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from ...exceptions import DeadlineUnreachable, QueueFull, StepUnavailable, TenantOverShare
from ...task import BaseTask
from ..refusals import Refusals


class Absence(NamedTuple):
    """A step without a ready worker.

    Attributes:
        step: Its name.
        wait: Seconds until a worker is expected; while the step is asleep, after it is woken.
        was_asleep: Whether it is asleep, or was and has no ready worker yet.
    """

    step: str
    wait: float
    was_asleep: bool


class Verdicts:
    """Makes the errors of tasks that are refused, and counts them.

    Args:
        flow: Name of the flow.
        refusals: Counts them.
    """

    def __init__(self, flow: str, refusals: Refusals) -> None:
        self._flow = flow
        self._refusals = refusals

    def judge_absences(self, absences: Iterable[Absence], timeout: float, patience: float) -> None:
        """Refuse a task if one of its steps will have no ready worker in time.

        Args:
            absences: Those of its steps that have none.
            timeout: Seconds that the task has.
            patience: Seconds that it may wait for a worker of a step that has lost its own.

        Raises:
            DeadlineUnreachable: A step that sleeps or wakes needs longer to start.
            StepUnavailable: No worker is expected so soon in a step that has lost its own.
        """
        for absence in absences:
            wait = absence.wait
            if absence.was_asleep and wait > timeout:
                raise self._refusals.count(
                    DeadlineUnreachable(
                        f"step {absence.step} of flow {self._flow} was asleep and starts in about {wait:.1f} s; a task "
                        f"has {timeout:g} s",
                        retry_after=wait,
                    )
                )
            if not absence.was_asleep and wait > patience:
                raise self._refusals.count(
                    StepUnavailable(
                        f"step {absence.step} of flow {self._flow} has no ready worker; one is expected in {wait:.1f} "
                        "s",
                        retry_after=wait,
                    )
                )

    def full(self, step: str, waiting: int, expected: float) -> QueueFull:
        """Return the error for a task for which there is no place in the queue.

        Args:
            step: Name of the step.
            waiting: Tasks that wait at its level.
            expected: Seconds that a task should take.
        """
        return self._refusals.count(
            QueueFull(
                f"{waiting} tasks wait for step {step} of flow {self._flow}; its queue is full",
                retry_after=max(1.0, expected),
            )
        )

    def over_share(self, step: str, waiting: int, expected: float) -> TenantOverShare:
        """Return the error for a task whose tenant has as many tasks in the queue as it may.

        Args:
            step: Name of the step.
            waiting: Tasks of the tenant that wait at the level of the task.
            expected: Seconds that a task of the tenant should take.
        """
        # Without the tenant: its name may be a secret, such as an API key.
        return self._refusals.count(
            TenantOverShare(
                f"{waiting} tasks of one tenant wait for step {step} of flow {self._flow}, its share of the queue",
                retry_after=max(1.0, expected),
            )
        )

    def late(self, expected: float, timeout: float) -> DeadlineUnreachable:
        """Return the error for a task that would take longer than it may.

        Args:
            expected: Seconds until the answer, as expected.
            timeout: Seconds until its deadline.
        """
        return self._refusals.count(
            DeadlineUnreachable(
                f"a task of flow {self._flow} would take about {expected:.1f} s now and has {timeout:g} s",
                retry_after=max(1.0, expected - timeout),
            )
        )


def concerns(condition: Callable[[Any], object], was_asleep: bool, task: BaseTask | None) -> bool:
    """Tell whether a step without a ready worker matters to a task; one that was asleep does if it will be visited.

    Args:
        condition: The ``handle_condition`` of the step.
        was_asleep: As in `Absence`.
        task: The task; None before there is one, when only steps without a condition are sure to be visited.
    """
    if condition is operator.truth or not was_asleep:
        return True
    if task is None:
        return False
    try:
        return bool(condition(task))
    except Exception:  # it needs what an earlier step sets, and is asked again after that
        return False
