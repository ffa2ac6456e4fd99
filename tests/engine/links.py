"""Links to workers that are no processes: the tests say what they were given and how long it took them."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

from fastapi_aqueduct.engine.statistics import WorkerState
from fastapi_aqueduct.engine.workers.handle import WorkerLink

BATCH = 4
"""The most tasks in one call."""


class Waiting:
    """What is handed over; the link only notes in it that it was."""

    is_waiting = True
    holder = 0
    sent_at = 0.0


@contextlib.contextmanager
def ready_link() -> Iterator[WorkerLink]:
    """Make the link of a worker that is ready."""
    ours, theirs = socket.socketpair()
    with theirs:
        link = WorkerLink(0, "step", 1, ours, BATCH, None, lambda region: 0.0, lambda *args: None, lambda link: None)
        link.state = WorkerState.READY
        yield link
        link.close()


def work(link: WorkerLink, *durations: float) -> None:
    """Hand over one batch after the other, each answered at once and said to have taken so many seconds."""
    for duration in durations:
        hand_over(link, 0.0)
        link.take_back(duration, 0.0)


def hand_over(link: WorkerLink, now: float) -> None:
    """Hand over a batch."""
    link.put(cast(Any, [Waiting() for _ in range(BATCH)]), now)
