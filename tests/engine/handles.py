"""Handles of workers without a process: the tests say what they were given and how long it took them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.workers.handle import WorkerHandle

BATCH = 4
"""The most tasks in one call."""


class Waiting:
    """What is handed over; the worker only notes in it that it was."""

    is_waiting = True
    holder = 0
    sent_at = 0.0


@contextlib.contextmanager
def ready_worker() -> Iterator[WorkerHandle]:
    """Make the handle of a worker that is ready."""
    ours, theirs = socket.socketpair()
    with theirs:
        worker = WorkerHandle(0, "step", 1, ours, BATCH, None, lambda _: 0.0, print, print)
        worker.state = WorkerState.READY
        yield worker
        worker.close()


def work(worker: WorkerHandle, *durations: float) -> None:
    """Hand over one batch after the other, each answered at once and said to have taken so many seconds."""
    for duration in durations:
        hand_over(worker, 0.0)
        worker.take_back(duration, 0.0)


def hand_over(worker: WorkerHandle, now: float) -> None:
    """Hand over a batch."""
    worker.put(cast(Any, [Waiting() for _ in range(BATCH)]), now)
