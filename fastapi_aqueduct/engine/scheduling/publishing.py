"""Publishes the times of tasks that have ended, to exporters of single times."""

from __future__ import annotations

import time
from collections.abc import Collection

from ...logger import log
from ...reports import StepRecord, Subscriber, TaskRecord
from .ticket import Ticket


def publish(ticket: Ticket, outcome: str, subscribers: Collection[Subscriber], flow: str) -> None:
    """Call each subscriber with the record of a task.

    Args:
        ticket: The task, which ends now.
        outcome: How it ends.
        subscribers: The functions. Their exceptions are logged, so that the task ends in any case.
        flow: Name of the flow.
    """
    steps = tuple([StepRecord(*step) for step in ticket.metrics])
    record = TaskRecord(
        *(ticket.id, ticket.task, outcome, ticket.started_at, time.monotonic()),
        *(steps, ticket.priority, len(ticket.content.body)),
    )
    for subscriber in list(subscribers):
        try:
            subscriber(record)
        except Exception:
            log.exception("a subscriber to the tasks of flow %s has failed", flow)
